//! How long after its commit a change is durable in the archive, where nothing else happens.

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
    lab.forget(DATABASE, &archive)
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
