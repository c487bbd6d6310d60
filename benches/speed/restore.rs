//! Rows brought back: against COPY of the same rows into the same table, and an incident from the alert to the end.

use std::path::Path;

use super::Result;
use super::lab::{Lab, compare_in, settle};
use super::process::{self, Cost};
use super::report::Report;

const ROWS: u64 = 1_500_000;
/// Sets of deleted rows, and how often they are measured.
const DAMAGE: [(u64, usize); 3] = [(10_000, 3), (100_000, 3), (1_000_000, 1)];
/// A set that costs many minutes, only on request.
const LARGE: u64 = 10_000_000;
const DATABASE: &str = "restored";
/// How many come back again and again.
pub(crate) const SAME_ROWS: u64 = 10_000;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    match super::is_large() {
        true => against_copy(lab, report, LARGE + LARGE / 10, &[(LARGE, 1)]),
        false => against_copy(lab, report, ROWS, &DAMAGE),
    }
}

/// Deleted rows, with two indexes and a foreign key on.
fn against_copy(lab: &Lab, report: &mut Report, rows: u64, damage: &[(u64, usize)]) -> Result<()> {
    prepare(lab, rows)?;
    let archive = lab.init(DATABASE)?;
    let before = lab.position(DATABASE)?;
    // A restore waits until the archive has what the source has; a running archiver sees to that, under both alike.
    let archiver = process::spawn(lab.afterimage(DATABASE, &archive).args(["run", "--flush-interval", "50ms"]))?;
    for &(deleted, rounds) in damage {
        let file = lab.path("deleted.copy");
        let (file, condition) = (file.display(), format!("id <= {deleted}"));
        lab.sql(DATABASE, &format!("\\copy (SELECT * FROM items WHERE {condition}) TO '{file}' (FORMAT binary)"))?;
        let delete = || delete(lab, DATABASE, &condition);
        let compared = compare_in(
            rounds,
            || {
                delete()?;
                process::measure(&mut lab.psql(DATABASE, &format!("\\copy items FROM '{file}' (FORMAT binary)")))
            },
            || {
                delete()?;
                restore(lab, DATABASE, &archive, &before)
            },
        )?;
        require_rows(lab, DATABASE, rows)?;
        let title = "restore of deleted rows, two indexes and a foreign key on";
        report.compared(title, "COPY … FROM (FORMAT binary)", deleted, &compared);
    }
    process::stop(archiver)?;
    lab.forget(DATABASE, &archive)
}

fn prepare(lab: &Lab, rows: u64) -> Result<()> {
    lab.database(DATABASE, rows)?;
    lab.sql(DATABASE, "CREATE TABLE kinds (id bigint PRIMARY KEY); INSERT INTO kinds SELECT generate_series(0, 999)")?;
    lab.sql(DATABASE, "ALTER TABLE items ADD kind bigint; UPDATE items SET kind = id % 1000")?;
    lab.sql(DATABASE, "ALTER TABLE items ADD FOREIGN KEY (kind) REFERENCES kinds; CREATE INDEX ON items (changed_at)")?;
    lab.sql(DATABASE, "VACUUM FULL ANALYZE items").map(drop)
}

/// A set of rows that comes back again and again, out of whatever the archive holds.
pub(crate) fn of_the_same_rows(lab: &Lab, database: &str, archive: &Path) -> Result<Vec<Cost>> {
    let before = lab.position(database)?;
    let present = rows(lab, database)?;
    let mut costs = Vec::new();
    for _ in 0..3 {
        delete(lab, database, &format!("id % 50 = 7 AND id <= {}", SAME_ROWS * 50))?;
        costs.push(restore(lab, database, archive, &before)?);
        require_rows(lab, database, present)?;
    }
    Ok(costs)
}

/// The ERP's incident, from the look at the alert's transaction to rows that are verified and committed.
pub(crate) fn incident(lab: &Lab, report: &mut Report) -> Result<()> {
    const RELATIONSHIPS: u64 = 1_000_000;
    const ERP: &str = include_str!("../../schemas/erp.sql");
    const NAME: &str = "erp";
    lab.sql("postgres", &format!("CREATE DATABASE {NAME} TEMPLATE template0"))?;
    let file = lab.path("erp.sql");
    std::fs::write(&file, ERP)?;
    process::measure(
        lab.client("psql", NAME).args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"]).arg(&file),
    )?;
    lab.sql(NAME, "INSERT INTO core_organizations (organization_name, organization_code) SELECT 'o' || g, 'o' || g FROM generate_series(1, 50) g")?;
    lab.sql(
        NAME,
        "INSERT INTO core_entities (organization_id, entity_type, entity_code, entity_name, smart_code)
         SELECT (array_agg(o.id))[1], 'thing', 'code ' || g, 'entity ' || g, 'HERA.X.V1'
         FROM generate_series(1, 100000) g JOIN (SELECT id, row_number() OVER () AS n FROM core_organizations) o ON o.n = 1 + g % 50
         GROUP BY g",
    )?;
    let fill = format!(
        "INSERT INTO core_relationships (organization_id, from_entity_id, to_entity_id, relationship_type, smart_code)
         SELECT e.organization_id, e.id, f.id, 'USER_MEMBER_OF_ORG', 'HERA.REL.X' || g || '.V1'
         FROM generate_series(1, {RELATIONSHIPS}) g
         JOIN (SELECT id, organization_id, row_number() OVER () AS n FROM core_entities) e ON e.n = 1 + g % 100000
         JOIN (SELECT id, row_number() OVER () AS n FROM core_entities) f ON f.n = 1 + g * 7 % 100000"
    );
    lab.sql(NAME, &fill)?;
    lab.sql(NAME, "VACUUM ANALYZE")?;
    let archive = lab.init(NAME)?;
    let archiver = process::spawn(lab.afterimage(NAME, &archive).args(["run", "--flush-interval", "50ms"]))?;
    let deleting = "BEGIN; DELETE FROM core_relationships; SELECT pg_current_xact_id()::xid; COMMIT";
    let transaction = lab.sql(NAME, deleting)?;
    lab.wait_until_archived(NAME)?;
    settle()?;
    let looked = process::measure(lab.afterimage(NAME, &archive).args(["incident", &transaction]))?;
    let undo = ["restore", "--undo", &transaction, "--apply"];
    let restored = process::measure(lab.afterimage(NAME, &archive).args(undo))?;
    process::stop(archiver)?;
    let present = lab.sql(NAME, "SELECT count(*) FROM core_relationships")?;
    if present != RELATIONSHIPS.to_string() {
        return Err(format!("{present} of {RELATIONSHIPS} relationships are there after the restore").into());
    }
    let both = Cost {
        wall: looked.wall + restored.wall,
        processor: looked.processor + restored.processor,
        peak_bytes: looked.peak_bytes.max(restored.peak_bytes),
    };
    report.alone("the ERP's incident, its page (incident)", RELATIONSHIPS, &[looked]);
    report.alone("the ERP's incident, from its page to verified (incident, restore)", RELATIONSHIPS, &[both]);
    lab.forget(NAME, &archive)
}

fn rows(lab: &Lab, database: &str) -> Result<u64> {
    Ok(lab.sql(database, "SELECT count(*) FROM items")?.parse()?)
}

fn require_rows(lab: &Lab, database: &str, wanted: u64) -> Result<()> {
    let present = rows(lab, database)?;
    if present == wanted {
        Ok(())
    } else {
        Err(format!("{present} of {wanted} rows are there after the restore").into())
    }
}

/// Leaves the table as it was before any round, and the archive knowing it.
fn delete(lab: &Lab, database: &str, condition: &str) -> Result<()> {
    lab.sql(database, &format!("DELETE FROM items WHERE {condition}"))?;
    lab.sql(database, "VACUUM items")?;
    lab.wait_until_archived(database)?;
    settle()
}

fn restore(lab: &Lab, database: &str, archive: &Path, before: &str) -> Result<Cost> {
    process::measure(
        lab.afterimage(database, archive).args(["restore", "items", "--to", before, "--only", "deleted", "--apply"]),
    )
}
