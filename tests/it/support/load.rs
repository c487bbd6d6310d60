//! Traffic of every kind, from several sessions at once, while other things happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::{Database, wait_for};

const ERP: &str = include_str!("../../../schemas/erp.sql");
const ERP_DATA: &str = include_str!("../../../schemas/erp-data.sql");
const ERP_TRAFFIC: &str = include_str!("../../../schemas/erp-traffic.sql");

/// Tables whose types, names, keys and identities are the awkward ones.
const AWKWARD: &str = r#"
CREATE TYPE mood AS ENUM ('so, so', 'happy "x"', '');
CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE nasty (
    id bigint PRIMARY KEY, n numeric, np numeric(12,3), f4 real, f8 double precision, t text, c char(5), v varchar(40),
    b bytea, j jsonb, js json, ts timestamp, tz timestamptz, d date, tm time(3), tt timetz, iv interval, u uuid,
    ta text[], ia int[], r int4range, mr nummultirange, bits varbit(16), ip inet, pt point, m mood, e even, p pair,
    o boolean, cash money, lsn pg_lsn, big text, big_bytes bytea);
ALTER TABLE nasty ALTER big SET STORAGE EXTERNAL, ALTER big_bytes SET STORAGE EXTERNAL;
CREATE TABLE "Odd, ""Names""" (
    "Key of it" int, key text, "_lsn" text, "_OP" int, "T" text, t text, "a=b;{c}" text, "päth%20~1" text,
    PRIMARY KEY ("Key of it", key));
CREATE TABLE heap (a int, b text, c numeric);
ALTER TABLE heap REPLICA IDENTITY FULL;
ALTER TABLE heap ALTER b SET STORAGE EXTERNAL;
CREATE TABLE by_index (id int, code text NOT NULL, note text);
CREATE UNIQUE INDEX by_index_code ON by_index (code);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;
CREATE TABLE parts (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2025-01-01');
CREATE TABLE parts_new PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO (MAXVALUE);
CREATE TABLE journal (worker int, step bigint, PRIMARY KEY (worker, step));
"#;

/// Sessions at work until stopped.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes the tables and some rows.
    pub(crate) async fn prepare(database: &Database) {
        for script in [ERP, ERP_DATA, ERP_TRAFFIC, "SELECT * FROM demo_fill(2, 2000, 2000)", AWKWARD] {
            database.run(script).await;
        }
        let client = database.connect().await;
        let mut random = StdRng::seed_from_u64(1);
        for id in 0..40 {
            client.batch_execute(&nasty_insert(&mut random, id)).await.unwrap();
        }
        client
            .batch_execute("INSERT INTO heap SELECT g % 7, repeat('h', g * 300), NULL FROM generate_series(1, 20) g")
            .await
            .unwrap();
    }

    /// Starts sessions. What they do follows from the seed, when they do it from the machine.
    pub(crate) fn start(database: &Database, seed: u64, sessions: u64) -> Load {
        // Steps that no earlier load has used, since a database may see several.
        static LOADS: AtomicI64 = AtomicI64::new(0);
        let first_step = LOADS.fetch_add(1, Ordering::Relaxed) * 1_000_000;
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let worker = |number| {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number);
            let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
            let worker = Worker { number, step: first_step, random, stop, committed };
            tokio::spawn(worker.work(database.url().to_owned()))
        };
        let workers = (0..sessions).map(worker).collect();
        Load { stop, committed, workers }
    }

    /// Transactions committed so far, as far as the sessions know.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until so many more are committed.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, transactions: u64) {
        let goal = self.committed() + transactions;
        wait_for("the load commits", Duration::from_secs(120), || self.committed() >= goal);
    }

    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.await.unwrap();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    number: u64,
    step: i64,
    random: StdRng,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Worker {
    async fn work(mut self, url: String) {
        while !self.stop.load(Ordering::Relaxed) {
            // The server may be away: that is what some tests are about.
            if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                self.use_connection(&client).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn use_connection(&mut self, client: &Client) {
        if client.batch_execute("SET lock_timeout = '1s'; SET synchronous_commit = off").await.is_err() {
            return;
        }
        while !self.stop.load(Ordering::Relaxed) {
            let sql = self.transaction();
            match client.batch_execute(&sql).await {
                Ok(()) => drop(self.committed.fetch_add(1, Ordering::Relaxed)),
                // A deadlock, a lock that took too long, or the end of the connection.
                Err(error) if error.as_db_error().is_some_and(|db| is_expected(db.code().code())) => {
                    if client.batch_execute("ROLLBACK").await.is_err() {
                        return;
                    }
                }
                Err(error) if error.as_db_error().is_some() && !client.is_closed() => panic!("{sql}: {error:?}"),
                Err(_) => return,
            }
            let pause = self.random.random_range(0..20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn transaction(&mut self) -> String {
        self.step += 1;
        let mut sql = format!("BEGIN; INSERT INTO journal VALUES ({}, {});", self.number, self.step);
        for _ in 0..self.random.random_range(1..4) {
            match self.random.random_range(0..6) {
                0 => {
                    let end = if self.random.random() { "ROLLBACK TO s" } else { "RELEASE s" };
                    let (first, second) = (self.change(), self.change());
                    sql.push_str(&format!("SAVEPOINT s; {first}; SAVEPOINT inner_s; {second}; {end};"));
                }
                _ => sql.push_str(&format!("{};", self.change())),
            }
        }
        sql.push_str(if self.random.random_range(0..12) == 0 { "ROLLBACK" } else { "COMMIT" });
        sql
    }

    /// One statement. Sessions keep to rows of their own, so that few of them wait for each other.
    fn change(&mut self) -> String {
        let (worker, step) = (self.number, self.step);
        let random = &mut self.random;
        let own = |random: &mut StdRng| random.random_range(0..60) + worker * 1000;
        let (id, other) = (own(random), own(random));
        let word = random.random_range(0..1000);
        match random.random_range(0..28) {
            0..4 => format!("SELECT demo_traffic({worker}, {step})"),
            4..8 => nasty_insert(random, id),
            8..10 => format!("UPDATE nasty SET n = coalesce(n, 0) + 1, t = 'changed {word}' WHERE id = {id}"),
            10 => format!("UPDATE nasty SET big = repeat(md5('{word}'), 200) WHERE id = {id}"),
            // The key changes, and the large values do not.
            11..13 => format!("UPDATE nasty SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM nasty WHERE id = {other})"),
            13 => format!("DELETE FROM nasty WHERE id = {id}"),
            14..16 => format!(
                "INSERT INTO \"Odd, \"\"Names\"\"\" VALUES ({id}, 'k{worker}', '1/2', {word}, E'a\\tb\\n,\"', '\\.', '\\N', NULL)
                 ON CONFLICT (\"Key of it\", key) DO UPDATE SET \"_lsn\" = '{word}', t = NULL, \"a=b;{{c}}\" = ''"
            ),
            16 => format!("DELETE FROM \"Odd, \"\"Names\"\"\" WHERE \"Key of it\" = {id}"),
            17 => format!("INSERT INTO heap SELECT {worker}, repeat('x', {word} * 9), NULL FROM generate_series(1, 3)"),
            18 => format!("UPDATE heap SET c = {word} WHERE ctid IN (SELECT ctid FROM heap WHERE a = {worker} LIMIT 1)"),
            19 => format!("DELETE FROM heap WHERE ctid IN (SELECT ctid FROM heap WHERE a = {worker} LIMIT 1)"),
            20 => format!("INSERT INTO by_index VALUES ({id}, 'c{id}', NULL) ON CONFLICT (code) DO UPDATE SET note = 'n{word}'"),
            21 => format!("UPDATE by_index SET code = 'c{other}' WHERE code = 'c{id}' AND NOT EXISTS (SELECT FROM by_index WHERE code = 'c{other}')"),
            22 => format!("INSERT INTO parts VALUES ({id}, '2024-06-01', 'p{word}') ON CONFLICT (id, day) DO NOTHING"),
            // Into the other partition, and back.
            23 => format!("UPDATE parts SET day = '2025-06-01' WHERE id = {id} AND day = '2024-06-01' AND NOT EXISTS (SELECT FROM parts WHERE id = {id} AND day = '2025-06-01')"),
            24 => format!("DELETE FROM parts WHERE id = {id}"),
            25 if word < 100 => "TRUNCATE heap, parts".to_owned(),
            25 if word < 150 => "TRUNCATE \"Odd, \"\"Names\"\"\"".to_owned(),
            // Large.
            26 if word < 200 => format!("INSERT INTO heap SELECT {worker}, md5(g::text), g FROM generate_series(1, 4000) g"),
            26 if word < 400 => format!("UPDATE nasty SET f8 = {word} / 7.0 WHERE id BETWEEN {worker} * 1000 AND {worker} * 1000 + 999"),
            _ => format!("SELECT pg_logical_emit_message(true, 'afterimage', '{{\"step\": {step}}}')"),
        }
    }
}

fn is_expected(sqlstate: &str) -> bool {
    // Deadlock, lock timeout, unique violation, serialisation; the server goes or comes.
    ["40P01", "55P03", "23505", "40001", "57P01", "57P02", "57P03"].contains(&sqlstate)
}

/// A row of `nasty` with values at the edges of their types.
fn nasty_insert(random: &mut StdRng, id: u64) -> String {
    let mut one_of = |values: &[&str]| values[random.random_range(0..values.len())].to_owned();
    let values = [
        one_of(&["NULL", "'NaN'", "1e100", "-0.000000000000000000000000000001", "12345.6789", "'Infinity'"]),
        one_of(&["NULL", "'NaN'", "-123456789.125", "0.1"]),
        one_of(&["NULL", "'-0'", "'NaN'", "'Infinity'", "1.1754944e-38", "3.4028235e38"]),
        one_of(&["NULL", "'-Infinity'", "5e-324", "0.1", "1.7976931348623157e308"]),
        one_of(&["NULL", "''", "E'\\t\\n\\r\\\\ \"q\"'", "'日本語 🐘'", "'NULL'", "'\\.'", "E'\\x01'"]),
        one_of(&["NULL", "'a'", "''"]),
        one_of(&["NULL", "' padded '", "','"]),
        one_of(&["NULL", "''", "'\\x00ff'", "'\\x5c78'"]),
        one_of(&["NULL", "'null'", "'{\"a\": [1, 1.0, \"\\u0041\"]}'", "'1e400'"]),
        one_of(&["NULL", "'{ \"b\" :1,  \"b\":2 }'"]),
        one_of(&[
            "NULL",
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'2025-10-09 14:03:00.000001'",
        ]),
        one_of(&["NULL", "'infinity'", "'0001-01-01 BC'", "'2025-03-30 01:30:00+01'", "'1969-12-31 23:59:59.999999Z'"]),
        one_of(&["NULL", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2024-02-29'"]),
        one_of(&["NULL", "'24:00:00'", "'00:00:00.001'"]),
        one_of(&["NULL", "'23:59:59.999999+15:59:59'", "'00:00:00-12'"]),
        one_of(&["NULL", "'-1 year -2 mons +3 days -04:05:06.789'", "'0'", "'178000000 years'"]),
        one_of(&["NULL", "'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()"]),
        one_of(&["NULL", "'{}'", "ARRAY['a,b', NULL, 'NULL', '\"', '']", "'[2:3]={x,y}'", "'{{a,b},{c,d}}'"]),
        one_of(&["NULL", "'{1,NULL,-2147483648}'"]),
        one_of(&["NULL", "'empty'", "'(,5]'", "'[1,10)'"]),
        one_of(&["NULL", "'{}'", "'{[1.5,2),(3,]}'"]),
        one_of(&["NULL", "''", "'1011'"]),
        one_of(&["NULL", "'::1/128'", "'10.0.0.0/8'", "'1.2.3.4'"]),
        one_of(&["NULL", "'(1e-300,-0)'"]),
        one_of(&["NULL", "'so, so'", "'happy \"x\"'", "''"]),
        one_of(&["NULL", "2", "-2147483648"]),
        one_of(&["NULL", "ROW(1, 'a,\"b')", "ROW(NULL, NULL)"]),
        one_of(&["NULL", "true", "false"]),
        one_of(&["NULL", "'-92233720368547758.08'", "1.5"]),
        one_of(&["NULL", "'16/B374D848'", "'0/0'"]),
        one_of(&["NULL", "''", "repeat('0123456789abcdef', 500)", "repeat('é', 5000)"]),
        one_of(&["NULL", "decode(repeat('00ff', 4000), 'hex')"]),
    ];
    format!("INSERT INTO nasty VALUES ({id}, {}) ON CONFLICT (id) DO NOTHING", values.join(", "))
}
