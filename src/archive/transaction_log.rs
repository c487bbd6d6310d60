//! `log/transactions` column by column: there can be as many transactions as changes, and who counts them needs no value of
//! its own for each.

use std::ops::Range;

use arrow::array::{
    Array as _, AsArray as _, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::DateTime;
use futures::stream::{Stream, StreamExt as _};

use super::delta::DataFile;
use super::reader::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Commit, Lsn, OperationCounts, TableName, Transaction, Xid};

/// What every reader needs.
const COUNTED: [&str; 5] = ["lsn", "end_lsn", "xid", "ts", "tables"];

/// Some transactions of the log; of one file, in commit order.
#[derive(Debug, Clone)]
pub struct LoggedTransactions {
    lsn: Int64Array,
    end_lsn: Int64Array,
    xid: Int64Array,
    time: TimestampMicrosecondArray,
    tables: ListArray,
    schema: StringArray,
    table: StringArray,
    /// Inserts, updates, deletes, truncations.
    counts: [Int64Array; 4],
    /// Where it was read.
    context: Option<StringArray>,
    /// Those that are asked for.
    rows: Vec<usize>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct LoggedTransaction<'a> {
    all: &'a LoggedTransactions,
    row: usize,
}

impl Archive {
    /// The files that may hold transactions whose commit LSNs are in a range, oldest first.
    pub async fn logged_files(&self, range: &Range<Lsn>) -> Result<Vec<DataFile>> {
        let least = |file: &DataFile| {
            let found = file.numbers.iter().find(|(column, _, _)| column == "lsn");
            found.map_or(i64::MIN, |(_, least, _)| *least)
        };
        let mut files = self.transaction_files(range.start, range.end).await?;
        files.sort_by_key(least);
        Ok(files)
    }

    /// The transactions of such a file whose commit LSNs are in the range and which the watermark covers.
    ///
    /// # Errors
    /// As the store says, and failed where the file is no part of the log.
    pub async fn logged(
        &self,
        file: &DataFile,
        range: Range<Lsn>,
        watermark: Lsn,
    ) -> Result<impl Stream<Item = Result<LoggedTransactions>> + Send + Unpin + use<>> {
        self.logged_columns(file, &[&COUNTED[..], &["context"]].concat(), range, watermark).await
    }

    /// The same without what they said of themselves, which may be long.
    pub async fn logged_counts(
        &self,
        file: &DataFile,
        range: Range<Lsn>,
        watermark: Lsn,
    ) -> Result<impl Stream<Item = Result<LoggedTransactions>> + Send + Unpin + use<>> {
        self.logged_columns(file, &COUNTED, range, watermark).await
    }

    async fn logged_columns(
        &self,
        file: &DataFile,
        columns: &[&str],
        range: Range<Lsn>,
        watermark: Lsn,
    ) -> Result<impl Stream<Item = Result<LoggedTransactions>> + Send + Unpin + use<>> {
        let batches = self.read(file, Some(columns)).await?.stream()?;
        Ok(batches.map(move |batch| LoggedTransactions::of(&batch?, &range, watermark)))
    }
}

fn broken() -> Failure {
    Failure::failed("log/transactions lacks a column")
}

impl LoggedTransactions {
    fn of(batch: &RecordBatch, range: &Range<Lsn>, watermark: Lsn) -> Result<LoggedTransactions> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(broken);
        let number = |name: &str| -> Result<Int64Array> {
            column(name)?.as_primitive_opt::<Int64Type>().cloned().ok_or_else(broken)
        };
        let tables = column("tables")?.as_list_opt::<i32>().cloned().ok_or_else(broken)?;
        let counted = tables.values().as_struct_opt().ok_or_else(broken)?;
        let inner = |name: &str| counted.column_by_name(name).ok_or_else(broken);
        let text = |name: &str| -> Result<StringArray> { inner(name)?.as_string_opt().cloned().ok_or_else(broken) };
        let count = |name: &str| -> Result<Int64Array> {
            inner(name)?.as_primitive_opt::<Int64Type>().cloned().ok_or_else(broken)
        };
        let mut found = LoggedTransactions {
            lsn: number("lsn")?,
            end_lsn: number("end_lsn")?,
            xid: number("xid")?,
            time: column("ts")?.as_primitive_opt::<TimestampMicrosecondType>().cloned().ok_or_else(broken)?,
            schema: text("schema")?,
            table: text("table")?,
            counts: [count("insert")?, count("update")?, count("delete")?, count("truncate")?],
            context: batch.column_by_name("context").and_then(|context| context.as_string_opt().cloned()),
            tables,
            rows: Vec::new(),
        };
        let wanted = |row: &usize| {
            range.contains(&Lsn::from_i64(found.lsn.value(*row)))
                && Lsn::from_i64(found.end_lsn.value(*row)) <= watermark
        };
        found.rows = (0..batch.num_rows()).filter(wanted).collect();
        Ok(found)
    }

    pub fn iter(&self) -> impl Iterator<Item = LoggedTransaction<'_>> {
        self.rows.iter().map(|&row| LoggedTransaction { all: self, row })
    }
}

impl<'a> LoggedTransaction<'a> {
    /// Its commit LSN.
    pub fn lsn(&self) -> Lsn {
        Lsn::from_i64(self.all.lsn.value(self.row))
    }

    /// When it committed, by the source's clock, in microseconds since 1970.
    pub fn micros(&self) -> i64 {
        self.all.time.value(self.row)
    }

    /// Its number in the source.
    pub fn xid(&self) -> i64 {
        self.all.xid.value(self.row)
    }

    /// What it did to which tables: schema, table, counts.
    pub fn tables(&self) -> impl Iterator<Item = (&'a str, &'a str, OperationCounts)> + use<'a> {
        let (all, offsets) = (self.all, self.all.tables.value_offsets());
        let within = offsets[self.row] as usize..offsets[self.row + 1] as usize;
        within.map(|at| {
            let [insert, update, delete, truncate] = all.counts.each_ref().map(|counts| counts.value(at).max(0) as u64);
            (all.schema.value(at), all.table.value(at), OperationCounts { insert, update, delete, truncate })
        })
    }

    /// What it said of itself.
    pub fn context(&self) -> Option<&'a str> {
        let context = self.all.context.as_ref().filter(|context| context.is_valid(self.row))?;
        Some(context.value(self.row))
    }

    /// All of it as a value.
    pub fn to_transaction(&self) -> Transaction {
        let commit = Commit {
            lsn: self.lsn(),
            end_lsn: Lsn::from_i64(self.all.end_lsn.value(self.row)),
            // The log has what fits; anything else would have been refused when it was written.
            xid: Xid::try_from(self.xid()).unwrap_or_default(),
            time: DateTime::from_timestamp_micros(self.micros()).unwrap_or_default(),
        };
        let tables = self.tables().map(|(schema, table, counts)| (TableName::new(schema, table), counts));
        Transaction { commit, tables: tables.collect(), context: self.context().map(str::to_owned) }
    }
}
