//! How long after the first deleted row there is an alert, and how long before the commit; and with `cancel`, how long
//! until the backend was stopped.
//!
//! The deletions commit as soon as they have deleted: a script that does more afterwards only gives the guard more time.
//! The smallest is not sent before it has committed. An alert counts from when the sink has told it, which is after it has
//! become durable.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

use super::Result;
use super::lab::{Lab, ROUNDS, ROW};
use super::process;
use super::report::Report;

const DATABASE: &str = "alarmed";
const ROWS: u64 = 1_000_000;
const DELETIONS: [u64; 3] = [100, 10_000, ROWS];

/// How long an alert may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one deletion came to, in milliseconds from its first row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alarm {
    /// When its client heard of the commit, or of the cancellation.
    pub(crate) ended: f64,
    /// When the alert was told.
    pub(crate) told: f64,
    /// It was stopped, and every row is there.
    pub(crate) stopped: bool,
}

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, ROWS)?;
    let archive = lab.init(DATABASE)?;
    for action in ["alert", "cancel"] {
        let configuration = lab.path("alarm.toml");
        fs::write(&configuration, rule(action))?;
        let mut command = lab.afterimage(DATABASE, &archive);
        command.args(["run", "--no-maintenance"]).env("AFTERIMAGE_CONFIG", &configuration);
        let (archiver, told) = watched(&mut command)?;
        let measured = lab.wait_until_archived(DATABASE).and_then(|()| {
            for rows in DELETIONS {
                let alarms = (0..ROUNDS).map(|_| deletion(lab, &told, rows)).collect::<Result<Vec<Alarm>>>()?;
                report.alarms(rows, action, &alarms);
            }
            Ok(())
        });
        process::stop(archiver)?;
        measured?;
    }
    lab.forget(DATABASE, &archive)
}

fn rule(action: &str) -> String {
    format!(
        "[[rule]]\nname = \"mass\"\ntables = [\"items\"]\noperations = [\"delete\"]\nrows = 50\naction = \"{action}\"\n\
         [[sink]]\nname = \"bench\"\nkind = \"stdout\"\n"
    )
}

/// Starts an archiver; what it tells comes with the time at which it was told.
fn watched(command: &mut Command) -> Result<(Child, Receiver<(SystemTime, Json)>)> {
    let mut archiver = process::spawn(command.stdout(Stdio::piped()))?;
    let stdout = archiver.stdout.take().ok_or("an archiver without standard output")?;
    let (sender, told) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            let now = SystemTime::now();
            if let Ok(event) = serde_json::from_str(&line)
                && sender.send((now, event)).is_err()
            {
                return;
            }
        }
    });
    Ok((archiver, told))
}

/// Deletes rows, notes what comes of it, and puts them back.
fn deletion(lab: &Lab, told: &Receiver<(SystemTime, Json)>, rows: u64) -> Result<Alarm> {
    let delete = format!("DELETE FROM items WHERE id <= {rows}");
    let mut psql = lab.psql(DATABASE, "BEGIN");
    // The transaction's number, and when it deletes its first row.
    psql.args(["--command", "SELECT pg_current_xact_id(), extract(epoch FROM clock_timestamp())"]);
    psql.args(["--command", &delete, "--command", "COMMIT"]);
    let output = psql.output()?;
    let end = SystemTime::now();
    let stopped = match (output.status.success(), String::from_utf8_lossy(&output.stderr)) {
        (true, _) => false,
        (false, said) if said.contains("canceling statement due to user request") => true,
        (false, said) => return Err(format!("{delete}: {said}").into()),
    };
    let begun = String::from_utf8(output.stdout)?;
    let (xid, start) = begun.trim().split_once('|').ok_or_else(|| format!("psql said {begun:?}"))?;
    let (xid, start): (u64, f64) = (xid.parse()?, start.parse()?);
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|time| (time.as_secs_f64() - start) * 1000.0);
    let alarm = loop {
        let (at, event) = told.recv_timeout(PATIENCE).map_err(|error| format!("no alert about {delete}: {error}"))?;
        if event["event"] == "raised" && event["xid"] == xid {
            let command = event["command"].as_str().unwrap_or_default();
            if !command.starts_with("afterimage restore --undo ") {
                return Err(format!("an alert without the command that takes it back: {event}").into());
            }
            break Alarm { ended: since(end)?, told: since(at)?, stopped };
        }
    };
    let gone = if stopped { 0 } else { rows };
    let left: u64 = lab.sql(DATABASE, "SELECT count(*) FROM items")?.parse()?;
    if left != ROWS - gone {
        return Err(format!("{left} rows are left after {delete}, stopped: {stopped}").into());
    }
    lab.sql(DATABASE, &format!("INSERT INTO items SELECT {ROW} FROM generate_series(1, {gone}) n"))?;
    lab.wait_until_archived(DATABASE)?;
    Ok(alarm)
}
