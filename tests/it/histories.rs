//! Random schemas with random work on them, definitions included: every state that PostgreSQL showed comes back.
//!
//! The oracle is PostgreSQL's own COPY under an exported snapshot. A seed that failed once is kept in [`KEPT`].

use std::env;
use std::fmt::Write as _;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use crate::support::{Database, Directory, PATIENCE, Release, Site, State, postgres};

/// Seeds that failed once.
const KEPT: &[u64] = &[508_095, 610_242, 839_258];

/// Random seeds where nobody says otherwise.
const SEEDS: u64 = 2;

/// Transactions of one history, and how many go by from one state to the next.
const TRANSACTIONS: usize = 60;
const TRANSACTIONS_PER_STATE: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_soak_on_the_systems_release() {
    histories(Release::System).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_soak_on_eighteen() {
    histories(Release::Eighteen).await;
}

async fn histories(release: Release) {
    let number = |variable: &str| env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("AFTERIMAGE_SOAK_SEED") {
        Some(seed) => vec![seed],
        None => {
            let random =
                (0..number("AFTERIMAGE_SOAK_SEEDS").unwrap_or(SEEDS)).map(|_| rand::rng().random_range(0..1_000_000));
            KEPT.iter().copied().chain(random).collect()
        }
    };
    for seed in seeds {
        // Shown when the test fails.
        println!("AFTERIMAGE_SOAK_SEED={seed}");
        history(release, seed).await;
    }
}

async fn history(release: Release, seed: u64) {
    let directory = Directory::new();
    let database = Database::create(postgres(release)).await;
    if release == Release::Eighteen {
        database.send_at_once().await;
    }
    let site = Site::local(&database, &directory).maintained_eagerly(&directory);
    let client = database.connect().await;
    let mut world = World { random: StdRng::seed_from_u64(seed), names: 0, done: Vec::new() };
    client.batch_execute(TYPES).await.unwrap();
    client.execute(&format!("SELECT setseed({})", seed as f64 / 1e6), &[]).await.unwrap();
    for _ in 0..4 {
        world.transaction(&client).await;
    }
    site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
    let mut archiver = site.start();
    let mut states = vec![State::of(&database).await];
    for done in 1..=TRANSACTIONS {
        world.transaction(&client).await;
        if done % TRANSACTIONS_PER_STATE == 0 {
            states.push(State::of(&database).await);
        }
        if world.random.random_range(0..15) == 0 {
            archiver.kill();
            archiver = site.start();
            tokio::time::sleep(Duration::from_millis(world.random.random_range(0..400))).await;
        }
    }
    archiver.kill();
    let end = site.command(["run", "--until", "now"]).run(PATIENCE);
    if end.code != Some(0) && end.stderr.contains(CANNOT_DECODE) {
        // Nobody can read on from such a slot; that it is not our doing is shown by asking without us.
        let sql = format!(
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', '1',
               'publication_names', 'afterimage')",
            site.slot()
        );
        let error = client.query_one(&sql, &[]).await.unwrap_err();
        assert!(
            error.as_db_error().is_some_and(|error| error.message().contains(CANNOT_DECODE)),
            "seed {seed}: {error}"
        );
        println!("seed {seed}: the server cannot decode its own log: {error}");
        return;
    }
    end.expect(0);
    for state in states.iter().filter(|state| !state.tables.is_empty()) {
        for (table, csv) in &state.tables {
            let difference = site.difference_at(state, table, csv);
            assert!(difference.is_empty(), "seed {seed}, {table} at {}:\n{difference}\n{}", state.lsn, world.story());
        }
    }
}

/// A defect of PostgreSQL, seen on 15.18 and 18.4 in one of some hundred histories: decoding that begins again at certain
/// places finds two relations with one file.
const CANNOT_DECODE: &str = "unexpected duplicate for tablespace";

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN amount AS numeric(12, 3);
    CREATE TYPE pair AS (x int, y text);
    CREATE SCHEMA other";

/// Types, each with an expression that gives a value of it.
const VALUES: &[(&str, &str)] = &[
    ("int", "(random() * 1000)::int"),
    ("bigint", "(random() * 1e15)::bigint"),
    ("smallint", "(random() * 100)::int::smallint"),
    ("text", "md5(random()::text)"),
    ("text", "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 150))"),
    ("varchar(40)", "md5(random()::text)"),
    ("char(8)", "left(md5(random()::text), 3)"),
    ("numeric", "(random() * 1000)::numeric"),
    ("numeric(12, 3)", "(random() * 1000)::numeric(12, 3)"),
    ("amount", "(random() * 1000)::numeric(12, 3)"),
    ("float8", "random() * 1e10"),
    ("real", "random()::real"),
    ("bool", "random() < 0.5"),
    ("date", "date '2020-01-01' + (random() * 3000)::int"),
    ("timestamp", "timestamp '2020-01-01' + random() * interval '3000 days'"),
    ("timestamptz", "timestamptz '2020-01-01 00:00Z' + random() * interval '3000 days'"),
    ("timestamptz", "'infinity'::timestamptz"),
    ("time", "time '00:00' + random() * interval '1 day'"),
    ("interval", "random() * interval '1000 days'"),
    ("uuid", "md5(random()::text)::uuid"),
    ("jsonb", "jsonb_build_object('a', random(), 'b', NULL)"),
    ("json", "json_build_array(random(), ' \" \\ ')"),
    ("bytea", "decode(md5(random()::text), 'hex')"),
    ("int[]", "ARRAY[(random() * 10)::int, NULL]"),
    ("text[]", "ARRAY['a b', '', NULL, '\"']"),
    ("inet", "('10.0.0.' || (random() * 255)::int)::inet"),
    ("point", "point(random(), random())"),
    ("int4range", "int4range(1, 2 + (random() * 10)::int)"),
    ("mood", "(ARRAY['sad', 'ok', 'happy']::mood[])[1 + (random() * 2)::int]"),
    ("positive", "1 + (random() * 10)::int"),
    ("pair", "ROW((random() * 10)::int, 'a,\"b')::pair"),
];

/// Column names that are a trouble to somebody.
const NAMES: &[&str] = &["id", "ID", "a b", "t", "_op", "_lsn", "ünï", "x~1", "select", "per%cent", "q\"uote"];

struct World {
    random: StdRng,
    names: u32,
    /// Statements that worked, for whoever must find out why a seed fails.
    done: Vec<String>,
}

/// A table as the catalogue has it now.
struct Table {
    sql: String,
    name: String,
    kind: String,
    columns: Vec<(String, String)>,
}

impl World {
    fn story(&self) -> String {
        self.done.iter().fold(String::new(), |mut story, sql| {
            // Writing to a String cannot fail.
            let _ = writeln!(story, "{};", sql.chars().take(300).collect::<String>());
            story
        })
    }

    fn chance(&mut self, in_hundred: u32) -> bool {
        self.random.random_range(0..100) < in_hundred
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.choose(&mut self.random).unwrap()
    }

    async fn transaction(&mut self, client: &Client) {
        self.run(client, "BEGIN").await;
        let steps = self.random.random_range(1..6);
        for _ in 0..steps {
            let tables = tables(client).await;
            let step = self.step(&tables);
            self.run(client, "SAVEPOINT step").await;
            for sql in step {
                if client.batch_execute(&sql).await.is_err() {
                    // Not everything is possible everywhere.
                    client.batch_execute("ROLLBACK TO step").await.unwrap();
                    break;
                }
                self.done.push(sql);
            }
            if self.chance(8) {
                self.run(client, "ROLLBACK TO step").await;
            }
        }
        let end = if self.chance(8) { "ROLLBACK" } else { "COMMIT" };
        self.run(client, end).await;
    }

    async fn run(&mut self, client: &Client, sql: &str) {
        client.batch_execute(sql).await.unwrap();
        self.done.push(sql.to_owned());
    }

    fn step(&mut self, tables: &[Table]) -> Vec<String> {
        let rows: Vec<&Table> = tables.iter().filter(|table| table.kind == "r").collect();
        if rows.len() < 2 || (rows.len() < 9 && self.chance(6)) {
            return self.create();
        }
        let table = *self.one(&rows);
        match self.random.random_range(0..100) {
            0..30 => self.insert(table),
            30..45 => self.update(table),
            45..55 => self.delete(table),
            55..57 => vec![format!("TRUNCATE {}", table.sql)],
            57..66 => self.add_column(table),
            66..71 => self.column_of(table, |column, _| format!("DROP COLUMN {column}")),
            71..75 => {
                let name = self.column_name();
                self.column_of(table, move |column, _| format!("RENAME COLUMN {column} TO {name}"))
            }
            75..80 => self.change_type(table),
            80..83 => self.identity(table),
            83..86 => self.rename(table),
            86..88 => vec![format!("DROP TABLE {}", table.sql)],
            88..91 => self.other_definition(table),
            91..93 => {
                vec![format!("ALTER TABLE {} SET UNLOGGED", table.sql), format!("ALTER TABLE {} SET LOGGED", table.sql)]
            }
            93..95 => vec![format!("CREATE TABLE {} AS SELECT * FROM {}", self.table_name(), table.sql)],
            95..97 => self.detach(tables),
            _ => vec![format!("VACUUM FULL {}", table.sql), format!("CLUSTER {}", table.sql)],
        }
    }

    fn table_name(&mut self) -> String {
        self.names += 1;
        let schema = if self.chance(25) { "other" } else { "public" };
        // A name can come back.
        let number = if self.chance(30) { self.random.random_range(0..self.names) } else { self.names };
        let name = if self.chance(20) { format!("T {number}") } else { format!("t{number}") };
        format!("{schema}.{}", quoted(&name))
    }

    fn column_name(&mut self) -> String {
        let plain = self.random.random_range(0..8);
        if self.chance(50) { format!("c{plain}") } else { quoted(self.one::<&str>(NAMES)) }
    }

    fn create(&mut self) -> Vec<String> {
        let name = self.table_name();
        if self.chance(12) {
            return self.create_partitioned(&name);
        }
        let key = self.column_name();
        let mut columns = vec![format!("{key} int")];
        for _ in 0..self.random.random_range(0..6) {
            let (kind, _) = *self.one(VALUES);
            columns.push(format!("{} {kind}", self.column_name()));
        }
        let mut sql = vec![];
        match self.random.random_range(0..10) {
            0..5 => columns[0].push_str(" PRIMARY KEY"),
            5..7 => {
                columns[0].push_str(" NOT NULL");
                let index = format!("i{}", self.names);
                sql.push(format!("CREATE UNIQUE INDEX {index} ON {name} ({key})"));
                sql.push(format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"));
            }
            _ => {}
        }
        sql.insert(0, format!("CREATE TABLE {name} ({})", columns.join(", ")));
        sql
    }

    fn create_partitioned(&mut self, name: &str) -> Vec<String> {
        let leaf = |number: i32| format!("{}p{number}\"", name.trim_end_matches('"'));
        vec![
            format!("CREATE TABLE {name} (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id)"),
            format!("CREATE TABLE {} PARTITION OF {name} FOR VALUES FROM (0) TO (500)", leaf(0)),
            format!("CREATE TABLE {} (v text, extra int, id int NOT NULL)", leaf(1)),
            format!("ALTER TABLE {} DROP COLUMN extra", leaf(1)),
            format!("ALTER TABLE {name} ATTACH PARTITION {} FOR VALUES FROM (500) TO (100000)", leaf(1)),
            format!("INSERT INTO {name} SELECT g * 13, md5(g::text) FROM generate_series(1, 60) g"),
            format!("UPDATE {name} SET id = id + 490 WHERE id < 100 AND id % 2 = 0"),
        ]
    }

    fn detach(&mut self, tables: &[Table]) -> Vec<String> {
        let parents: Vec<&Table> = tables.iter().filter(|table| table.kind == "p").collect();
        let Some(parent) = parents.choose(&mut self.random) else { return Vec::new() };
        let leaf = format!("{}p0\"", parent.sql.trim_end_matches('"'));
        match self.random.random_range(0..3) {
            0 => vec![format!("ALTER TABLE {} DETACH PARTITION {leaf}", parent.sql)],
            1 => vec![format!("ALTER TABLE {} ADD COLUMN {} int DEFAULT 7", parent.sql, self.column_name())],
            _ => vec![format!("TRUNCATE {}", parent.sql)],
        }
    }

    /// An expression that gives a value of a type as the catalogue names it.
    fn value(&mut self, kind: &str) -> String {
        let fits: Vec<&(&str, &str)> = VALUES.iter().filter(|(known, _)| same_type(known, kind)).collect();
        if self.chance(10) || fits.is_empty() {
            return "NULL".to_owned();
        }
        self.one(&fits).1.to_owned()
    }

    fn insert(&mut self, table: &Table) -> Vec<String> {
        let start = self.random.random_range(0..5000);
        let rows = self.random.random_range(1..40);
        let values: Vec<String> = table
            .columns
            .iter()
            .enumerate()
            .map(|(at, (_, kind))| match at {
                0 if kind == "integer" || kind == "bigint" => "g".to_owned(),
                _ => self.value(kind),
            })
            .collect();
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            return vec![format!("INSERT INTO {} DEFAULT VALUES", table.sql)];
        }
        vec![format!(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series({start}, {}) g ON CONFLICT DO NOTHING",
            table.sql,
            names.join(", "),
            values.join(", "),
            start + rows
        )]
    }

    fn update(&mut self, table: &Table) -> Vec<String> {
        let Some((column, kind)) = table.columns.choose(&mut self.random) else { return Vec::new() };
        let value = match kind.as_str() {
            "integer" if self.chance(50) => format!("{column} + 100000"),
            kind => self.value(kind),
        };
        vec![format!("UPDATE {} SET {column} = {value} WHERE random() < 0.3", table.sql)]
    }

    fn delete(&mut self, table: &Table) -> Vec<String> {
        vec![format!("DELETE FROM {} WHERE random() < 0.2", table.sql)]
    }

    fn add_column(&mut self, table: &Table) -> Vec<String> {
        let name = self.column_name();
        let (kind, value) = *self.one(VALUES);
        let more = match self.random.random_range(0..6) {
            // One constant for all rows: none is written anew.
            0 => " DEFAULT '7'".to_owned(),
            1 => format!(" DEFAULT '7' NOT NULL, ADD {} text DEFAULT ' \"it''s\" \\ {{,}} '", self.column_name()),
            // A value of its own for each.
            2 => match value.contains("SELECT") {
                true => String::new(),
                false => format!(" DEFAULT {value}"),
            },
            3 => return vec![format!("ALTER TABLE {} ADD COLUMN {name} bigserial", table.sql)],
            4 => return vec![format!("ALTER TABLE {} ADD COLUMN {name} int GENERATED ALWAYS AS IDENTITY", table.sql)],
            _ => String::new(),
        };
        vec![format!("ALTER TABLE {} ADD COLUMN {name} {kind}{more}", table.sql)]
    }

    fn column_of(&mut self, table: &Table, action: impl FnOnce(&str, &str) -> String) -> Vec<String> {
        let Some((column, kind)) = table.columns.choose(&mut self.random) else { return Vec::new() };
        vec![format!("ALTER TABLE {} {}", table.sql, action(column, kind))]
    }

    fn change_type(&mut self, table: &Table) -> Vec<String> {
        let Some((column, kind)) = table.columns.choose(&mut self.random) else { return Vec::new() };
        let to = match kind.as_str() {
            "integer" => *self.one(&["bigint", "text", "numeric", "oid"]),
            "bigint" => "numeric",
            "timestamp without time zone" => "timestamptz",
            "timestamp with time zone" => "timestamp",
            "character varying(40)" => *self.one(&["text", "varchar(100)", "varchar"]),
            "numeric(12,3)" => *self.one(&["numeric", "numeric(14,3)", "numeric(14,1)"]),
            "integer[]" => "bigint[]",
            "positive" => "int",
            _ => "text",
        };
        let zone = if self.chance(50) { "SET LOCAL TimeZone = 'UTC'" } else { "SET LOCAL TimeZone = 'Asia/Kathmandu'" };
        vec![zone.to_owned(), format!("ALTER TABLE {} ALTER COLUMN {column} TYPE {to} USING {column}::{to}", table.sql)]
    }

    fn identity(&mut self, table: &Table) -> Vec<String> {
        let key = table.columns.first().map_or("x", |(name, _)| name.as_str());
        let sql = &table.sql;
        match self.random.random_range(0..4) {
            0 => vec![format!("ALTER TABLE {sql} REPLICA IDENTITY FULL")],
            1 => vec![format!("ALTER TABLE {sql} REPLICA IDENTITY DEFAULT")],
            2 => vec![
                format!("ALTER TABLE {sql} ADD PRIMARY KEY ({key})"),
                format!("ALTER TABLE {sql} REPLICA IDENTITY DEFAULT"),
            ],
            _ => vec![format!(
                "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE {} DROP CONSTRAINT %I', conname) FROM pg_constraint
                 WHERE conrelid = '{}'::regclass AND contype = 'p'); END $$",
                sql.replace('\'', "''"),
                sql.replace('\'', "''")
            )],
        }
    }

    fn rename(&mut self, table: &Table) -> Vec<String> {
        let sql = &table.sql;
        match self.random.random_range(0..3) {
            0 => vec![format!("ALTER TABLE {sql} SET SCHEMA other")],
            1 => vec!["ALTER SCHEMA other RENAME TO another".into(), "CREATE SCHEMA other".into()],
            _ => {
                self.names += 1;
                vec![format!("ALTER TABLE {sql} RENAME TO {}", quoted(&format!("r{}", self.names)))]
            }
        }
    }

    fn other_definition(&mut self, table: &Table) -> Vec<String> {
        let sql = &table.sql;
        match self.random.random_range(0..6) {
            0 => vec![format!("COMMENT ON TABLE {sql} IS 'it''s \"commented\"'")],
            1 => vec![format!("GRANT SELECT ON {sql} TO PUBLIC")],
            2 => vec![format!("CREATE INDEX ON {sql} ((1))")],
            3 => vec![
                format!("ALTER TABLE {sql} ENABLE ROW LEVEL SECURITY"),
                format!("CREATE POLICY p ON {sql} USING (true)"),
            ],
            4 => vec![format!(
                "CREATE VIEW v_{} AS SELECT count(*) FROM {sql}",
                quoted(&table.name).replace('"', "").replace(' ', "_")
            )],
            _ => vec!["ALTER TYPE mood ADD VALUE IF NOT EXISTS 'new'".into()],
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether what is written in [`VALUES`] is what `format_type` says.
fn same_type(written: &str, formatted: &str) -> bool {
    let canonical = match written {
        "int" => "integer",
        "varchar(40)" => "character varying(40)",
        "char(8)" => "character(8)",
        "numeric(12, 3)" => "numeric(12,3)",
        "float8" => "double precision",
        "bool" => "boolean",
        "timestamp" => "timestamp without time zone",
        "timestamptz" => "timestamp with time zone",
        "time" => "time without time zone",
        "int[]" => "integer[]",
        other => other,
    };
    canonical == formatted
}

const TABLES: &str = "
    SELECT format('%I.\"%s\"', n.nspname, replace(c.relname, '\"', '\"\"')), c.relname::text, c.relkind::text,
      COALESCE((SELECT array_agg(format('%I', a.attname) ORDER BY a.attnum) FROM pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''), '{}'),
      COALESCE((SELECT array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''), '{}')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY c.oid";

async fn tables(client: &Client) -> Vec<Table> {
    let rows = client.query(TABLES, &[]).await.unwrap();
    let table = |row: &tokio_postgres::Row| {
        let (names, kinds): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        Table { sql: row.get(0), name: row.get(1), kind: row.get(2), columns: names.into_iter().zip(kinds).collect() }
    };
    rows.iter().map(table).collect()
}
