//! Other engines give the rows that PostgreSQL had, by the statements of `afterimage sql`.

mod ballista;
mod readers;

use std::fs;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::{
    Database, Directory, PATIENCE, Program, Release, Site, delta_jars, postgres, python, python_program, s3,
};

const TABLES: &str = include_str!("tables.sql");
const HISTORY: &str = include_str!("history.sql");
const SNAPSHOT: &str = include_str!("snapshot.py");
const ENGINES: &str = concat!(include_str!("spark.py"), include_str!("engines.py"));

/// Starting Spark alone takes half a minute on a busy machine.
const SPARK_PATIENCE: Duration = Duration::from_secs(600);

/// A point, and every table's rows there as PostgreSQL gave them.
struct Known {
    lsn: String,
    tables: serde_json::Map<String, Json>,
}

async fn known(database: &Database, directory: &Directory, name: &str) -> Known {
    let file = directory.join(name);
    python(SNAPSHOT, [database.url(), file.to_str().unwrap()]);
    let tables = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let position = "SELECT pg_current_wal_insert_lsn()::text";
    let lsn = database.connect().await.query_one(position, &[]).await.unwrap().get(0);
    Known { lsn, tables }
}

/// Makes an archive with changes of definitions in it, maintained in between, and tells what PostgreSQL had at each point.
async fn history(site: &Site<'_>, directory: &Directory) -> Vec<Known> {
    let database = site.database;
    database.run(TABLES).await;
    site.init();
    let mut points = vec![known(database, directory, "begin.json").await];
    for (number, part) in HISTORY.split("-- point\n").enumerate() {
        for statement in statements(part) {
            database.run(&statement).await;
        }
        site.catch_up();
        if number == 1 {
            site.command(["maintain"]).run(PATIENCE).expect(0);
        }
        points.push(known(database, directory, &format!("point{number}.json")).await);
    }
    site.catch_up();
    points
}

/// Each a transaction of its own, or several of them between BEGIN and COMMIT.
fn statements(sql: &str) -> Vec<String> {
    sql.lines().filter(|line| !line.is_empty() && !line.starts_with("--")).map(ToOwned::to_owned).collect()
}

fn jobs(site: &Site<'_>, points: &[Known], engine: &str) -> Vec<Json> {
    let mut jobs = Vec::new();
    for known in points {
        for (table, expected) in &known.tables {
            let arguments = ["sql", table, "--for", engine, "--at", &known.lsn, "--exact"];
            let sql = site.command(arguments).run(PATIENCE).expect(0).stdout;
            jobs.push(json!({ "what": format!("{table} at {}", known.lsn), "sql": sql, "expected": expected }));
        }
    }
    jobs
}

/// How many rows an engine gave, all of them PostgreSQL's.
#[track_caller]
fn compare(engine: &str, jobs: &[Json], directory: &Directory, variables: &[(&str, &str)]) -> u64 {
    let file = directory.join(&format!("{engine}.json"));
    fs::write(&file, serde_json::to_vec(jobs).unwrap()).unwrap();
    let mut program: Program = python_program(ENGINES, [engine, file.to_str().unwrap()]);
    for (name, value) in variables {
        program = program.variable(name, value);
    }
    if engine == "spark" {
        program = program.variable("DELTA_JARS", &delta_jars());
    }
    program.run(SPARK_PATIENCE).expect(0).stdout.trim().parse().unwrap()
}

fn rows_of(points: &[Known]) -> u64 {
    let rows = |table: &Json| table["rows"].as_array().unwrap().len() as u64;
    points.iter().flat_map(|known| known.tables.values().map(rows)).sum()
}

/// Changes of some tables, and what our own SQL says of them.
fn change_jobs(site: &Site<'_>, engine: &str) -> Vec<Json> {
    let tables = [("bag", "b"), ("days", "n"), ("parts", "id"), ("cleared", "v")];
    let job = |(table, column): (&str, &str)| {
        let sql = site.command(["sql", table, "--for", engine, "--changes"]).run(PATIENCE).expect(0).stdout;
        let asked =
            format!("SELECT _seq, _xid, _op, new.{column} AS {column} FROM changes('{table}') ORDER BY _lsn, _seq");
        json!({ "what": format!("changes of {table}"), "sql": sql, "changes": site.query(&asked) })
    };
    tables.into_iter().map(job).collect()
}

async fn states_agree(release: Release, engines: &[&str]) {
    let directory = Directory::new();
    let database = Database::create(postgres(release)).await;
    let site = Site::local(&database, &directory);
    let points = history(&site, &directory).await;
    assert!(points.len() > 2 && rows_of(&points) > 400, "there is too little to compare");
    for engine in engines {
        // Spark takes seconds for each statement, however small the table.
        let points = if *engine == "spark" { &points[points.len() - 1..] } else { &points[..] };
        let compared = compare(engine, &jobs(&site, points, engine), &directory, &[]);
        assert_eq!(compared, rows_of(points), "{engine}");
        if *engine != "spark" {
            assert!(compare(engine, &change_jobs(&site, engine), &directory, &[]) > 20, "{engine}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other_engines_give_the_rows_of_every_point() {
    states_agree(Release::System, &["duckdb", "clickhouse", "datafusion", "trino", "spark"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other_engines_give_the_rows_of_a_newer_release() {
    states_agree(Release::Eighteen, &["duckdb", "clickhouse", "datafusion", "trino"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn datafusion_gives_the_rows_of_an_archive_in_a_bucket() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    let bucket = s3().bucket();
    let site = Site::bucket(&database, &bucket);
    let points = history(&site, &directory).await;
    let compared = compare("datafusion", &jobs(&site, &points, "datafusion"), &directory, &bucket.variables());
    assert_eq!(compared, rows_of(&points));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_statement_cannot_follow_is_refused() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    let site = Site::local(&database, &directory);
    database.run("CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO t VALUES (1, repeat('x', 9000))").await;
    site.init();
    database.run("UPDATE t SET id = 2").await;
    site.catch_up();
    let end = site.command(["sql", "t", "--for", "duckdb"]).run(PATIENCE).expect(4);
    assert!(end.stderr.contains("another key") && end.stderr.contains("afterimage export"), "{}", end.stderr);
}
