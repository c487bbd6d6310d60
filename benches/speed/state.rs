//! The state of a table after maintenance, one key's changes, and deletions per minute, against DuckDB over the same Parquet
//! files, and a restore out of the same archive, as it grows.
//!
//! DuckDB reads the newest image and the changes since, as we do, and takes of each key the last: the fastest of several
//! plans that were tried, `max` of the position per key, joined back. Both write CSV. Of a state only DuckDB's query is on
//! its bill, not Python's start; of us the whole process is. Looking one key up, and counting in a column, take hardly more
//! than starting a process, so of both sides only the query counts there: DuckDB is told the files, we have read their names
//! from the Delta log, and neither has read anything of them. Memory is a whole process's on both sides: Python with DuckDB,
//! and ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage::archive::{Archive, Store};
use afterimage::query::{ArchivedTables, Limits, Session};
use arrow::array::RecordBatch;
use futures::TryStreamExt as _;

use super::Result;
use super::lab::{Lab, ROW, compare, settle};
use super::process::{self, Cost};
use super::report::{Report, thousands};
use super::restore;

const KEYS: u64 = 1_000_000;
/// After so many changes the state is read and rows are restored, to show how the time grows.
const CHANGES: [u64; 2] = [1_000_000, 10_000_000];
/// The same on request.
const LARGE: u64 = 100_000_000;
/// Of so many rows each transaction changes one.
const EVERY: u64 = 10;
/// Of so many rows each transaction deletes one, and inserts it again.
const DELETED_EVERY: u64 = 1000;
const DATABASE: &str = "state";
const KEY: u64 = 4711;

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, KEYS)?;
    let archive = lab.init(DATABASE)?;
    let begun = lab.position(DATABASE)?;
    let archiver = process::spawn(lab.afterimage(DATABASE, &archive).args([
        "run",
        "--flush-interval",
        "50ms",
        "--no-maintenance",
    ]))?;
    let mut done = 0;
    for changes in CHANGES.into_iter().chain(super::is_large().then_some(LARGE)) {
        let kind = format!("{} changes since the image", thousands(changes));
        let (before, started) = (done, Instant::now());
        while done < changes {
            lab.sql(DATABASE, &transaction(done / (KEYS / EVERY) % EVERY))?;
            done += KEYS / EVERY;
        }
        lab.wait_until_archived(DATABASE)?;
        let cost = process::so_far(archiver.id(), started)?;
        report.alone(&format!("capture beside the updates, up to {kind}"), changes - before, &[cost]);
        settle()?;
        let cost = maintain(lab, &archive, "1TB")?;
        report.alone(&format!("maintain, {kind}"), changes, &[cost]);
        states(lab, &archive, report, &kind, changes)?;
    }
    let wal = lab.sql(DATABASE, &format!("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{begun}')"))?;
    let after = size(&archive.join("changes"))?;
    let cost = maintain(lab, &archive, "16MB")?;
    report.alone("maintain, writing an image", done, &[cost]);
    states(lab, &archive, report, "from the image that maintenance writes", done)?;
    let wal = wal.parse::<f64>()? as u64;
    report.sizes("updates of a table of 1,000,000 rows, after maintenance", done, wal, after);
    process::stop(archiver)?;
    lab.forget(DATABASE, &archive)
}

/// A tenth of the rows is changed, and of these a hundredth is deleted and comes back: so many changes as a tenth of the
/// rows in all.
fn transaction(number: u64) -> String {
    format!(
        "DELETE FROM items WHERE id % {DELETED_EVERY} = {number};
         INSERT INTO items SELECT {ROW} FROM generate_series(1, {KEYS}) n WHERE n % {DELETED_EVERY} = {number};
         UPDATE items SET changed_at = now(), title = md5(title)
           WHERE id % {EVERY} = {number} AND id % {DELETED_EVERY} NOT IN ({number}, {number} + {EVERY})"
    )
}

fn maintain(lab: &Lab, archive: &Path, floor: &str) -> Result<Cost> {
    let file = lab.path("maintenance.toml");
    fs::write(&file, format!("[maintenance]\nimage_floor = \"{floor}\"\n"))?;
    let mut command = lab.afterimage(DATABASE, archive);
    process::measure(command.arg("--config").arg(file).args(["maintain", "--retention", "0s"]))
}

fn states(lab: &Lab, archive: &Path, report: &mut Report, kind: &str, changes: u64) -> Result<()> {
    let at = lab.position(DATABASE)?;
    lab.wait_until_archived(DATABASE)?;
    let state = compare(
        || duckdb(&state_sql(archive)?),
        || process::measure(lab.afterimage(DATABASE, archive).args(["export", "items", "--at", &at])),
    )?;
    report.compared(&format!("state of a table of {} rows, {kind}", thousands(KEYS)), "DuckDB", changes, &state);
    let sql = format!("SELECT * FROM changes.items WHERE id = {KEY}");
    let theirs = format!("SELECT * FROM {} WHERE id = {KEY}", changes_of(archive)?);
    let lookup = compare(|| duckdb(&theirs), || asked(lab, archive, &sql))?;
    report.compared(&format!("one key's changes, {kind}"), "DuckDB", 1, &lookup);
    let per_minute = |changes: &str| {
        format!("SELECT date_trunc('minute', _ts), count(*) FROM {changes} WHERE _op = 'delete' GROUP BY 1 ORDER BY 1")
    };
    let (theirs, sql) = (per_minute(&changes_of(archive)?), per_minute("changes('items')"));
    let deletions = compare(|| duckdb(&theirs), || asked(lab, archive, &sql))?;
    report.compared(&format!("deletions per minute, {kind}"), "DuckDB", changes, &deletions);
    let restored = restore::of_the_same_rows(lab, DATABASE, archive)?;
    report.alone(&format!("restore of deleted rows, {kind}"), restore::SAME_ROWS, &restored);
    Ok(())
}

/// The changes as DuckDB reads them.
fn changes_of(archive: &Path) -> Result<String> {
    Ok(format!("read_parquet([{}])", parquet_files(&archive.join("changes/public/items"))?))
}

/// The state as DuckDB finds it quickest.
fn state_sql(archive: &Path) -> Result<String> {
    let (images, since) = newest_image(archive)?;
    let changes = changes_of(archive)?;
    Ok(format!(
        "WITH c AS (SELECT * FROM {changes} WHERE _lsn >= {since}), last AS (SELECT coalesce(id, _old.id) AS k, max(_lsn * 1048576 + _seq) AS p
           FROM c GROUP BY 1)
         SELECT c.id, c.title, c.details, c.changed_at FROM c JOIN last
           ON c.id = last.k AND c._lsn * 1048576 + c._seq = last.p WHERE c._op <> 'delete'
         UNION ALL SELECT id, title, details, changed_at FROM read_parquet([{images}]) i
           WHERE NOT EXISTS (SELECT 1 FROM last WHERE last.k = i.id)"
    ))
}

/// Asks DuckDB; the files are those that the Delta log lists.
fn duckdb(sql: &str) -> Result<Cost> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(|target| target.join("python/bin/python"));
    let python = python.filter(|python| python.exists()).ok_or("there is no DuckDB; run tests/install test")?;
    let copy = format!("COPY ({sql}) TO '/dev/null' (FORMAT csv, HEADER)");
    let script = format!(
        "import duckdb, resource, time\nduckdb.sql('SET enable_progress_bar = false')\nbegun = time.time()\nduckdb.sql({copy:?})
print(time.time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    );
    let output = Command::new(python).args(["-c", &script]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let said = String::from_utf8(output.stdout)?;
    let (seconds, kibibytes) = said.trim().split_once(' ').ok_or_else(|| format!("DuckDB said {said:?}"))?;
    let wall = Duration::from_secs_f64(seconds.parse()?);
    Ok(Cost { wall, processor: wall, peak_bytes: kibibytes.parse::<u64>()? << 10 })
}

/// Asks in this process, with the archive open; the memory is that of a process that asks the same.
fn asked(lab: &Lab, archive: &Path, sql: &str) -> Result<Cost> {
    let process = process::measure(lab.afterimage(DATABASE, archive).args(["query", "--format", "csv", sql]))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let wall = runtime.block_on(async {
        let store = Store::open(&format!("file://{}", archive.display()))?;
        let archive = Archive::open(&store).await?;
        let limits = Limits { memory_bytes: 512 << 20, spill_dir: std::env::temp_dir().join("afterimage-speed") };
        let tables = Arc::new(ArchivedTables::now(&archive).await?);
        let session = Session::new(tables, Arc::clone(store.objects()), store.root().clone(), limits)?;
        let _: Vec<RecordBatch> =
            session.sql("SELECT * FROM changes.items LIMIT 0").await?.batches.try_collect().await?;
        let begun = Instant::now();
        let batches: Vec<RecordBatch> = session.sql(sql).await?.batches.try_collect().await?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let wall = begun.elapsed();
        if rows == 0 { Err("nothing was found".into()) } else { Result::Ok(wall) }
    })?;
    Ok(Cost { wall, processor: wall, peak_bytes: process.peak_bytes })
}

/// The files of the newest image, and its LSN.
fn newest_image(archive: &Path) -> Result<(String, u64)> {
    let mut newest = (PathBuf::new(), 0);
    for entry in fs::read_dir(archive.join("images/public/items"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lsn = name.strip_prefix("_image_lsn=").and_then(|lsn| lsn.parse().ok()).unwrap_or(0);
        if lsn > newest.1 {
            newest = (path, lsn);
        }
    }
    Ok((parquet_files(&newest.0)?, newest.1))
}

/// A table's files as a list in SQL. Without the retention nothing lies there but what the table has.
fn parquet_files(directory: &Path) -> Result<String> {
    let paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let files = paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "parquet"));
    Ok(files.map(|path| format!("'{}'", path.display())).collect::<Vec<_>>().join(", "))
}

fn size(directory: &Path) -> Result<u64> {
    let output = Command::new("du").args(["--summarize", "--bytes"]).arg(directory).output()?;
    Ok(String::from_utf8(output.stdout)?.split_whitespace().next().unwrap_or("0").parse()?)
}
