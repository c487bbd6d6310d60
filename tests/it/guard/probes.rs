//! What `run --http` answers.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use regex::Regex;
use serde_json::Value as Json;

use super::Watch;
use crate::support::{Database, Directory, Program, Release, Running, postgres, wait_for};

const METRICS: &str = include_str!("../../../docs/metrics.md");

const GUARDED: &str = "[[rule]]
name = \"mass\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 100
severity = \"EMERGENCY\"
[[health]]
name = \"members \\\"here\\\"\"
sql = \"SELECT 400 - count(*) FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'\"
interval = \"500ms\"
severity = \"CRITICAL\"
";

impl Watch {
    /// Asks the archiver: the answer's first line, and its body.
    fn get(&self, path: &str) -> (String, String) {
        get(&self.archiver, path)
    }
}

fn get(archiver: &Running, path: &str) -> (String, String) {
    let said = archiver.stderr();
    let address = said.split("answering http://").last().and_then(|rest| rest.split('/').next()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_until_a_level_fails_and_says_which() {
    let watch = Watch::begin(Release::System, GUARDED).await;
    assert_eq!(watch.get("/livez"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    assert_eq!(watch.get("/nothing").0, "HTTP/1.1 404 Not Found");
    wait_for("it is ready", Duration::from_secs(30), || watch.get("/readyz").0 == "HTTP/1.1 200 OK");
    let ready: Json = serde_json::from_str(&watch.get("/readyz").1).unwrap();
    let levels: BTreeSet<&str> =
        ready["findings"].as_array().unwrap().iter().map(|one| one["level"].as_str().unwrap()).collect();
    for level in ["connection", "slot", "publication", "definitions", "archive", "alerts"] {
        assert!(levels.contains(level), "{level}: {ready}");
    }
    watch.database.run("ALTER PUBLICATION afterimage RENAME TO gone").await;
    wait_for("it is not ready", Duration::from_secs(60), || {
        watch.get("/readyz").0 == "HTTP/1.1 503 Service Unavailable"
    });
    let not: Json = serde_json::from_str(&watch.get("/readyz").1).unwrap();
    let failed = not["findings"].as_array().unwrap().iter().find(|one| one["state"] == "failed").unwrap();
    assert!(failed["remedy"].is_string(), "{not}");
    assert_eq!(watch.get("/livez").0, "HTTP/1.1 200 OK", "restarting it would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_while_the_first_base_image_is_taken() {
    let database = Database::create(postgres(Release::System)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    database.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 8000) i").await;
    let directory = Directory::new();
    let archiver = Program::afterimage(["run", "--http", "127.0.0.1:0", "--throttle", "2MB/s"]);
    let archiver = archiver.source(&database).archive(&directory.archive()).start();
    wait_for("it answers", Duration::from_secs(60), || archiver.stderr().contains("/livez while"));
    assert_eq!(get(&archiver, "/livez"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    assert_eq!(get(&archiver, "/readyz").0, "HTTP/1.1 503 Service Unavailable");
    wait_for("it is ready", Duration::from_secs(60), || {
        archiver.stderr().contains("/readyz and /metrics") && get(&archiver, "/readyz").0 == "HTTP/1.1 200 OK"
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_that_are_documented_and_say_what_is() {
    let watch = Watch::begin(Release::System, GUARDED).await;
    watch.database.run("DELETE FROM core_relationships WHERE id <= 1500").await;
    watch.alert_of("mass");
    let value = |metrics: &str, sample: &str| -> Option<f64> {
        metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    };
    let ill = "afterimage_health_ok{check=\"members \\\"here\\\"\"}";
    let mut metrics = String::new();
    wait_for("the metrics have it all", Duration::from_secs(60), || {
        metrics = watch.get("/metrics").1;
        value(&metrics, ill) == Some(0.0)
            && value(&metrics, "afterimage_alerts_open{severity=\"EMERGENCY\"}") == Some(1.0)
            && value(&metrics, "afterimage_changes_total").is_some_and(|changes| changes >= 1500.0)
            && value(&metrics, "afterimage_lsn_bytes{step=\"acknowledged\"}").is_some_and(|lsn| lsn > 0.0)
            && metrics.contains("afterimage_freshness_seconds")
    });
    assert_eq!(value(&metrics, "afterimage_slot_active"), Some(1.0), "{metrics}");
    assert_eq!(value(&metrics, "afterimage_health_value{check=\"members \\\"here\\\"\"}"), Some(30.0), "{metrics}");
    let files = "afterimage_files{table=\"public.core_relationships\",kind=\"images\"}";
    assert_eq!(value(&metrics, files), Some(1.0), "{metrics}");
    let line =
        Regex::new(r#"^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)*\})? -?[0-9.e+-]+)$"#).unwrap();
    for text in metrics.lines() {
        assert!(line.is_match(text), "{text}");
    }
    let name = Regex::new(r"(?m)^# TYPE (afterimage_[a-z_]+)").unwrap();
    let told: BTreeSet<&str> = name.captures_iter(&metrics).map(|found| found.get(1).unwrap().as_str()).collect();
    let name = Regex::new(r"(?m)^\| `(afterimage_[a-z_]+)").unwrap();
    let documented: BTreeSet<&str> = name.captures_iter(METRICS).map(|found| found.get(1).unwrap().as_str()).collect();
    let missing: Vec<_> = told.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    // The room of a slot without a limit is not known.
    let silent: Vec<_> =
        documented.difference(&told).filter(|name| **name != "afterimage_slot_headroom_bytes").collect();
    assert!(silent.is_empty(), "in docs/metrics.md only: {silent:?}");
}
