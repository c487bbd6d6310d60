//! Every version of a row that the archive has, as rows of a temporary table.

use std::collections::HashSet;

use datafusion::arrow::array::{Array as _, AsArray as _};
use futures::TryStreamExt as _;

use super::CheckRequest;
use crate::archive::{Archive, DataFile};
use crate::columnar::{RowReader, RowText, Wanted, names};
use crate::copy_format::write_text_row;
use crate::failure::{Context as _, Result};
use crate::model::{Column, Lsn, quote_identifier};
use crate::postgres::{Session, copy_in};

/// The temporary table.
pub(super) const TABLE: &str = "pg_temp.afterimage_archived";

/// Makes the table, and says whether the archive has more than may be looked at. The first base image and what every change
/// left are all versions there were.
pub(super) async fn stage(
    session: &Session,
    archive: &Archive,
    request: &CheckRequest,
    columns: &[String],
) -> Result<bool> {
    let table = request.table.to_sql();
    session
        .batch_execute(&format!("CREATE TEMP TABLE afterimage_archived ON COMMIT DROP AS TABLE {table} WITH NO DATA"))
        .await?;
    let watermark = archive.watermark().await?.lsn;
    let images = archive.images(&request.table, watermark).await?;
    let mut files: Vec<DataFile> =
        images.into_iter().min_by_key(|image| image.lsn).map(|image| image.files).unwrap_or_default();
    files.extend(archive.change_files(&request.table, Lsn::ZERO, watermark).await?);
    let list = columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ");
    let mut copy = copy_in(session, &format!("COPY {TABLE} ({list}) FROM STDIN")).await?;
    let (mut line, mut text) = (Vec::new(), RowText::default());
    let (mut seen, mut rows, mut cut_off) = (HashSet::new(), 0, false);
    'files: for file in files {
        let reader = archive.read_some(&file).await?;
        let relation = reader.relation()?;
        let wanted: Vec<Wanted<'_>> = columns
            .iter()
            .map(|name| relation.column(name).map_or(Wanted::Constant(None), |column: &Column| Wanted::Stored(column)))
            .collect();
        let mut batches = reader.stream()?;
        while let Some(batch) = batches.try_next().await? {
            let values = RowReader::new(&batch, &wanted)?;
            let operations = batch.column_by_name(names::OP).and_then(|column| column.as_string_opt::<i32>());
            let missing = batch.column_by_name(names::MISSING);
            for row in 0..batch.num_rows() {
                let has_row = operations.is_none_or(|said| !matches!(said.value(row), "delete" | "truncate"));
                // A version that left out an unchanged value is judged by the version before in that value.
                if !has_row || missing.is_some_and(|missing| missing.is_valid(row)) {
                    continue;
                }
                values.read(row, &mut text);
                line.clear();
                write_text_row(&mut line, text.fields());
                if !seen.insert(digest(&line)) {
                    continue;
                }
                copy.write(&line).await?;
                rows += 1;
                if rows >= request.archived_rows {
                    cut_off = true;
                    break 'files;
                }
            }
        }
    }
    copy.finish().await.context("archived rows do not fit the table's columns of today")?;
    Ok(cut_off)
}

fn digest(line: &[u8]) -> u128 {
    let digest = ring::digest::digest(&ring::digest::SHA256, line);
    digest.as_ref().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}
