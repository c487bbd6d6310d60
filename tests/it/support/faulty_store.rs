//! An S3 server as it is on a bad day: between a program and the real one, request by request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::s3;

/// Its threads end with the process.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    port: u16,
    day: Arc<Day>,
}

#[derive(Debug)]
struct Day {
    /// Of a hundred requests so many go wrong.
    share: AtomicU32,
    expired: AtomicU32,
    random: Mutex<StdRng>,
    faults: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Refused before anything is done.
    Refused(&'static str, &'static str),
    /// Done, and answered as if it had failed.
    Denied,
    /// Done, and not answered.
    Silent,
    /// Done, late.
    Slow,
}

const FAULTS: [Fault; 5] = [
    Fault::Refused("503 Slow Down", "SlowDown"),
    Fault::Refused("500 Internal Server Error", "InternalError"),
    Fault::Denied,
    Fault::Silent,
    Fault::Slow,
];

impl FaultyStore {
    /// In front of the server that all tests share; well at first.
    pub(crate) fn start(seed: u64) -> FaultyStore {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let day = Arc::new(Day {
            share: AtomicU32::new(0),
            expired: AtomicU32::new(0),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: AtomicU64::new(0),
        });
        let (serving, target) = (Arc::clone(&day), s3().port());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let day = Arc::clone(&serving);
                // A client that goes away is no fault of ours.
                thread::spawn(move || day.serve(client, target).ok());
            }
        });
        FaultyStore { port, day }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on so many of a hundred requests go wrong.
    pub(crate) fn fail(&self, share: u32) {
        self.day.share.store(share, Ordering::SeqCst);
    }

    /// From now on every request's credentials are too old, or are good again.
    pub(crate) fn expire(&self, expired: bool) {
        self.day.expired.store(u32::from(expired), Ordering::SeqCst);
    }

    /// How many requests have gone wrong.
    pub(crate) fn faults(&self) -> u64 {
        self.day.faults.load(Ordering::SeqCst)
    }
}

impl Day {
    /// One request of a connection; the next needs another connection.
    fn serve(&self, mut client: TcpStream, target: u16) -> std::io::Result<()> {
        let request = read_request(&mut client)?;
        if self.expired.load(Ordering::SeqCst) != 0 {
            self.faults.fetch_add(1, Ordering::SeqCst);
            return answer(&mut client, "400 Bad Request", "ExpiredToken");
        }
        let fault = {
            let mut random = self.random.lock().unwrap();
            let fails = random.random_range(0..100) < self.share.load(Ordering::SeqCst);
            fails.then(|| FAULTS[random.random_range(0..FAULTS.len())])
        };
        self.faults.fetch_add(u64::from(fault.is_some()), Ordering::SeqCst);
        match fault {
            Some(Fault::Refused(status, code)) => return answer(&mut client, status, code),
            Some(Fault::Slow) => thread::sleep(Duration::from_millis(700)),
            _ => {}
        }
        let mut server = TcpStream::connect(("127.0.0.1", target))?;
        server.write_all(&request)?;
        let mut response = Vec::new();
        server.read_to_end(&mut response)?;
        match fault {
            Some(Fault::Denied) => answer(&mut client, "500 Internal Server Error", "InternalError"),
            Some(Fault::Silent) => Ok(()),
            _ => client.write_all(&response),
        }
    }
}

fn answer(client: &mut TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a bad day</Message></Error>");
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n", body.len());
    client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

/// A request, made one that ends its connection.
fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        read_some(client, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let value = |name: &str| {
        let (_, value) =
            head.lines().filter_map(|line| line.split_once(':')).find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        value.trim().parse::<usize>().ok()
    };
    let length = end + 4 + value("content-length").unwrap_or(0);
    while bytes.len() < length {
        read_some(client, &mut bytes)?;
    }
    let mut request = format!("{head}\r\nConnection: close\r\n\r\n").into_bytes();
    request.extend(&bytes[end + 4..]);
    Ok(request)
}

fn read_some(client: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut some = [0; 64 << 10];
    match client.read(&mut some)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => {
            bytes.extend(&some[..length]);
            Ok(())
        }
    }
}
