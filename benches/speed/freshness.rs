//! How long after its commit a change is durable in the archive: where nothing else happens, and under a steady load.

use std::fs::{self, File};
use std::process::Child;
use std::time::Duration;

use super::Result;
use super::lab::{Lab, ROW, wait_for_slot};
use super::process;
use super::report::Report;

const DATABASE: &str = "fresh";
const COMMITS: usize = 15;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, 0)?;
    lab.sql(DATABASE, "CREATE TABLE waits (seconds float8)")?;
    let archive = lab.path(DATABASE);
    let settings = [("1s", "with the default --flush-interval"), ("50ms", "with --flush-interval 50ms")];
    process::measure(lab.afterimage(DATABASE, &archive).args(["init", "--tables", "items"]))?;
    for (interval, said) in settings {
        lab.sql(DATABASE, "TRUNCATE waits, items")?;
        let archiver = process::spawn(lab.afterimage(DATABASE, &archive).args(["run", "--flush-interval", interval]))?;
        let waited = waits(lab, &archiver);
        process::stop(archiver)?;
        report.waits(&format!("commit to durable and acknowledged, idle source, {said}"), waited?);
    }
    for interval in ["1s", "100ms"] {
        under_load(lab, report, interval)?;
    }
    lab.forget(DATABASE, &archive)
}

/// Transactions per second, and for how many seconds.
const RATE: u32 = 2000;
const SECONDS: u32 = 30;

/// The archiver's own measure, with its clock and the source's being the same.
fn under_load(lab: &Lab, report: &mut Report, interval: &str) -> Result<()> {
    let (archive, events, script) = (lab.path(DATABASE), lab.path("events"), lab.path("insert.sql"));
    lab.sql(DATABASE, "TRUNCATE items; CREATE SEQUENCE IF NOT EXISTS ids")?;
    fs::write(&script, format!("INSERT INTO items SELECT {ROW} FROM nextval('ids') n;\n"))?;
    lab.catch_up(DATABASE, &archive)?;
    let mut command = lab.afterimage(DATABASE, &archive);
    command.args(["run", "--json", "--flush-interval", interval]).stdout(File::create(&events)?);
    let archiver = process::spawn(&mut command)?;
    let mut load = lab.pgbench(DATABASE);
    load.args(["--no-vacuum", "--client", "4", "--protocol", "prepared", "--file"]).arg(&script);
    load.args(["--rate", &RATE.to_string(), "--time", &SECONDS.to_string()]);
    let loaded = process::measure(&mut load).and_then(|_| lab.wait_until_archived(DATABASE));
    process::stop(archiver)?;
    loaded?;
    let said = fs::read_to_string(&events)?;
    let total: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    let number = |name: &str| total[name].as_f64().ok_or_else(|| format!("{total} has no {name}"));
    let (transactions, p50, p99) = (number("transactions")?, number("p50_ms")?, number("p99_ms")?);
    report.freshness(
        &format!("{RATE} transactions/s for {SECONDS} s, --flush-interval {interval}"),
        transactions,
        p50,
        p99,
    );
    Ok(())
}

fn waits(lab: &Lab, archiver: &Child) -> Result<Vec<Duration>> {
    lab.wait_until_archived(DATABASE)?;
    let wait = wait_for_slot(DATABASE, "pg_current_wal_insert_lsn()");
    let acknowledged = format!(
        "DO $do$ DECLARE committed timestamptz; BEGIN
             FOR i IN 1..{COMMITS} LOOP
                 PERFORM pg_sleep(random());
                 INSERT INTO items SELECT {ROW} FROM (VALUES (i)) row (n);
                 COMMIT;
                 committed := clock_timestamp();
                 {wait}
                 INSERT INTO waits VALUES (extract(epoch FROM clock_timestamp() - committed));
                 COMMIT;
             END LOOP;
         END $do$"
    );
    lab.sql(DATABASE, &acknowledged).map_err(|error| format!("archiver {}: {error}", archiver.id()))?;
    let seconds = lab.sql(DATABASE, "SELECT seconds FROM waits")?;
    let parse = |line: &str| line.parse::<f64>().map(Duration::from_secs_f64).map_err(Into::into);
    seconds.lines().map(parse).collect()
}
