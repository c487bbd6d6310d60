//! Whole tables: base images and exports, against COPY.

use std::path::Path;

use super::Result;
use super::lab::{Lab, compare, settle};
use super::process::{self, Cost};
use super::report::Report;

const ROWS: u64 = 5_000_000;
const DATABASE: &str = "whole";

/// Connections on either side, and what the line is called.
const IMAGES: [(usize, &str); 2] =
    [(1, "base image (afterimage init) over 1 connection"), (2, "base image (afterimage init) over 2 connections")];

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, ROWS)?;
    let archive = lab.path("image");
    let copied = |format: &str| {
        settle()?;
        process::measure(&mut lab.psql(DATABASE, &format!("COPY (SELECT * FROM items) TO STDOUT (FORMAT {format})")))
    };
    for (connections, title) in IMAGES {
        let images = compare(|| copied_in_ranges(lab, connections), || image(lab, &archive, connections))?;
        let archived = lab.ask(&archive, "SELECT count(*) FROM images.items")?;
        if archived != ROWS.to_string() {
            return Err(format!("{archived} of {ROWS} rows are in the base image").into());
        }
        report.compared(title, "as many COPY … TO STDOUT (FORMAT binary)", ROWS, &images);
    }
    let exports = compare(|| copied("csv, HEADER"), || export(lab, &archive))?;
    report.compared("export as CSV", "COPY … TO STDOUT (FORMAT csv, HEADER)", ROWS, &exports);
    lab.forget(DATABASE, &archive)
}

/// As many programs as connections, each with its share of the table's pages.
fn copied_in_ranges(lab: &Lab, connections: usize) -> Result<Cost> {
    let pages: usize = lab.sql(DATABASE, "SELECT pg_relation_size('items') / 8192")?.parse()?;
    let edge = |part: usize| format!("'({},0)'", pages * part / connections);
    let range = |part: usize| match part + 1 < connections {
        true => format!("ctid >= {} AND ctid < {}", edge(part), edge(part + 1)),
        false => format!("ctid >= {}", edge(part)),
    };
    let copy = |part| format!("COPY (SELECT * FROM items WHERE {}) TO STDOUT (FORMAT binary)", range(part));
    let mut commands: Vec<_> = (0..connections).map(|part| lab.psql(DATABASE, &copy(part))).collect();
    settle()?;
    process::measure_together(&mut commands)
}

fn image(lab: &Lab, archive: &Path, connections: usize) -> Result<Cost> {
    lab.drop_slots(&format!("database = '{DATABASE}'"))?;
    lab.remove(archive)?;
    settle()?;
    process::measure(lab.afterimage(DATABASE, archive).args(["init", "--copy-workers", &connections.to_string()]))
}

fn export(lab: &Lab, archive: &Path) -> Result<Cost> {
    lab.catch_up(DATABASE, archive)?;
    settle()?;
    process::measure(lab.afterimage(DATABASE, archive).args(["export", "items", "--at", "now"]))
}
