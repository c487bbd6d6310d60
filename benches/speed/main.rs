//! Speed, always beside a yardstick that was measured in the same minute: `make bench`.
//!
//! | what | yardstick |
//! |---|---|
//! | capture: WAL to a durable archive | `pg_recvlogical -f /dev/null` over the same WAL |
//! | base image | as many `COPY … TO STDOUT (FORMAT binary)` to `/dev/null` as connections |
//! | restore of deleted rows | `COPY … FROM` of the same rows into the same table, indexes and foreign keys on |
//! | export as CSV | `COPY … TO STDOUT (FORMAT csv)` to `/dev/null` |
//! | what the source's users feel of an archiver | the same beside `pg_recvlogical` |
//! | capture through twenty rules of the guard | the same without rules |
//! | an alert before the commit | the commit |
//! | state of a table, one key's changes, deletions per minute, as the archive grows | DuckDB over the same Parquet files |
//!
//! A rate says as much of the machine as of the program, and machines are shared; a ratio to what PostgreSQL's own
//! programs do with the same bytes, run by turns, says more. Every run is a process of its own and is measured from its
//! start to its end, connecting included. With `AFTERIMAGE_BENCH_LARGE` set, ten million rows are restored, once, and no
//! fewer, and the archive whose states are read grows to a hundred million changes.
//! Words behind `--` choose parts: `make bench ONLY=capture`; each part writes its
//! section of `benches/RESULTS.md` when it is through, a large one its own.

mod alarm;
mod capture;
mod copies;
mod freshness;
mod guard;
mod harm;
mod lab;
mod process;
mod reading;
mod report;
mod restore;
mod state;

use std::error::Error;
use std::process::ExitCode;

use lab::Lab;
use report::{Machine, Report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A part of the whole: its name, and what it does.
type Part = (&'static str, fn(&Lab, &mut Report) -> Result<()>);

const PARTS: [Part; 9] = [
    ("capture", capture::measure),
    ("copies", copies::measure),
    ("restore", restore::measure),
    ("incident", restore::incident),
    ("reading", reading::measure),
    ("freshness", freshness::measure),
    ("harm", harm::measure),
    ("guard", guard::measure),
    ("state", state::measure),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether somebody wants what takes the better part of an hour.
fn is_large() -> bool {
    std::env::var_os("AFTERIMAGE_BENCH_LARGE").is_some()
}

fn run() -> Result<()> {
    // What begins with a dash is cargo's.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen: Vec<&Part> =
        PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name)).collect();
    if chosen.len() < wanted.len() {
        return Err(format!("the parts are {}", PARTS.map(|(name, _)| name).join(", ")).into());
    }
    let lab = Lab::open()?;
    let title = |name: &str, large: bool| format!("{name}{}", if large { ", large" } else { "" });
    let parts: Vec<String> = PARTS.iter().flat_map(|(name, _)| [false, true].map(|large| title(name, large))).collect();
    for (name, measure) in chosen {
        let mut report = Report::begin(title(name, is_large()), Machine::look(&lab)?);
        measure(&lab, &mut report)?;
        report.write(&parts)?;
    }
    Ok(())
}
