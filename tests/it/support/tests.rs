//! What the other tests stand on, tested itself.

use std::path::Path;
use std::time::Duration;

use afterimage::model::{Lsn, TableName};

use super::{Database, Directory, Program, Release, Snapshot, postgres, python, s3, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn each_release_serves_sql_and_decodes_logically() {
    for release in Release::ALL {
        let server = postgres(release);
        let database = Database::create(server).await;
        let client = database.connect().await;
        let row = client.query_one("SELECT version(), current_database()::text", &[]).await.unwrap();
        let version: String = row.get(0);
        assert!(version.starts_with(&format!("PostgreSQL {}.", server.installation().major())), "{version}");
        assert_eq!(row.get::<_, String>(1), database.name());
        let level: String = client.query_one("SHOW wal_level", &[]).await.unwrap().get(0);
        assert_eq!(level, "logical");
    }
}

#[test]
fn the_newest_release_is_eighteen() {
    assert_eq!(Release::Eighteen.installation().major(), 18);
    assert_eq!(Release::Sixteen.installation().major(), 16);
}

#[tokio::test]
async fn a_snapshot_shows_its_lsn_and_nothing_later() {
    for release in Release::ALL {
        let database = Database::create(postgres(release)).await;
        database.run("CREATE TABLE t (id int, name text); INSERT INTO t VALUES (1, 'a,b'), (2, NULL)").await;
        database
            .run("CREATE TABLE u (at timestamptz) PARTITION BY LIST (at); CREATE TABLE u1 PARTITION OF u DEFAULT")
            .await;
        database.run("INSERT INTO u VALUES ('2025-10-09 16:03+02')").await;
        let snapshot = Snapshot::take(&database);
        database.run("INSERT INTO t VALUES (3, 'later')").await;
        let later: String = {
            let row = database.connect().await.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
            row.unwrap().get(0)
        };
        assert!(snapshot.lsn() < later.parse::<Lsn>().unwrap());
        let t = snapshot.csv(&TableName::new("public", "t")).await;
        assert_eq!(t, "id,name\n1,\"a,b\"\n2,\n");
        let all = snapshot.all().await;
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all[&TableName::new("public", "u")], "at\n2025-10-09 14:03:00+00\n");
    }
}

#[test]
fn a_program_is_captured_signalled_and_limited() {
    let shell = |script| Program::new(Path::new("/bin/sh")).arguments(["-c", script]);
    let end = shell("echo out; echo err >&2; echo $PGHOST$ANSWER; pwd; exit 4")
        .variable("ANSWER", "42")
        .working_directory(Path::new("/"))
        .run(PATIENCE)
        .expect(4);
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("out\n42\n/\n", "err\n"));

    let running = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done").start();
    wait_for("it is ready", PATIENCE, || running.stdout() == "ready\n" && running.stderr().is_empty());
    running.signal("TERM");
    running.wait(PATIENCE).expect(7);

    let mut running = shell("exec sleep 60").start();
    assert!(running.is_running());
    assert_eq!(running.kill().code, None);

    let limited = std::panic::catch_unwind(|| shell("exec sleep 60").run(Duration::from_millis(200)));
    assert!(limited.is_err());
}

#[tokio::test]
async fn our_own_program_runs_on_a_database_and_an_archive() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Program::afterimage(["--version"])
        .source(&database)
        .archive(&directory.archive())
        .working_directory(directory.path())
        .run(PATIENCE)
        .expect(0);
}

#[test]
fn the_object_store_honours_a_precondition() {
    let bucket = s3().bucket();
    let script = "
import os, sys
from urllib.parse import urlparse
import boto3, botocore
client = boto3.client('s3', endpoint_url=os.environ['AWS_ENDPOINT'])
place = dict(Bucket=urlparse(sys.argv[1]).netloc, Key='archive.json')
client.put_object(Body=b'first', IfNoneMatch='*', **place)
try:
    client.put_object(Body=b'second', IfNoneMatch='*', **place)
except botocore.exceptions.ClientError as error:
    print(error.response['ResponseMetadata']['HTTPStatusCode'], client.get_object(**place)['Body'].read().decode())
";
    let archive = bucket.archive();
    let mut program = Program::new(&python::executable("python")).arguments(["-c", script, &archive]);
    for (name, value) in bucket.variables() {
        program = program.variable(name, value);
    }
    program = program.variable("AWS_DEFAULT_REGION", "us-east-1");
    assert_eq!(program.run(PATIENCE).expect(0).stdout, "412 first\n");
}

#[test]
fn foreign_readers_are_at_hand() {
    let script = "
import sys, deltalake, duckdb, pyarrow, pytz
deltalake.write_deltalake(sys.argv[1], pyarrow.table({'a': [1, 2]}))
rows = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table()
print(duckdb.sql('select sum(a)::int from rows').fetchall()[0][0])
";
    let directory = Directory::new();
    assert_eq!(python(script, [directory.join("table").to_str().unwrap()]), "3\n");
}
