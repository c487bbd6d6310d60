//! What the source's own users feel of an archiver: against `pg_recvlogical` on the same slot.

use std::fs;
use std::process::Stdio;

use super::Result;
use super::lab::{Lab, Link, ROW, copy_slot, receiver, slot_of};
use super::process;
use super::report::Report;

const DATABASE: &str = "harm";
const SECONDS: u32 = 20;
const CLIENTS: &str = "4";
const ROUNDS: usize = 3;

/// What a load came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Felt {
    /// The latency that 95 of 100 transactions kept below, in milliseconds.
    pub(crate) p95: f64,
    /// The server's processor time per transaction, its walsender included, in microseconds.
    pub(crate) server: f64,
}

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, 100_000)?;
    lab.sql(DATABASE, "CREATE SEQUENCE ids START 1000000")?;
    let archive = lab.init(DATABASE)?;
    let slot = slot_of(DATABASE);
    let script = lab.path("harm.sql");
    let statements = format!(
        "\\set id random(1, 100000)
         BEGIN;
         INSERT INTO items SELECT {ROW} FROM nextval('ids') n;
         UPDATE items SET changed_at = now() WHERE id = :id;
         SELECT title FROM items WHERE id = :id;
         END;\n"
    );
    fs::write(&script, statements)?;
    let load = |rate: Option<u32>| -> Result<(f64, Felt)> {
        let log = lab.path("harm-log");
        fs::create_dir_all(&log)?;
        let mut pgbench = lab.pgbench(DATABASE);
        pgbench.args(["--no-vacuum", "--client", CLIENTS, "--protocol", "prepared", "--time", &SECONDS.to_string()]);
        pgbench.arg("--file").arg(&script).args(["--log", "--log-prefix"]).arg(log.join("log"));
        if let Some(rate) = rate {
            pgbench.args(["--rate", &rate.to_string()]);
        }
        let before = lab.server_time()?;
        process::measure(&mut pgbench)?;
        let server = lab.server_time()? - before;
        let mut latencies = latencies(&log)?;
        latencies.sort_unstable();
        lab.remove(&log)?;
        let p95 = latencies.get(latencies.len() * 95 / 100).ok_or("pgbench did nothing")?;
        let transactions = latencies.len() as f64;
        let felt = Felt { p95: *p95 as f64 / 1000.0, server: server.as_secs_f64() * 1e6 / transactions };
        Ok((transactions / f64::from(SECONDS), felt))
    };
    let (most, _) = load(None)?;
    let rate = (most / 2.0) as u32;
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    copy_slot(lab, &slot, "yardstick")?;
    for _ in 0..ROUNDS {
        // Neither has to catch up with what happened while the other ran.
        lab.sql(DATABASE, "SELECT pg_replication_slot_advance('yardstick', pg_current_wal_flush_lsn())")?;
        let drained = process::spawn(receiver(lab, Link::Tcp, DATABASE, "yardstick").stdout(Stdio::null()))?;
        let felt = load(Some(rate));
        process::interrupt(drained)?;
        theirs.push(felt?.1);
        lab.catch_up(DATABASE, &archive)?;
        let mut archiver = lab.afterimage_over(Link::Tcp, DATABASE, &archive);
        let archiver = process::spawn(archiver.args(["run", "--no-maintenance"]))?;
        let felt = load(Some(rate));
        process::stop(archiver)?;
        ours.push(felt?.1);
    }
    report.harm(
        &format!("pgbench, {CLIENTS} clients, {rate} transactions/s, half of what the machine can"),
        &theirs,
        &ours,
    );
    lab.forget(DATABASE, &archive)
}

/// Of every transaction, in microseconds: the third field of pgbench's log (manual, "pgbench", Per-Transaction Logging).
fn latencies(directory: &std::path::Path) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let log = fs::read_to_string(entry?.path())?;
        all.extend(log.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    Ok(all)
}
