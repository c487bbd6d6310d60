//! How long after its commit a change is durable in the archive, where nothing else happens.

use std::process::Child;
use std::time::Duration;

use super::Result;
use super::capture::drop_slot;
use super::lab::{Lab, ROW};
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
    lab.remove(&archive)?;
    drop_slot(lab, &format!("afterimage_{DATABASE}"))?;
    lab.sql("postgres", &format!("DROP DATABASE {DATABASE}")).map(drop)
}

/// The server looks by itself when the slot has passed a commit: nothing is polled over a connection.
fn waits(lab: &Lab, archiver: &Child) -> Result<Vec<Duration>> {
    let slot = format!("afterimage_{DATABASE}");
    let acknowledged = format!(
        "DO $do$ DECLARE committed timestamptz; place pg_lsn; BEGIN
             WHILE NOT (SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}') LOOP
                 PERFORM pg_sleep(0.05);
             END LOOP;
             FOR i IN 1..{COMMITS} LOOP
                 PERFORM pg_sleep(random());
                 INSERT INTO items SELECT {ROW} FROM (VALUES (i)) row (n);
                 COMMIT;
                 committed := clock_timestamp();
                 place := pg_current_wal_insert_lsn();
                 WHILE (SELECT confirmed_flush_lsn < place FROM pg_replication_slots WHERE slot_name = '{slot}') LOOP
                     PERFORM pg_sleep(0.001);
                 END LOOP;
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
