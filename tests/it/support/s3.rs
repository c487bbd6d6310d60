//! An S3 server (moto) that honours preconditions, shared by all tests of the run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::python::executable;
use super::wait_for;

/// Ends its server when standard input ends: a static is never dropped, but its process's pipes are closed.
const WATCH: &str = r#""$@" >/dev/null 2>&1 & server=$!; read -r _; kill "$server""#;

/// The server; it ends with the process.
#[derive(Debug)]
pub(crate) struct S3 {
    port: u16,
    _shell: Child,
}

/// A bucket of one test alone.
#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    endpoint: String,
}

/// The server that all tests of the run share.
pub(crate) fn s3() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(S3::start)
}

impl S3 {
    fn start() -> S3 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shell = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(executable("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = S3 { port, _shell: shell };
        wait_for("the S3 server accepts connections", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty bucket.
    pub(crate) fn bucket(&self) -> Bucket {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let answer = self.put(&name);
        assert!(answer.starts_with("HTTP/1.1 200"), "PUT /{name}: {answer}");
        Bucket { name, endpoint: format!("http://127.0.0.1:{}", self.port) }
    }

    fn put(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request =
            format!("PUT /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Bucket {
    /// The URL of an archive in the bucket.
    pub(crate) fn archive(&self) -> String {
        format!("s3://{}/archive", self.name)
    }

    /// The usual variables that lead to the server and let in.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 5] {
        [
            ("AWS_ENDPOINT", &self.endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }
}
