//! `afterimage.gaps`: what the archive could not see, of all tables or of one.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::gaps;
use crate::model::{GapRecord, Lsn, TableName};

/// The table's name among the logs.
pub(super) const NAME: &str = "gaps";

/// A gap, of one table or of all.
struct Row {
    table: Option<TableName>,
    from: Lsn,
    until: Option<Lsn>,
    /// What is known of one that is of all tables.
    record: Option<GapRecord>,
}

/// A row for each gap up to the watermark.
pub(super) async fn rows(archive: &Archive, watermark: Lsn) -> Result<RecordBatch> {
    let whole = archive.gaps(watermark).await?;
    let of_all = |from: Lsn| whole.iter().any(|gap| gap.lsn < from && from < gap.end_lsn);
    let of_tables = gaps(archive, watermark).await?.into_iter().filter(|gap| !of_all(gap.from));
    let of_tables = of_tables.map(|gap| Row { table: Some(gap.table), from: gap.from, until: gap.until, record: None });
    let all =
        whole.iter().map(|gap| Row { table: None, from: gap.lsn, until: Some(gap.end_lsn), record: Some(gap.clone()) });
    let mut rows: Vec<Row> = all.chain(of_tables).collect();
    rows.sort_by_key(|row| row.from);
    let text = |of: fn(&Row) -> Option<&str>| -> ArrayRef { Arc::new(StringArray::from_iter(rows.iter().map(of))) };
    let lsn = |of: fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter(rows.iter().map(of))) };
    let time = |of: fn(&GapRecord) -> i64| -> ArrayRef {
        let times = rows.iter().map(|row| row.record.as_ref().map(of));
        Arc::new(TimestampMicrosecondArray::from_iter(times).with_timezone("UTC"))
    };
    let columns = [
        ("schema", text(|row| row.table.as_ref().map(|table| table.schema.as_str())), true),
        ("table", text(|row| row.table.as_ref().map(|table| table.table.as_str())), true),
        ("lsn", lsn(|row| Some(row.from.as_i64())), false),
        ("end_lsn", lsn(|row| row.until.map(Lsn::as_i64)), true),
        ("ts", time(|gap| gap.time.timestamp_micros()), true),
        ("end_ts", time(|gap| gap.end_time.timestamp_micros()), true),
        ("reason", text(|row| row.record.as_ref().map(|gap| gap.reason.as_str())), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns);
    batch.map_err(|error| Failure::failed(format!("afterimage.gaps: {error}")))
}
