//! Whole tables: base images and exports, against COPY.

use std::path::Path;

use super::Result;
use super::lab::{Lab, compare, settle};
use super::process::{self, Cost};
use super::report::Report;

const ROWS: u64 = 1_000_000;
const DATABASE: &str = "whole";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, ROWS)?;
    let archive = lab.path("image");
    let copied = |format: &str| {
        settle()?;
        process::measure(&mut lab.psql(DATABASE, &format!("COPY (SELECT * FROM items) TO STDOUT (FORMAT {format})")))
    };
    let images = compare(|| copied("binary"), || image(lab, &archive))?;
    let archived = lab.ask(&archive, "SELECT count(*) FROM images.items")?;
    if archived != ROWS.to_string() {
        return Err(format!("{archived} of {ROWS} rows are in the base image").into());
    }
    report.compared("base image (afterimage init)", "COPY … TO STDOUT (FORMAT binary)", ROWS, &images);
    let exports = compare(|| copied("csv, HEADER"), || export(lab, &archive))?;
    report.compared("export as CSV", "COPY … TO STDOUT (FORMAT csv, HEADER)", ROWS, &exports);
    lab.forget(DATABASE, &archive)
}

fn image(lab: &Lab, archive: &Path) -> Result<Cost> {
    lab.drop_slots(&format!("database = '{DATABASE}'"))?;
    lab.remove(archive)?;
    settle()?;
    process::measure(lab.afterimage(DATABASE, archive).arg("init"))
}

fn export(lab: &Lab, archive: &Path) -> Result<Cost> {
    lab.catch_up(DATABASE, archive)?;
    settle()?;
    process::measure(lab.afterimage(DATABASE, archive).args(["export", "items", "--at", "now"]))
}
