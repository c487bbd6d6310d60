//! Deleted rows brought back, against COPY of the same rows into the same table.

use std::path::Path;

use super::Result;
use super::lab::{Lab, compare, settle};
use super::process::{self, Cost};
use super::report::Report;

const ROWS: u64 = 500_000;
const DELETED: u64 = 200_000;
const DATABASE: &str = "restored";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, ROWS)?;
    lab.sql(DATABASE, "CREATE INDEX ON items (changed_at)")?;
    let archive = lab.init(DATABASE)?;
    let before = lab.position(DATABASE)?;
    let file = lab.path("deleted.copy");
    let (file, condition) = (file.display(), format!("id % {ROWS} < {DELETED}"));
    lab.sql(DATABASE, &format!("\\copy (SELECT * FROM items WHERE {condition}) TO '{file}' (FORMAT binary)"))?;
    // A restore waits until the archive has what the source has; a running archiver sees to that, under both alike.
    let archiver = process::spawn(lab.afterimage(DATABASE, &archive).args(["run", "--flush-interval", "50ms"]))?;
    let delete = || delete(lab, &condition);
    let compared = compare(
        || {
            delete()?;
            process::measure(&mut lab.psql(DATABASE, &format!("\\copy items FROM '{file}' (FORMAT binary)")))
        },
        || {
            delete()?;
            restore(lab, &archive, &before)
        },
    );
    process::stop(archiver)?;
    let present = lab.sql(DATABASE, "SELECT count(*) FROM items")?;
    if present != ROWS.to_string() {
        return Err(format!("{present} of {ROWS} rows are there after the restore").into());
    }
    report.compared("restore of deleted rows", "COPY … FROM (FORMAT binary)", DELETED, &compared?);
    lab.forget(DATABASE, &archive)
}

/// Leaves the table as it was before any round, and the archive knowing it.
fn delete(lab: &Lab, condition: &str) -> Result<()> {
    lab.sql(DATABASE, &format!("DELETE FROM items WHERE {condition}"))?;
    lab.sql(DATABASE, "VACUUM items")?;
    lab.wait_until_archived(DATABASE)?;
    settle()
}

fn restore(lab: &Lab, archive: &Path, before: &str) -> Result<Cost> {
    process::measure(
        lab.afterimage(DATABASE, archive).args(["restore", "items", "--to", before, "--only", "deleted", "--apply"]),
    )
}
