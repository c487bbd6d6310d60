//! A year of a busy database draws in under a second: a log as an archiver writes it, as long as one likes.
//! `AFTERIMAGE_SOAK_ROUNDS=100 cargo test --locked --test it -- --nocapture console::scale::soak` makes a hundred million
//! changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use afterimage::archive::{ArchiveIdentity, ArchiveWriter, FORMAT, Publication, Store};
use afterimage::model::{Commit, Lsn, OperationCounts, TableName, Transaction};
use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::Web;
use crate::support::{Directory, Program, wait_for};

/// Transactions of a round, and changes of each.
const TRANSACTIONS: u64 = 100_000;
const CHANGES: u64 = 10;
/// Rounds unless `AFTERIMAGE_SOAK_ROUNDS` says otherwise.
const ROUNDS: u64 = 2;
const YEAR: u64 = 365 * 86_400;

fn commit(number: u64, of: u64, end: DateTime<Utc>) -> Commit {
    let lsn = Lsn(1_000_000 + number * 400);
    // Spread over a year, with bursts by the hour.
    let micros = (number as f64 / of as f64 * YEAR as f64 * 1e6) as i64 / 3_600_000_000 * 3_600_000_000
        + (number * 7919 % 3_600_000) as i64 * 1000;
    let time = end - chrono::Duration::seconds(YEAR as i64) + chrono::Duration::microseconds(micros);
    Commit { lsn, end_lsn: Lsn(lsn.0 + 100), xid: number as u32 + 3, time }
}

fn transaction(number: u64, of: u64, end: DateTime<Utc>) -> Transaction {
    let table = |at: u64| TableName::new("public", format!("table_{}", at % 50));
    let counts = OperationCounts { insert: 3, update: 1, delete: u64::from(number.is_multiple_of(9)), truncate: 0 };
    let rest = OperationCounts { insert: CHANGES - counts.total(), ..OperationCounts::default() };
    let tables = BTreeMap::from([(table(number * 31), counts), (table(number * 31 + 7), rest)]);
    let context = format!(
        r#"[{{"user": "app", "pid": 7, "statement": "UPDATE table_1 SET x = $1 WHERE id = $2", "claimed": {{"application": "web-{}"}}}}]"#,
        number % 12
    );
    Transaction { commit: commit(number, of, end), tables, context: Some(context) }
}

async fn write(store: &Store, rounds: u64) {
    let end = Utc::now();
    let all = rounds * TRANSACTIONS;
    let start = Lsn(1_000_000);
    let mut writer = ArchiveWriter::claim(store).await.unwrap();
    let publication = Publication { end: start, time: commit(0, all, end).time, ..Publication::default() };
    writer.publish(&publication).await.unwrap();
    let identity = ArchiveIdentity {
        format: FORMAT,
        system_identifier: 7_000_000_000_000_000_001,
        database: "busy".into(),
        start_lsn: start,
        created_at: publication.time,
        slot: "afterimage_busy".into(),
        publication: "afterimage".into(),
    };
    writer.begin(&identity).await.unwrap();
    for round in 0..rounds {
        let numbers = round * TRANSACTIONS..(round + 1) * TRANSACTIONS;
        let transactions: Vec<Transaction> = numbers.map(|number| transaction(number, all, end)).collect();
        let last = transactions[transactions.len() - 1].commit;
        let (end, time) = (last.end_lsn, last.time);
        writer.publish(&Publication { end, time, transactions, ..Publication::default() }).await.unwrap();
    }
}

fn sum(drawn: &Json) -> u64 {
    let bars = drawn["bars"].as_array().unwrap().iter();
    bars.flat_map(|bar| bar.as_array().unwrap().iter().skip(1).map(|n| n.as_u64().unwrap())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_many_changes_draw_in_under_a_second() {
    let rounds = std::env::var("AFTERIMAGE_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let directory = Directory::new();
    let store = Store::open(&directory.archive()).unwrap();
    write(&store, rounds).await;
    let server = Program::afterimage(["serve", "--http", "127.0.0.1:0"]).archive(&directory.archive()).start();
    let web = Web(super::address(&server));
    let began = Instant::now();
    let first = web.get("/api/timeline").json();
    let answered = began.elapsed();
    assert!(answered < Duration::from_secs(2), "it answers before all is read: {answered:?}");
    assert!(first["progress"]["whole"].is_boolean(), "and says so");
    let mut progress = Json::Null;
    wait_for("the log is read", Duration::from_secs(3000), || {
        progress = web.get("/api/timeline").json()["progress"].clone();
        progress["whole"] == true
    });
    let cold = began.elapsed();
    assert_eq!(progress["changes"], rounds * TRANSACTIONS * CHANGES, "{progress}");
    let now = Utc::now().timestamp_millis();
    let mut told = vec![format!(
        "{} changes in {} transactions: answered at first after {:.2} s, read after {:.1} s, {} MiB of counts",
        progress["changes"],
        progress["transactions"],
        answered.as_secs_f64(),
        cold.as_secs_f64(),
        progress["bytes"].as_u64().unwrap() >> 20
    )];
    let year = YEAR as i64 * 1000;
    for (what, back, span, filter) in [
        ("a year", year, year + 86_400_000, ""),
        ("a year of one table", year, year + 86_400_000, "&table=public.table_7"),
        ("a year of one application", year, year + 86_400_000, "&app=web-3"),
        ("a month", year / 2, 30 * 86_400_000, ""),
        ("a day", year / 2, 86_400_000, ""),
        ("an hour", year / 2, 3_600_000, ""),
        ("a minute", year / 2, 60_000, ""),
        ("a second", year / 2, 1000, ""),
    ] {
        let from = now - back;
        let path = format!("/api/timeline?from={from}&to={}&bars=300{filter}", from + span);
        let took = (0..5).map(|_| {
            let began = Instant::now();
            web.get(&path).json();
            began.elapsed()
        });
        let took = took.max().unwrap_or_default();
        let drawn = web.get(&path).json();
        told.push(format!(
            "{what}: {:.0} ms at most of five, {} bars, by {}",
            took.as_secs_f64() * 1000.0,
            drawn["bars"].as_array().unwrap().len(),
            drawn["how"]
        ));
        assert!(took < Duration::from_secs(1), "{told:?}");
        if what == "a year" {
            assert_eq!(sum(&drawn), rounds * TRANSACTIONS * CHANGES);
        }
    }
    let day = now - year / 2;
    let began = Instant::now();
    let listed = web.get(&format!("/api/transactions?from={day}&to={}", day + 86_400_000)).json();
    told.push(format!(
        "the transactions of a day: {:.0} ms, {} of them",
        began.elapsed().as_secs_f64() * 1000.0,
        listed["seen"]
    ));
    assert!(listed["seen"].as_u64().unwrap() > 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    told.extend(status.lines().filter(|line| line.starts_with("VmHWM")).map(str::to_owned));
    println!("{}", told.join("\n"));
}
