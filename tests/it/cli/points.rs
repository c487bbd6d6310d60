//! Points in time: each kind leads to the state that PostgreSQL had there, and each impossible one to an explanation.

use afterimage::model::{Lsn, TableName};
use afterimage::scratch::Scratch;
use serde_json::Value as Json;

use super::{PATIENCE, Scene, assert_has, complaint, json_lines, misuse, records};
use crate::support::{Release, Running, Snapshot, own_postgres, wait_for};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'one'), (2, NULL)";

/// One transaction each. Several begin a state like one before, so that a mistake shows.
const STEPS: [&str; 6] = [
    "INSERT INTO t VALUES (3, 'three')",
    "UPDATE t SET name = 'zwei' WHERE id = 2",
    "DELETE FROM t WHERE id = 1",
    "UPDATE t SET id = id + 10",
    "TRUNCATE t",
    "INSERT INTO t VALUES (1, 'again')",
];

/// A commit as `log --json` shows it.
struct Commit {
    lsn: Lsn,
    end_lsn: Lsn,
    xid: u64,
    time: chrono::DateTime<chrono::Utc>,
}

impl Commit {
    fn of(line: &Json) -> Commit {
        let text = |name: &str| line[name].as_str().unwrap();
        Commit {
            lsn: text("lsn").parse().unwrap(),
            end_lsn: text("end_lsn").parse().unwrap(),
            xid: line["xid"].as_u64().unwrap(),
            time: text("time").parse().unwrap(),
        }
    }
}

/// A database after the steps, and what PostgreSQL itself said it held before and after each.
struct History {
    scene: Scene,
    commits: Vec<Commit>,
    /// One more than there are commits: states[i] is the one before commits[i].
    states: Vec<Vec<String>>,
    snapshots: Vec<Lsn>,
}

async fn history(release: Release) -> History {
    let scene = Scene::archived(release, TABLE).await;
    let table = TableName::new("public", "t");
    let (mut states, mut snapshots) = (Vec::new(), Vec::new());
    for step in ["", STEPS[0], STEPS[1], STEPS[2], STEPS[3], STEPS[4], STEPS[5]] {
        scene.database.run(step).await;
        let snapshot = Snapshot::take(&scene.database);
        states.push(records(&snapshot.csv(&table).await));
        snapshots.push(snapshot.lsn());
    }
    scene.catch_up();
    let mut commits: Vec<Commit> = json_lines(&scene.ask_offline(["log", "--json"])).iter().map(Commit::of).collect();
    commits.reverse();
    assert_eq!(commits.len(), STEPS.len());
    History { scene, commits, states, snapshots }
}

impl History {
    #[track_caller]
    fn at(&self, point: &str) -> Vec<String> {
        records(&self.scene.ask_offline(["export", "t", "--at", point]))
    }
}

#[tokio::test]
async fn every_kind_of_point_leads_to_the_state_of_then() {
    let history = history(Release::System).await;
    for (at, commit) in history.commits.iter().enumerate() {
        let (before, after) = (&history.states[at], &history.states[at + 1]);
        let (lsn, end) = (commit.lsn.0, commit.end_lsn.0);
        let microsecond = chrono::Duration::microseconds(1);
        let mut points = vec![
            (format!("before:{}", commit.xid), before),
            (format!("after:{}", commit.xid), after),
            (format!("before:{}", commit.lsn), before),
            (format!("after:{}", commit.lsn), after),
            // The record begins at its LSN and counts when it has ended.
            (Lsn(lsn - 1).to_string(), before),
            (Lsn(lsn).to_string(), before),
            (Lsn(lsn + 1).to_string(), before),
            (Lsn(end - 1).to_string(), before),
            (Lsn(end).to_string(), after),
            ((commit.time - microsecond).to_rfc3339(), before),
            (commit.time.to_rfc3339(), after),
        ];
        if at + 1 < history.commits.len() {
            points.push((Lsn(end + 1).to_string(), after));
        }
        // Before its first commit the archive knows no time later than its own making.
        points.retain(|(point, _)| at > 0 || !point.contains('T'));
        for (point, state) in points {
            assert_eq!(&history.at(&point), state, "{point}, at step {at}: {}", STEPS[at]);
        }
    }
}

#[tokio::test]
async fn the_lsn_of_a_snapshot_is_the_point_of_its_state() {
    for release in Release::ALL {
        let history = history(release).await;
        for (lsn, state) in history.snapshots.iter().zip(&history.states) {
            if *lsn <= history.commits.last().unwrap().end_lsn {
                assert_eq!(&history.at(&lsn.to_string()), state, "{lsn} of {release:?}");
            }
        }
        let _archiver = history.scene.archiver();
        let now = history.scene.ask(["export", "t", "--at", "now", "--wait", "60s"]);
        assert_eq!(&records(&now), history.states.last().unwrap());
    }
}

#[tokio::test]
async fn marks_now_and_ages_while_an_archiver_runs() {
    let scene = Scene::archived(Release::System, TABLE).await;
    let table = TableName::new("public", "t");
    let archiver = scene.archiver();
    scene.ask(["mark", "v1 — first", "--wait", "60s"]);
    let marked = records(&Snapshot::take(&scene.database).csv(&table).await);
    scene.database.run("UPDATE t SET name = 'changed'").await;
    let changed = records(&Snapshot::take(&scene.database).csv(&table).await);
    assert_ne!(marked, changed);
    let at = |point: &str| records(&scene.ask(["export", "t", "--at", point, "--wait", "60s"]));
    assert_eq!(at("mark:v1 — first"), marked);
    assert_eq!(at("now"), changed);
    assert_eq!(at("0s ago"), changed);
    let twice = complaint(scene.run(["mark", "v1 — first"]), 4);
    assert_has(&twice.cause, &["there is a mark \"v1 — first\" at"]);
    assert_has(&twice.remedy, &["another name"]);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

/// What is archived can be named though the archiver is down and the source has gone on.
#[tokio::test]
async fn archived_transactions_need_no_archiver() {
    let scene = Scene::archived(Release::System, TABLE).await;
    scene.database.run("DELETE FROM t WHERE id = 1").await;
    scene.run(["mark", "m", "--wait", "0s"]).expect(0);
    scene.catch_up();
    let deletion = Commit::of(&json_lines(&scene.ask(["log", "--json", "--op", "delete"]))[0]);
    scene.database.run("INSERT INTO t VALUES (7, 'later')").await;
    for point in [format!("before:{}", deletion.xid), format!("after:{}", deletion.lsn), "mark:m".to_owned()] {
        scene.run(["export", "t", "--at", &point, "--wait", "0s"]).expect(0);
    }
    // What is not, is waited for, and the reason for failing is both.
    let later = complaint(scene.run(["export", "t", "--at", "mark:later", "--wait", "200ms"]), 4);
    assert_has(&later.cause, &["no mark \"later\"", "did not catch up within 200ms"]);
    assert_has(&later.remedy, &["afterimage run", "--wait"]);
}

#[tokio::test]
async fn an_age_and_an_lsn_wait_for_what_the_source_has() {
    let scene = Scene::archived(Release::System, TABLE).await;
    scene.database.run("DELETE FROM t").await;
    let lsn: String =
        scene.database.connect().await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    for point in ["0s ago", "now", lsn.as_str()] {
        let late = complaint(scene.run(["export", "t", "--at", point, "--wait", "0s"]), 4);
        assert_has(&late.cause, &["did not catch up"]);
        assert_has(&late.remedy, &["is an archiver running"]);
    }
    let waiting = scene.program(["export", "t", "--at", &lsn, "--wait", "60s"]).start();
    scene.catch_up();
    assert_eq!(waiting.wait(PATIENCE).expect(0).stdout, "id,name\n");
}

#[test]
fn a_text_that_is_no_point() {
    let cases = [
        ("2025-10-09T14:03:00", "has no time zone"),
        ("2025-10-09", "has no time zone"),
        ("yesterday", "is not a point"),
        ("", "is not a point"),
        ("mark:", "is not a point"),
        ("before:soon", "is not a transaction"),
        ("five minutes ago", "is not an age"),
        ("-1h ago", "is not an age"),
        ("16/XYZ", "is not a point"),
    ];
    for (point, why) in cases {
        let argument = format!("--at={point}");
        let end = crate::support::Program::afterimage(["export", "t", &argument]).run(PATIENCE);
        assert_has(&misuse(end), &[why, "--at"]);
    }
}

#[tokio::test]
async fn a_point_that_history_does_not_have() {
    let history = history(Release::System).await;
    let scene = &history.scene;
    let at = |point: &str, code| complaint(scene.offline(["export", "t", "--at", point]).run(PATIENCE), code);
    let start = at("2001-01-01T00:00:00Z", 4);
    assert_has(&start.cause, &["2001-01-01T00:00:00.000000Z is before the archive's beginning"]);
    assert_has(&start.remedy, &["the earliest point is"]);
    let beginning = start.remedy.split_whitespace().nth(4).unwrap();
    assert_eq!(history.at(beginning), history.states[0], "the point that the error names exists");
    let below = Lsn(beginning.parse::<Lsn>().unwrap().0 - 1).to_string();
    assert_has(&at(&below, 4).cause, &["is before the archive's beginning"]);
    let future = at("2199-01-01T00:00:00Z", 4);
    assert_has(&future.cause, &["has not come yet"]);
    let latest = future.remedy.split_whitespace().nth(4).unwrap();
    assert_eq!(&history.at(latest), history.states.last().unwrap(), "the point that the error names exists");
    for above in [Lsn(latest.parse::<Lsn>().unwrap().0 + 64).to_string(), "FFFFFFFF/0".to_owned()] {
        assert_has(&at(&above, 4).cause, &["is above the archive's watermark"]);
        assert_has(&at(&above, 4).remedy, &["the latest point is", latest]);
    }
    assert_has(&at("now", 2).remedy, &["--source"]);
    assert_has(&at("before:1", 4).cause, &["no transaction 1"]);
    assert_has(&at("after:0/1", 4).cause, &["no transaction has the commit LSN 0/1"]);
    assert_has(&at("after:0/1", 4).remedy, &["the nearest are", &history.commits[0].lsn.to_string()]);
    assert_has(&at("mark:none", 4).remedy, &["the archive has no marks"]);
    // Time after the last transaction: without the source nobody knows what else was committed by then.
    let unknown = at("0s ago", 4);
    assert_has(&unknown.cause, &["does not know whether anything was committed"]);
    assert_has(&unknown.remedy, &["--source"]);
}

/// A table on a server to which nobody else writes, and its archiver, which streams.
async fn quiet(server: &Scratch) -> (Scene, Running) {
    let scene = Scene::on(server, TABLE).await;
    scene.run(["init"]).expect(0);
    let archiver = scene.archiver().streaming();
    (scene, archiver)
}

/// PostgreSQL names a place on a fresh page behind the page's header, though nothing ended in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_behind_a_page_s_header_is_the_page_s_start() {
    let server = own_postgres(Release::System);
    let (scene, archiver) = quiet(&server).await;
    let client = scene.database.connect().await;
    client.batch_execute("DELETE FROM t WHERE id = 1").await.unwrap();
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    let said = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let said: Lsn = said.get::<_, String>(0).parse().unwrap();
    assert!((1..=40).contains(&(said.0 % 8192)), "{said} is behind no header");
    assert_eq!(scene.ask(["export", "t", "--at", &said.to_string()]), "id,name\n2,\n");
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

/// PostgreSQL leaves the last page of what a running transaction has written unflushed, so no walsender sends it.
#[tokio::test(flavor = "multi_thread")]
async fn now_waits_for_no_transaction_that_still_runs() {
    let server = own_postgres(Release::System);
    let (scene, archiver) = quiet(&server).await;
    let running = scene.database.connect().await;
    let rows = "BEGIN; INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(10, 2000) g";
    running.batch_execute(rows).await.unwrap();
    for _ in 0..3 {
        assert_eq!(scene.ask(["export", "t", "--at", "now", "--wait", "5s"]), "id,name\n1,one\n2,\n");
    }
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

/// Two marks of one name can come about while no archiver runs.
#[tokio::test]
async fn a_name_for_two_places_lists_both() {
    let scene = Scene::archived(Release::System, TABLE).await;
    scene.run(["mark", "twin", "--wait", "0s"]).expect(0);
    scene.database.run("DELETE FROM t").await;
    scene.run(["mark", "twin", "--wait", "0s"]).expect(0);
    scene.catch_up();
    let complaint = complaint(scene.offline(["export", "t", "--at", "mark:twin"]).run(PATIENCE), 2);
    assert_has(&complaint.cause, &["2 marks are named \"twin\""]);
    let (_, points) = complaint.remedy.split_once(": ").unwrap();
    let states: Vec<String> =
        points.split(" or ").map(|point| scene.ask_offline(["export", "t", "--at", point])).collect();
    assert_eq!(states.len(), 2);
    assert_ne!(states[0], states[1], "each of the points that the error names can be used");
}

#[tokio::test]
async fn a_table_that_is_unknown_ambiguous_or_not_there_yet() {
    let scene =
        Scene::archived(Release::System, &format!("{TABLE}; CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)"))
            .await;
    scene.run(["mark", "before", "--wait", "0s"]).expect(0);
    scene.catch_up();
    let at = |table: &str, code| complaint(scene.run(["export", table, "--at", "mark:before"]), code);
    let unknown = at("ordres", 2);
    assert_eq!(unknown.cause, "no archived table is named ordres");
    assert_has(&unknown.remedy, &["public.t", "s.t"]);
    let ambiguous = at("*.t", 2);
    assert_eq!(ambiguous.cause, "*.t names 2 tables: public.t, s.t");
    assert_has(&misuse(scene.run(["export", "a.b.c", "--at", "now"])), &["more than two parts"]);
    wait_for("the archiver has caught up", PATIENCE, || scene.run(["run", "--until", "now"]).code == Some(0));
}
