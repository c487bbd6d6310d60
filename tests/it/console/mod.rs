//! The console: asked over HTTP as programs and attackers do, and looked at in a real browser.

mod browser;
mod built;
mod limits;
mod requests;
mod scale;
mod timeline;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Database, Directory, PATIENCE, Program, Release, Running, Site, postgres, wait_for};

const TOKEN: &str = "YXVkaXRvcnMtdG9rZW4";
const TENANT_TOKEN: &str = "dGVuYW50cy10b2tlbg";
const CLERK_TOKEN: &str = "Y2xlcmtzLXRva2VuLTE";

const SHOP: &str = "
CREATE TABLE orders (id int PRIMARY KEY, organization_id int NOT NULL, note text);
CREATE TABLE colours (id int PRIMARY KEY, name text);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE TABLE people (id int PRIMARY KEY, note text);
INSERT INTO people VALUES (1, 'before');
INSERT INTO orders SELECT g, 1 + g % 2, 'secret of ' || (1 + g % 2) FROM generate_series(1, 10) g;
INSERT INTO colours VALUES (1, 'red')";

/// A console over an archive; all ends with the test.
struct Scene {
    database: Database,
    directory: Directory,
    server: Running,
    web: Web,
}

impl Scene {
    /// For everybody on this machine.
    async fn open() -> Scene {
        Scene::with("", &[]).await
    }

    /// For three users: one who may see all, a tenant, and a clerk who may see one table.
    async fn closed() -> Scene {
        Scene::with(USERS, &[]).await
    }

    async fn with(config: &str, arguments: &[&str]) -> Scene {
        let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
        database.run(SHOP).await;
        let site = Site::local(&database, &directory);
        site.init();
        for sql in [
            "UPDATE orders SET note = note || ', changed' WHERE id IN (3, 4)",
            "INSERT INTO colours VALUES (2, 'blue'), (3, 'green')",
            "DELETE FROM orders WHERE id IN (7, 8)",
            "UPDATE people SET note = 'after' WHERE id = 1",
            "TRUNCATE colours",
        ] {
            database.run(sql).await;
        }
        site.catch_up();
        Scene::serve(database, directory, config, arguments)
    }

    fn serve(database: Database, directory: Directory, config: &str, arguments: &[&str]) -> Scene {
        let server = start(&database, &directory, config, arguments);
        let web = Web(address(&server));
        Scene { database, directory, server, web }
    }

    fn site(&self) -> Site<'_> {
        Site::local(&self.database, &self.directory)
    }
}

const USERS: &str = "
[[serve.user]]
name = \"auditor\"
token_file = \"auditor\"
[[serve.user]]
name = \"tenant\"
token_file = \"tenant\"
tables = [\"public.orders\"]
where = \"organization_id = 1\"
[[serve.user]]
name = \"clerk\"
token_file = \"clerk\"
tables = [\"public.colours\"]
";

fn program(database: &Database, directory: &Directory, config: &str, arguments: &[&str]) -> Program {
    for (name, token) in [("auditor", TOKEN), ("tenant", TENANT_TOKEN), ("clerk", CLERK_TOKEN)] {
        std::fs::write(directory.join(name), format!("{token}\n")).unwrap();
    }
    std::fs::write(directory.join("afterimage.toml"), config).unwrap();
    // Token files are named as from the directory that it runs in.
    let http = if arguments.contains(&"--http") { &[][..] } else { &["--http", "127.0.0.1:0"] };
    Program::afterimage([&["serve"], http, arguments].concat())
        .archive(&directory.archive())
        .source(database)
        .variable("XDG_STATE_HOME", directory.join("state").to_str().unwrap())
        .working_directory(directory.path())
}

fn start(database: &Database, directory: &Directory, config: &str, arguments: &[&str]) -> Running {
    program(database, directory, config, arguments).start()
}

fn address(server: &Running) -> SocketAddr {
    let address = || {
        let said = server.stderr();
        let (_, rest) = said.split_once("the console is at http://")?;
        rest.lines().next()?.parse().ok()
    };
    wait_for("the console listens", PATIENCE, || address().is_some());
    address().unwrap()
}

/// The console as programs ask it.
#[derive(Debug, Clone, Copy)]
struct Web(SocketAddr);

/// What it answers.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Web {
    fn url(&self) -> String {
        format!("http://{}", self.0)
    }

    /// Sends bytes as they are, and gives what comes back until the other side closes.
    fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        // It may answer, and close, before it has read all of what it refuses.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request.push_str(&format!("host: {}\r\n", self.0));
        }
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        if method == "POST" {
            request.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        self.raw(format!("{request}\r\n{body}").as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.with("GET", path, &[], "")
    }

    /// As somebody with a token.
    fn get_as(&self, token: &str, path: &str) -> Answer {
        self.with("GET", path, &[("authorization", &format!("Bearer {token}"))], "")
    }

    fn post_as(&self, token: &str, path: &str, body: &Json) -> Answer {
        self.with("POST", path, &[("authorization", &format!("Bearer {token}"))], &body.to_string())
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Json {
        assert_eq!(self.status, 200, "{}\n{}", self.head, self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    #[track_caller]
    fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self.body.clone()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A text as it stands in an address.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
