//! `afterimage.gaps`: where the rows of a table are not known.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::{Gap, gaps};
use crate::model::Lsn;

/// The table's name among the logs.
pub(super) const NAME: &str = "gaps";

/// A row for each gap up to the watermark.
pub(super) async fn rows(archive: &Archive, watermark: Lsn) -> Result<RecordBatch> {
    let gaps = gaps(archive, watermark).await?;
    let text = |of: fn(&Gap) -> &String| -> ArrayRef { Arc::new(StringArray::from_iter_values(gaps.iter().map(of))) };
    let lsn = |of: fn(&Gap) -> Option<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter(gaps.iter().map(of))) };
    let columns = [
        ("schema", text(|gap| &gap.table.schema), false),
        ("table", text(|gap| &gap.table.table), false),
        ("lsn", lsn(|gap| Some(gap.from.as_i64())), false),
        ("end_lsn", lsn(|gap| gap.until.map(Lsn::as_i64)), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns);
    batch.map_err(|error| Failure::failed(format!("afterimage.gaps: {error}")))
}
