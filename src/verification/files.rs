//! Every file that the Delta tables name: there, of the written content, and with the rows that history counts.

use std::collections::HashMap;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::sums::hash;
use super::{Finding, Verified};
use crate::archive::{Archive, DataFile, Fetched, LogTable, TablePath, blocking};
use crate::columnar::names;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Operation, OperationCounts, TableName, Transaction};

/// Looks at the files of all tables.
pub(super) async fn look_at(
    archive: &Archive,
    tables: &[TableName],
    transactions: &[Transaction],
    verified: &mut Verified,
) -> Result<()> {
    for table in LogTable::ALL {
        files_of(archive, &TablePath::Log(table), verified, &mut |_| {}).await?;
    }
    for table in tables {
        files_of(archive, &TablePath::Images(table.clone()), verified, &mut |_| {}).await?;
        let expected = Changes::listed(transactions, table);
        let mut found = Changes::default();
        let whole =
            files_of(archive, &TablePath::Changes(table.clone()), verified, &mut |rows| found.add(rows)).await?;
        verified.changes += found.rows;
        // What a missing file had is missing: that is said already.
        if whole && found != expected {
            disagreement(archive, table, transactions, verified).await?;
        }
    }
    Ok(())
}

/// Looks at one table's files, and gives where its changes stand. Whether all files are whole.
async fn files_of(
    archive: &Archive,
    path: &TablePath,
    verified: &mut Verified,
    take: &mut (dyn FnMut(Rows) + Send),
) -> Result<bool> {
    let Some((_, files)) = archive.whole_table(path).await? else { return Ok(true) };
    let watermark = verified.watermark;
    let mut whole = true;
    for file in &files {
        match file_rows(archive, path, file, watermark, verified).await? {
            Ok(rows) => rows.into_iter().for_each(&mut *take),
            // Maintenance has replaced it meanwhile, and what replaced it was not looked at.
            Err(_) if is_replaced(archive, path, file).await? => {
                return Err(Failure::failed(format!("{} was replaced while it was looked at", file.path))
                    .remedy("verify again; files stay for maintenance's retention, which is very short here"));
            }
            Err(finding) => {
                whole = false;
                verified.find(Finding::new(&file.path, finding));
            }
        }
    }
    Ok(whole)
}

async fn is_replaced(archive: &Archive, path: &TablePath, file: &DataFile) -> Result<bool> {
    let now = archive.whole_table(path).await?.map(|(_, files)| files).unwrap_or_default();
    Ok(!now.iter().any(|other| other.path == file.path))
}

/// Changes of one transaction and operation in a file.
#[derive(Debug, Clone, Copy)]
struct Rows {
    lsn: Lsn,
    operation: Operation,
    rows: u64,
}

/// What a file says of changes up to the watermark; or what is wrong with the file.
async fn file_rows(
    archive: &Archive,
    path: &TablePath,
    file: &DataFile,
    watermark: Lsn,
    verified: &mut Verified,
) -> Result<std::result::Result<Vec<Rows>, String>> {
    verified.files += 1;
    verified.bytes += file.size;
    let (content, proven) = match archive.fetch(file).await? {
        Fetched::Whole { content, proven } => (content, proven),
        Fetched::Missing => return Ok(Err("the file is missing".to_owned())),
        Fetched::Altered => return Ok(Err("the file does not hold what was written: its checksum differs".to_owned())),
        Fetched::Resized(bytes) => return Ok(Err(format!("the file has {bytes} bytes instead of {}", file.size))),
    };
    verified.proven += u64::from(proven);
    let counted: Option<&[&str]> = match path {
        // Without a checksum only decoding every value shows that they are there.
        _ if !proven => None,
        TablePath::Changes(_) => Some(&[names::LSN, names::OP]),
        _ => Some(&[]),
    };
    let is_changes = matches!(path, TablePath::Changes(_));
    let read = blocking(move || Ok(read(content, counted, is_changes, watermark))).await?;
    Ok(read.map_err(|error| format!("the file cannot be read: {error}")))
}

/// Reads columns, all of them without `columns`.
fn read(
    content: Bytes,
    columns: Option<&[&str]>,
    is_changes: bool,
    watermark: Lsn,
) -> std::result::Result<Vec<Rows>, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(content).map_err(|error| error.to_string())?;
    let builder = match columns {
        Some(columns) => {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder.with_projection(mask)
        }
        None => builder,
    };
    let mut counts: HashMap<(Lsn, Operation), u64> = HashMap::new();
    for batch in builder.build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        if is_changes {
            count(&batch, watermark, &mut counts)?;
        }
    }
    Ok(counts.into_iter().map(|((lsn, operation), rows)| Rows { lsn, operation, rows }).collect())
}

fn count(
    batch: &RecordBatch,
    watermark: Lsn,
    counts: &mut HashMap<(Lsn, Operation), u64>,
) -> std::result::Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"));
    let lsns = column(names::LSN)?.as_primitive_opt::<Int64Type>().ok_or("its _lsn is no number")?;
    let operations = column(names::OP)?.as_string_opt::<i32>().ok_or("its _op is no text")?;
    for (lsn, operation) in lsns.iter().zip(operations) {
        let (Some(lsn), Some(operation)) = (lsn, operation) else {
            return Err("a change has no _lsn or no _op".into());
        };
        let (lsn, operation) = (Lsn::from_i64(lsn), Operation::parse(operation).ok_or("it has an unknown _op")?);
        if lsn < watermark && operation != Operation::Snapshot {
            *counts.entry((lsn, operation)).or_default() += 1;
        }
    }
    Ok(())
}

/// Changes by their transactions and operations, however many.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    rows: u64,
    sum: u128,
}

impl Changes {
    fn add(&mut self, Rows { lsn, operation, rows }: Rows) {
        self.rows += rows;
        let each = hash(&(lsn.0, operation as u8));
        self.sum = self.sum.wrapping_add(each.wrapping_mul(u128::from(rows)));
    }

    /// What the list of transactions says of a table.
    fn listed(transactions: &[Transaction], table: &TableName) -> Changes {
        let mut changes = Changes::default();
        for (lsn, counts) in of_table(transactions, table) {
            for operation in OperationCounts::COUNTED {
                changes.add(Rows { lsn, operation, rows: counts.of(operation) });
            }
        }
        changes
    }
}

fn of_table<'a>(
    transactions: &'a [Transaction],
    table: &'a TableName,
) -> impl Iterator<Item = (Lsn, OperationCounts)> + 'a {
    transactions
        .iter()
        .filter_map(move |transaction| transaction.tables.get(table).map(|counts| (transaction.commit.lsn, *counts)))
}

/// Says which transactions have other rows than the list says.
async fn disagreement(
    archive: &Archive,
    table: &TableName,
    transactions: &[Transaction],
    verified: &mut Verified,
) -> Result<()> {
    let mut found: HashMap<Lsn, OperationCounts> = HashMap::new();
    let mut again = verified.clone();
    let path = TablePath::Changes(table.clone());
    let mut take = |rows: Rows| {
        let counts = found.entry(rows.lsn).or_default();
        (0..rows.rows).for_each(|_| counts.add(rows.operation));
    };
    files_of(archive, &path, &mut again, &mut take).await?;
    let mut listed: HashMap<Lsn, OperationCounts> = of_table(transactions, table).collect();
    let mut lsns: Vec<Lsn> = found.keys().chain(listed.keys()).copied().collect();
    lsns.sort();
    lsns.dedup();
    for lsn in lsns {
        let (rows, said) = (found.remove(&lsn).unwrap_or_default(), listed.remove(&lsn).unwrap_or_default());
        if rows != said {
            let (rows, said) = (rows.total(), said.total());
            let finding =
                format!("{table} has {rows} changes of this transaction, and the list of transactions says {said}");
            verified.find(Finding::new(lsn, finding));
        }
    }
    Ok(())
}
