//! What comes over HTTP: pages, noise, attacks, and who is let in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scene, TOKEN, USERS, Web, encoded, program};
use crate::support::{PATIENCE, Program, Site};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_probes_are_answered_under_a_strict_policy() {
    let scene = Scene::open().await;
    let web = scene.web;
    for path in ["/", "/transaction", "/row", "/table", "/differences", "/sql", "/health?x=1"] {
        let page = web.get(path);
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        assert!(page.body.contains("<script type=\"module\" src=\"/console.js\"></script>"), "{}", page.body);
        assert!(!page.body.contains(" style=") && !page.body.contains("<style"), "{}", page.body);
    }
    for path in
        ["/", "/console.js", "/console.css", "/early.js", "/icon.svg", "/livez", "/api/me", "/nothing", "/api/nothing"]
    {
        let answer = web.get(path);
        assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    assert_eq!(web.get("/livez").body, "ok\n");
    assert_eq!(web.get("/metrics").status, 200);
    assert!(!web.get("/metrics").body.contains("afterimage_publications_total"), "no archiver counts here");
    for path in ["/nothing", "/api/", "/api/nothing", "/../etc/passwd", "/%2e%2e/etc/passwd", "/web/dist/index.html"] {
        assert_eq!(web.get(path).status, 404, "{path}");
    }
    assert_eq!(web.with("POST", "/", &[], "").status, 405);
    assert_eq!(web.with("POST", "/api/me", &[], "").status, 405);
    assert_eq!(web.get("/api/sql").status, 405);
    let head = web.with("HEAD", "/console.js", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_attacks_are_refused_and_it_goes_on() {
    let scene = Scene::open().await;
    let web = scene.web;
    let host = format!("host: {}\r\n", web.0);
    let long = "a".repeat(64 << 10);
    let attacks: Vec<(Vec<u8>, &[u16])> = vec![
        (b"\0\x01\x02\xff\xfe\r\n\r\n".to_vec(), &[400]),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        (format!("GET /{long} HTTP/1.1\r\n{host}\r\n").into_bytes(), &[431, 0]),
        (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "a: b\r\n".repeat(100)).into_bytes(), &[431]),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n").into_bytes(), &[400]),
        (format!("GET / HTTP/1.1\r\n{host}content-length: 5\r\n\r\nhello").into_bytes(), &[400]),
        (format!("POST /api/sql HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(), &[501]),
        (
            format!("POST /api/sql HTTP/1.1\r\n{host}content-length: 3\r\ncontent-length: 4\r\n\r\n{{}}").into_bytes(),
            &[400],
        ),
        (format!("POST /api/sql HTTP/1.1\r\n{host}content-length: 99999999\r\n\r\n").into_bytes(), &[413]),
        (format!("POST /api/sql HTTP/1.1\r\n{host}content-length: -1\r\n\r\n").into_bytes(), &[400]),
        (format!("GET /\r\nx-injected: 1 HTTP/1.1\r\n{host}\r\n").into_bytes(), &[400]),
        (format!("GET http://elsewhere/ HTTP/1.1\r\n{host}\r\n").into_bytes(), &[400]),
        (format!("CONNECT elsewhere:80 HTTP/1.1\r\n{host}\r\n").into_bytes(), &[400, 405]),
        (format!("TRACE / HTTP/1.1\r\n{host}\r\n").into_bytes(), &[405]),
        (format!("OPTIONS /api/sql HTTP/1.1\r\n{host}origin: http://evil.example\r\n\r\n").into_bytes(), &[405]),
        (format!("GET / HTTP/1.1\r\n{host}\r\nGET /api/me HTTP/1.1\r\n{host}\r\n").into_bytes(), &[400]),
    ];
    for (bytes, statuses) in attacks {
        let answer = web.raw(&bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert!(statuses.contains(&answer.status), "{shown:?}: {}", answer.head);
    }
    // Numbers, names and points that are none.
    let wrong = [
        "/api/timeline?from=x",
        "/api/timeline?from=9&to=3",
        "/api/timeline?from=-5&to=3",
        "/api/timeline?bars=nine",
        "/api/timeline?from=99999999999999999999",
        "/api/timeline?to=9223372036854775807",
        "/api/timeline?table=%22",
        "/api/transactions?order=sideways",
        "/api/transactions?op=explode",
        "/api/transaction",
        "/api/transaction?txn=x'--",
        "/api/changes?txn=1&name=a.b.c.d",
        "/api/row?name=orders",
        "/api/row?name=orders&key=1&key=2",
        "/api/state?at=yesterday&name=orders",
        "/api/state?name=orders&where=)",
        "/api/state?name=orders&where=1=1)%20UNION%20SELECT%201",
        "/api/differences?name=orders",
    ];
    for path in wrong {
        let answer = web.get(path);
        assert!([400, 404, 409].contains(&answer.status), "{path}: {} {}", answer.head, answer.body);
        let said: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(said["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{path}: {said}");
    }
    assert_eq!(web.get("/api/timeline?from=0&to=1&bars=0").status, 200);
    for body in ["", "{", "[]", "{\"sql\": 1}", "\0", "null"] {
        assert_eq!(web.with("POST", "/api/sql", &[], body).status, 400, "{body:?}");
    }
    // Many who say nothing keep nobody else out for long, and whoever goes away is not waited for.
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(web.0).unwrap()).collect();
    assert_eq!(web.get("/livez").status, 200);
    drop(silent);
    let mut slow = TcpStream::connect(web.0).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    slow.write_all(b"GET / HTT").unwrap();
    let began = Instant::now();
    let mut nothing = Vec::new();
    slow.read_to_end(&mut nothing).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "it is cut off");
    assert_eq!(web.get("/api/me").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_and_other_peoples_pages_are_turned_away() {
    let scene = Scene::open().await;
    let web = scene.web;
    let port = web.0.port();
    for name in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"] {
        for path in ["/", "/api/me", "/console.js"] {
            web.with("GET", path, &[("host", &format!("{name}:{port}"))], "").refused(421);
        }
    }
    assert_eq!(web.with("GET", "/api/me", &[("host", &format!("localhost:{port}"))], "").status, 200);
    let asked = |headers: &[(&str, &str)]| web.with("POST", "/api/sql", headers, "{\"sql\": \"SELECT 1\"}").status;
    assert_eq!(asked(&[]), 200);
    assert_eq!(asked(&[("origin", "http://evil.example")]), 403);
    assert_eq!(asked(&[("origin", "null")]), 403);
    assert_eq!(asked(&[("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(asked(&[("origin", &web.url()), ("sec-fetch-site", "same-origin")]), 200);
    assert_eq!(web.with("GET", "/api/me", &[("sec-fetch-site", "cross-site")], "").status, 403);
    // A link from a chat opens a page.
    assert_eq!(web.with("GET", "/", &[("sec-fetch-site", "cross-site")], "").status, 200);
    let form = format!(
        "POST /api/sql HTTP/1.1\r\nhost: {}\r\ncontent-type: text/plain\r\ncontent-length: 19\r\n\r\n{{\"sql\": \"SELECT 1\"}}",
        web.0
    );
    web.raw(form.as_bytes()).refused(415);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_proxies_let_people_in_and_nobody_else() {
    let scene = Scene::closed().await;
    let web = scene.web;
    assert_eq!(web.get("/").status, 200, "the page by itself tells nothing");
    for path in ["/api/me", "/api/tables", "/api/timeline", "/api/health", "/api/transactions"] {
        web.get(path).refused(401);
        web.get_as("0123456789abcdef", path).refused(401);
    }
    assert_eq!(web.get_as(TOKEN, "/api/me").json()["user"], "auditor");
    let began = Instant::now();
    web.with("POST", "/api/login", &[], &json!({ "token": "guessed-by-somebody" }).to_string()).refused(401);
    assert!(began.elapsed() >= Duration::from_millis(400), "guessing is slow");
    let welcome = web.with("POST", "/api/login", &[], &json!({ "token": TOKEN }).to_string());
    assert_eq!(welcome.status, 204);
    let cookie = welcome.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let kept = cookie.split(';').next().unwrap();
    assert_eq!(web.with("GET", "/api/me", &[("cookie", kept)], "").json()["user"], "auditor");
    let farewell = web.with("POST", "/api/logout", &[("cookie", kept)], "{}");
    assert!(farewell.header("set-cookie").unwrap().contains("Max-Age=0"), "{}", farewell.head);
    // A header that no proxy was named for names nobody.
    web.with("GET", "/api/me", &[("x-forwarded-user", "auditor")], "").refused(401);

    let proxied = format!("[serve]\nhttp_user_header = \"X-Forwarded-User\"\n{USERS}");
    let Scene { database, directory, server, .. } = scene;
    drop(server);
    let scene = Scene::serve(database, directory, &proxied, &[]);
    let named = |name: &str| scene.web.with("GET", "/api/me", &[("x-forwarded-user", name)], "");
    assert_eq!(named("tenant").json()["user"], "tenant");
    named("stranger").refused(403);
    scene.web.get("/api/me").refused(401);
    let Scene { database, directory, server, .. } = scene;
    drop(server);
    let elsewhere = proxied.replace("[serve]\n", "[serve]\nhttp_proxies = [\"192.0.2.1\"]\n");
    let scene = Scene::serve(database, directory, &elsewhere, &[]);
    scene.web.with("GET", "/api/me", &[("x-forwarded-user", "auditor")], "").refused(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_listen_to_others_without_asking_who_they_are() {
    let scene = Scene::open().await;
    let (database, directory) = (&scene.database, &scene.directory);
    let run = |config: &str| program(database, directory, config, &["--http", "0.0.0.0:0"]);
    let end = run("").run(PATIENCE).expect(2);
    assert!(end.stderr.contains("ask nobody who they are") && end.stderr.contains("token_file"), "{}", end.stderr);
    std::fs::write(directory.join("short"), "tooshort").unwrap();
    let weak = "[[serve.user]]\nname = \"a\"\ntoken_file = \"short\"\n";
    assert!(run(weak).run(PATIENCE).expect(2).stderr.contains("the token is not of"));
    let twice = "[[serve.user]]\nname = \"a\"\ntoken_file = \"auditor\"\n[[serve.user]]\nname = \"b\"\ntoken_file = \"auditor\"\n";
    assert!(run(twice).run(PATIENCE).expect(2).stderr.contains("the same token"));
    let encrypted = format!("[serve]\nrequire_tls = true\n{USERS}");
    assert!(run(&encrypted).run(PATIENCE).expect(2).stderr.contains("there is no certificate"));
    // An archiver that answers probes for others goes on, and shows no rows there.
    let site = Site::local(database, directory);
    let archiver = site.command(["run", "--http", "0.0.0.0:0"]).start().streaming();
    assert!(archiver.stderr().contains("only probes are answered"), "{}", archiver.stderr());
    let said = archiver.stderr();
    let port = said.split("answering http://0.0.0.0:").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let web = Web(format!("127.0.0.1:{port}").parse().unwrap());
    assert_eq!((web.get("/livez").status, web.get("/").status, web.get("/api/me").status), (200, 404, 404));
    drop(archiver);
    let archiver = site.command(["run", "--http", "127.0.0.1:0"]).start().streaming();
    let web = Web(super::address(&archiver));
    assert_eq!((web.get("/livez").status, web.get("/").status, web.get("/api/me").status), (200, 200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_travels_encrypted_where_there_is_a_certificate() {
    let scene = Scene::open().await;
    let (directory, database) = (&scene.directory, &scene.database);
    std::fs::write(directory.join("certificate.pem"), crate::support::CERTIFICATE).unwrap();
    std::fs::write(directory.join("key.pem"), crate::support::KEY).unwrap();
    let config =
        format!("[serve]\ntls_certificate = \"certificate.pem\"\ntls_key = \"key.pem\"\nrequire_tls = true\n{USERS}");
    let server = super::start(database, directory, &config, &["--http", "0.0.0.0:0"]);
    let port =
        || server.stderr().split("the console is at https://0.0.0.0:").nth(1)?.lines().next()?.parse::<u16>().ok();
    crate::support::wait_for("it listens", PATIENCE, || port().is_some());
    let script = "import json, ssl, sys, urllib.request
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
def ask(path, **more): return urllib.request.urlopen(urllib.request.Request(sys.argv[1] + path, **more), context=context)
login = ask('/api/login', data=json.dumps({'token': sys.argv[2]}).encode(), headers={'content-type': 'application/json'})
print('Secure' in login.headers['set-cookie'])
print(json.load(ask('/api/me', headers={'authorization': 'Bearer ' + sys.argv[2]}))['user'])";
    let url = format!("https://127.0.0.1:{}", port().unwrap());
    assert_eq!(crate::support::python(script, [url.as_str(), TOKEN]), "True\nauditor\n");
    assert_eq!(Web(format!("127.0.0.1:{}", port().unwrap()).parse().unwrap()).get("/").status, 0, "not in the clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_asked_and_nothing_is_written() {
    let scene = Scene::open().await;
    let archiver = scene.site().stream();
    let web = scene.web;
    let rows = |table: &str| format!("SELECT string_agg(t::text, ',' ORDER BY t::text) FROM {table} t");
    let state = async || {
        let client = scene.database.connect().await;
        let mut told = Vec::new();
        for sql in [rows("orders"), rows("colours"), "SELECT count(*)::text FROM pg_class".to_owned()] {
            told.push(client.query_one(&sql, &[]).await.unwrap().get::<_, Option<String>>(0));
        }
        told
    };
    let before = state().await;
    let found = web.get("/api/transactions?op=delete").json();
    let lost = &found["transactions"][0];
    assert_eq!(lost["counts"], json!([0, 0, 2, 0]));
    let lsn = lost["lsn"].as_str().unwrap();
    let txn = encoded(lsn);
    let header = web.get(&format!("/api/transaction?txn={txn}")).json();
    assert_eq!(header["commands"]["apply"], format!("afterimage restore --undo {lsn} --apply"));
    let changes = web.get(&format!("/api/changes?txn={txn}&name=orders")).json();
    assert_eq!(changes["rows"][0]["old"], json!(["7", "2", "secret of 2"]));
    assert_eq!(changes["rows"][0]["new"], json!(null));
    let row = web.get("/api/row?name=people&key=1").json();
    assert_eq!(row["versions"][0]["new"], json!(["1", "after"]));
    assert_eq!(row["versions"][0]["old"], json!(["1", "before"]));
    assert_eq!(row["blame"][0]["set_by"], json!(null), "older than the archive");
    assert_eq!(row["blame"][1]["set_by"]["op"], "update");
    let then = web.get(&format!("/api/state?name=orders&at={}", encoded(&format!("before:{lsn}")))).json();
    let now = web.get("/api/state?name=orders&where=organization_id%3D1").json();
    assert_eq!((&then["count"], &now["count"]), (&json!(10), &json!(4)));
    let between = web.get(&format!("/api/differences?name=orders&from={}", encoded(&format!("before:{lsn}")))).json();
    assert_eq!(between["counts"], json!([0, 0, 2, 0]));
    let health = web.get("/api/health").json();
    assert_eq!(health["vitals"]["source"]["slot"]["wal_status"], "reserved", "{health}");
    let plan = web.with("POST", "/api/plan", &[], &json!({ "txn": lsn }).to_string()).json();
    assert_eq!((&plan["rows_to_restore"], &plan["command"]), (&json!(2), &header["commands"]["apply"]), "{plan}");
    let asked =
        web.with("POST", "/api/sql", &[], &json!({ "sql": "SELECT * FROM generate_series(1, 2000)" }).to_string());
    assert_eq!((asked.json()["rows"].as_array().unwrap().len(), &asked.json()["cut"]), (1000, &json!(true)));
    for sql in ["DELETE FROM orders", "COPY orders TO '/tmp/x'", "CREATE TABLE t (id int)", "SET a = 1"] {
        web.with("POST", "/api/sql", &[], &json!({ "sql": sql }).to_string()).refused(400);
    }
    assert_eq!(state().await, before, "the source is as it was");
    assert!(!scene.directory.join("state").exists(), "no plan is saved");
    drop(archiver);
    assert_eq!(scene.site().query("SELECT count(*) AS n FROM afterimage.restores")[0]["n"], 0);
    assert_eq!(scene.site().query("SELECT count(*) AS n FROM afterimage.marks")[0]["n"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_source_it_says_so_and_shows_the_command() {
    let scene = Scene::open().await;
    let Scene { database, directory, server, .. } = scene;
    drop(server);
    let server = Program::afterimage(["serve", "--http", "127.0.0.1:0"]).archive(&directory.archive()).start();
    let web = Web(super::address(&server));
    assert_eq!(web.get("/api/me").json()["has_source"], false);
    let lsn = web.get("/api/transactions?op=delete").json()["transactions"][0]["lsn"].as_str().unwrap().to_owned();
    let refused = web.with("POST", "/api/plan", &[], &json!({ "txn": lsn }).to_string()).refused(409);
    assert!(refused.contains("no source is named"), "{refused}");
    let header = web.get(&format!("/api/transaction?txn={}", encoded(&lsn))).json();
    assert_eq!(header["commands"]["plan"], format!("afterimage restore --undo {lsn}"));
    assert_eq!(web.get("/api/health").json()["vitals"]["source"], json!(null));
    drop(database);
}
