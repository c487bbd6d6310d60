//! The independent oracle: what PostgreSQL itself says a table held at an exact place in commit order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use afterimage::model::{Lsn, TableName};
use futures::StreamExt;
use tokio_postgres::Client;

use super::Database;

/// A snapshot of a whole database, together with its LSN: the state after every transaction whose commit record ends
/// at or before it, and of none else. It stays readable while this lives.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    lsn: Lsn,
    name: String,
    database: &'a Database,
    /// Only a replication connection exports a snapshot with an LSN, and only until its next command.
    session: Child,
}

impl Snapshot<'_> {
    /// Takes a snapshot of now. Waits until the transactions that are open now have ended.
    pub(crate) fn take(database: &Database) -> Snapshot<'_> {
        let mut session = Command::new(database.program("psql"))
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .arg(format!("{}&replication=database", database.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let slot = format!("oracle_{}", session.id());
        let command = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT;\n");
        session.stdin.as_mut().unwrap().write_all(command.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(session.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        let fields: Vec<&str> = answer.trim().split('|').collect();
        let [_slot, lsn, name, _plugin] = fields[..] else { panic!("CREATE_REPLICATION_SLOT answered {answer:?}") };
        Snapshot { lsn: lsn.parse().unwrap(), name: name.to_owned(), database, session }
    }

    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// A table as `COPY (SELECT * …) TO STDOUT (FORMAT csv, HEADER)` writes it, in PostgreSQL's default styles and UTC.
    pub(crate) async fn csv(&self, table: &TableName) -> String {
        let client = self.connect().await;
        copy(&client, table).await
    }

    /// Every ordinary and partitioned table of the database, as [`Snapshot::csv`].
    pub(crate) async fn all(&self) -> BTreeMap<TableName, String> {
        let client = self.connect().await;
        let mut tables = BTreeMap::new();
        for row in client.query(TABLES, &[]).await.unwrap() {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let csv = copy(&client, &table).await;
            tables.insert(table, csv);
        }
        tables
    }

    /// A session that sees the snapshot and writes values in the default styles.
    pub(crate) async fn connect(&self) -> Client {
        let client = self.database.connect().await;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'; {STYLES}",
            self.name
        );
        client.batch_execute(&begin).await.unwrap();
        client
    }
}

const STYLES: &str = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY';
    SET LOCAL IntervalStyle = 'postgres'; SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1";

const TABLES: &str =
    "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'";

async fn copy(client: &Client, table: &TableName) -> String {
    let source = match is_partitioned(client, table).await {
        true => table.to_sql(),
        false => format!("ONLY {}", table.to_sql()),
    };
    copy_query(client, &format!("SELECT * FROM {source}")).await
}

/// A query's rows as `COPY (…) TO STDOUT (FORMAT csv, HEADER)` writes them.
pub(crate) async fn copy_query(client: &Client, query: &str) -> String {
    let sql = format!("COPY ({query}) TO STDOUT (FORMAT csv, HEADER)");
    let mut stream = Box::pin(client.copy_out(&sql).await.unwrap());
    let mut csv = Vec::new();
    while let Some(chunk) = stream.next().await {
        csv.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(csv).unwrap()
}

async fn is_partitioned(client: &Client, table: &TableName) -> bool {
    let sql = "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass";
    client.query_one(sql, &[&table.to_sql()]).await.unwrap().get(0)
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}
