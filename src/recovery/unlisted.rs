//! What is in the tables of changes beyond the watermark.
//!
//! An archiver that ended between the files and the watermark leaves changes there, and so does an attempt to go on that was
//! cut off. Else the source sends them again, and they are known by their `applied` number; after a gap nobody does, so what
//! they are goes into the list of transactions as it stands there.

use std::collections::BTreeMap;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::DateTime;
use futures::TryStreamExt as _;

use crate::archive::Archive;
use crate::columnar::names;
use crate::failure::{Failure, Result};
use crate::model::{Commit, Lsn, Operation, TableName, Transaction, Xid};

/// The transactions beyond the watermark of which changes are there, in commit order.
pub(super) async fn unlisted(archive: &Archive, watermark: Lsn) -> Result<Vec<Transaction>> {
    let mut found = BTreeMap::new();
    for name in archive.tables_ever().await?.into_keys() {
        for file in archive.change_files(&name, watermark, Lsn::MAX).await? {
            let columns = [names::LSN, names::XID, names::TS, names::OP];
            let mut batches = archive.read(&file, Some(&columns)).await?.stream()?;
            while let Some(batch) = batches.try_next().await? {
                let counted = count(&batch, &name, watermark, &mut found);
                counted.ok_or_else(|| Failure::failed(format!("{}: not a file of changes", file.path)))?;
            }
        }
    }
    Ok(found.into_values().collect())
}

fn count(batch: &RecordBatch, name: &TableName, watermark: Lsn, found: &mut BTreeMap<Lsn, Transaction>) -> Option<()> {
    let lsns = batch.column_by_name(names::LSN)?.as_primitive_opt::<Int64Type>()?;
    let xids = batch.column_by_name(names::XID)?.as_primitive_opt::<Int64Type>()?;
    let times = batch.column_by_name(names::TS)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let operations = batch.column_by_name(names::OP)?.as_string_opt::<i32>()?;
    for row in (0..batch.num_rows()).filter(|row| Lsn::from_i64(lsns.value(*row)) >= watermark) {
        let lsn = Lsn::from_i64(lsns.value(row));
        let operation = Operation::parse(operations.value(row))?;
        if operation == Operation::Snapshot {
            continue;
        }
        let time = DateTime::from_timestamp_micros(times.value(row))?;
        let xid = Xid::try_from(xids.value(row)).ok()?;
        // Where its commit record ended is not known any more.
        let commit = Commit { lsn, end_lsn: Lsn(lsn.0 + 1), xid, time };
        let transaction = found.entry(lsn).or_insert(Transaction { commit, tables: BTreeMap::new(), context: None });
        transaction.tables.entry(name.clone()).or_default().add(operation);
    }
    Some(())
}
