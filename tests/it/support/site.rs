//! A source with its archive, and what one does with the two.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use afterimage::archive::{Archive, Store};
use afterimage::model::{Lsn, TableName};
use tokio_postgres::error::SqlState;

use super::{Bucket, Database, Directory, Program, Running, Snapshot};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) database: &'a Database,
    source: String,
    archive: String,
    variables: Vec<(String, String)>,
}

impl<'a> Site<'a> {
    /// With an archive in a local directory.
    pub(crate) fn local(database: &'a Database, directory: &Directory) -> Site<'a> {
        Site::new(database, directory.archive())
    }

    /// With an archive in a bucket.
    pub(crate) fn bucket(database: &'a Database, bucket: &Bucket) -> Site<'a> {
        let site = Site::new(database, bucket.archive());
        bucket.variables().into_iter().fold(site, |site, (name, value)| site.variable(name, value))
    }

    fn new(database: &'a Database, archive: String) -> Site<'a> {
        Site { database, source: database.url().to_owned(), archive, variables: Vec::new() }
    }

    /// With maintenance that hardly rests, and takes a base image wherever a table has changed.
    pub(crate) fn maintained_eagerly(self, directory: &Directory) -> Site<'a> {
        let file = directory.path().join("eager.toml");
        fs::write(&file, "[maintenance]\ninterval = \"100ms\"\nimage_floor = \"1kB\"\n").unwrap();
        self.variable("AFTERIMAGE_CONFIG", file.to_str().unwrap())
    }

    /// Reaches the source by another URL.
    pub(crate) fn source(mut self, url: &str) -> Site<'a> {
        self.source = url.to_owned();
        self
    }

    /// Keeps the archive elsewhere.
    pub(crate) fn archive(mut self, url: &str) -> Site<'a> {
        self.archive = url.to_owned();
        self
    }

    /// Sets a variable for every program, in place of an earlier value.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Site<'a> {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn archive_url(&self) -> &str {
        &self.archive
    }

    /// The slot's name where none was chosen.
    pub(crate) fn slot(&self) -> String {
        format!("afterimage_{}", self.database.name())
    }

    pub(crate) fn command<'b>(&self, arguments: impl IntoIterator<Item = &'b str>) -> Program {
        let program = Program::afterimage(arguments)
            .variable("AFTERIMAGE_SOURCE", &self.source)
            .variable("AFTERIMAGE_ARCHIVE", &self.archive);
        self.variables.iter().fold(program, |program, (name, value)| program.variable(name, value))
    }

    /// A program that knows the archive and no source.
    pub(crate) fn offline<'b>(&self, arguments: impl IntoIterator<Item = &'b str>) -> Program {
        self.command(arguments).variable("AFTERIMAGE_SOURCE", "")
    }

    #[track_caller]
    pub(crate) fn init(&self) {
        self.command(["init"]).run(PATIENCE).expect(0);
    }

    /// Starts the archiver. It publishes often, so that there is much to interrupt.
    pub(crate) fn start(&self) -> Running {
        self.command(["run", "--flush-interval", "50ms"]).start()
    }

    /// Starts the archiver and waits until it streams.
    #[track_caller]
    pub(crate) fn stream(&self) -> Running {
        self.start().streaming()
    }

    /// Archives everything that the source has now.
    #[track_caller]
    pub(crate) fn catch_up(&self) {
        self.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    }

    /// A local archive's watermark.
    pub(crate) async fn watermark(&self) -> Lsn {
        let archive = Archive::open(&Store::open(&self.archive).unwrap()).await.unwrap();
        archive.watermark().await.unwrap().lsn
    }

    /// A table as it is now. No archiver may run, since this is one.
    pub(crate) async fn present(&self, table: &TableName) -> String {
        self.catch_up();
        self.export(table, &self.watermark().await.to_string())
    }

    #[track_caller]
    pub(crate) fn export(&self, table: &TableName, at: &str) -> String {
        self.command(["export", &table.to_sql(), "--at", at]).run(PATIENCE).expect(0).stdout
    }

    /// The rows of a query, as JSON.
    #[track_caller]
    pub(crate) fn query(&self, sql: &str) -> Vec<serde_json::Value> {
        let end = self.command(["query", "--json", sql]).run(PATIENCE).expect(0);
        match serde_json::from_str(&end.stdout) {
            Ok(serde_json::Value::Array(rows)) => rows,
            _ => end.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }

    /// Compares the archive with what the source said of itself, table by table.
    #[track_caller]
    pub(crate) fn expect_equal(&self, state: &State) {
        assert!(!state.tables.is_empty());
        for (table, csv) in &state.tables {
            let difference = self.difference_at(state, table, csv);
            assert!(difference.is_empty(), "{table} at {}:\n{difference}", state.lsn);
        }
    }

    /// What the archive has otherwise of a table; nothing where both are the same.
    #[track_caller]
    pub(crate) fn difference_at(&self, state: &State, table: &TableName, csv: &str) -> String {
        difference(csv, &self.export(table, &state.lsn.to_string()))
    }

    /// Checks that every change and every transaction is in the archive once, and that both tell the same.
    #[track_caller]
    pub(crate) fn expect_each_once<'t>(&self, tables: impl IntoIterator<Item = &'t TableName>) {
        let number = |sql: &str| self.query(sql)[0]["n"].as_i64().unwrap();
        let transactions = number("SELECT count(*) AS n FROM afterimage.transactions");
        assert_eq!(number("SELECT count(DISTINCT lsn) AS n FROM afterimage.transactions"), transactions);
        let mut changes = 0;
        for table in tables {
            let from = format!("FROM changes.{}", table.to_sql());
            // A table that was never changed has no changes.
            let end = self.command(["query", "--json", &format!("SELECT count(*) AS n {from}")]).run(PATIENCE);
            if end.code != Some(0) {
                assert!(end.stderr.contains("no table"), "{table}: {}", end.stderr);
                continue;
            }
            let rows = number(&format!("SELECT count(*) AS n {from}"));
            let distinct = format!("SELECT count(*) AS n FROM (SELECT DISTINCT _lsn, _seq {from})");
            assert_eq!(number(&distinct), rows, "{table}");
            changes += rows;
        }
        assert_eq!(number("SELECT sum(changes) AS n FROM afterimage.transactions"), changes);
    }
}

/// All of a source's tables as they were after every transaction that ended at or before an LSN, as COPY wrote them.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) lsn: Lsn,
    pub(crate) tables: BTreeMap<TableName, String>,
}

impl State {
    /// The present, of every table that holds rows itself.
    pub(crate) async fn of(database: &Database) -> State {
        let holder = database.connect().await;
        let rows = holder.query(ORDINARY_TABLES, &[]).await.unwrap();
        let names = rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)));
        let names: Vec<TableName> = names.collect();
        // A truncation empties a table for older snapshots too (PostgreSQL manual, "Caveats" of concurrency).
        let list: Vec<String> = names.iter().map(TableName::to_sql).collect();
        let lock = format!("BEGIN; LOCK TABLE ONLY {} IN ACCESS SHARE MODE", list.join(", ONLY "));
        // A load that truncates several tables at once may have them in another order.
        while !list.is_empty()
            && let Err(error) = holder.batch_execute(&lock).await
        {
            assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}");
            holder.batch_execute("ROLLBACK").await.unwrap();
        }
        let snapshot = tokio::task::block_in_place(|| Snapshot::take(database));
        let mut tables = BTreeMap::new();
        for name in names {
            let csv = snapshot.csv(&name).await;
            tables.insert(name, csv);
        }
        State { lsn: snapshot.lsn(), tables }
    }
}

const ORDINARY_TABLES: &str = "SELECT n.nspname::text, c.relname::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'";

/// The first lines that only one side has; nothing where both are the same, their order aside.
pub(crate) fn difference(source: &str, archive: &str) -> String {
    let header = |csv: &str| csv.lines().next().unwrap_or_default().to_owned();
    if header(source) != header(archive) {
        return format!("source {:?}\narchive {:?}", header(source), header(archive));
    }
    let (mut source, mut archive) = (lines(source), lines(archive));
    if source == archive {
        return String::new();
    }
    let both: Vec<&str> = source.clone();
    remove(&mut source, &archive);
    remove(&mut archive, &both);
    let shown = |side: &str, lines: &[&str]| {
        lines.iter().take(3).map(|line| format!("{side} {}\n", line.chars().take(400).collect::<String>())).collect()
    };
    let (source_only, archive_only): (String, String) =
        (shown("only source ", &source), shown("only archive", &archive));
    format!("{} and {} lines differ\n{source_only}{archive_only}", source.len(), archive.len())
}

fn lines(csv: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = csv.split_inclusive('\n').collect();
    lines.sort_unstable();
    lines
}

/// Takes sorted lines out of sorted lines, each as often as it occurs.
fn remove(from: &mut Vec<&str>, lines: &[&str]) {
    let mut left = lines.iter().peekable();
    from.retain(|line| {
        while left.next_if(|other| *other < line).is_some() {}
        left.next_if(|other| *other == line).is_none()
    });
}
