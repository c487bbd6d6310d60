//! What the Delta log says of a table's files, beyond their names.

use std::collections::HashSet;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::SnapshotRef;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::engine_data::FilteredEngineData;
use serde::Deserialize;

use super::delta::DataFile;
use super::store::Store;
use crate::columnar::names;
use crate::failure::{Failure, Result};

/// The columns that say where a row stands in history: of tables of changes, and of log tables.
const LSN_COLUMNS: [&str; 2] = [names::LSN, "lsn"];

/// The part of a file's statistics that is of interest (Delta protocol, "Per-file Statistics").
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Statistics {
    min_values: serde_json::Map<String, serde_json::Value>,
    max_values: serde_json::Map<String, serde_json::Value>,
}

impl Statistics {
    fn lsns(&self) -> Option<(i64, i64)> {
        LSN_COLUMNS
            .iter()
            .find_map(|column| Some((self.min_values.get(*column)?.as_i64()?, self.max_values.get(*column)?.as_i64()?)))
    }

    fn numbers(&self) -> Vec<(String, i64, i64)> {
        let bounds = self.min_values.iter();
        let bounds = bounds.filter_map(|(column, least)| {
            Some((column.clone(), least.as_i64()?, self.max_values.get(column)?.as_i64()?))
        });
        bounds.collect()
    }
}

/// Adds the files of a part of a scan's listing.
pub(super) fn files_of(listing: &RecordBatch, directory: &str, files: &mut Vec<DataFile>) -> Result<()> {
    let broken = || Failure::failed(format!("the Delta log of {directory} lists files without their size"));
    let paths = column(listing, "path")?.as_string_opt::<i32>().ok_or_else(broken)?;
    let sizes = column(listing, "size")?.as_primitive_opt::<Int64Type>().ok_or_else(broken)?;
    let written = column(listing, "modificationTime")?.as_primitive_opt::<Int64Type>().ok_or_else(broken)?;
    let statistics = column(listing, "stats")?.as_string_opt::<i32>().ok_or_else(broken)?;
    for row in 0..listing.num_rows() {
        let known = statistics.is_valid(row).then(|| serde_json::from_str::<Statistics>(statistics.value(row)).ok());
        let known = known.flatten().unwrap_or_default();
        files.push(DataFile {
            path: full_path(directory, paths.value(row))?,
            size: sizes.value(row).max(0) as u64,
            lsns: known.lsns(),
            image_lsn: image_lsn(listing, row),
            written_ms: written.value(row),
            numbers: known.numbers(),
        });
    }
    Ok(())
}

fn column<'a>(listing: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    listing.column_by_name(name).ok_or_else(|| Failure::failed(format!("a listing of files lacks the column {name}")))
}

/// Paths in a Delta log are URL-encoded (Delta protocol, "Add File and Remove File").
pub(super) fn full_path(directory: &str, logged: &str) -> Result<String> {
    let path = object_store::path::Path::from_url_path(logged)
        .map_err(|error| Failure::failed(format!("data file {logged}: {error}")))?;
    Ok(format!("{directory}/{path}"))
}

fn image_lsn(listing: &RecordBatch, row: usize) -> Option<i64> {
    let constants = listing.column_by_name("fileConstantValues")?.as_struct_opt()?;
    let partition = constants.column_by_name("partitionValues")?.as_map_opt()?;
    if partition.is_null(row) {
        return None;
    }
    let offsets = partition.value_offsets();
    let (keys, values) = (partition.keys().as_string_opt::<i32>()?, partition.values().as_string_opt::<i32>()?);
    let mut entries = offsets[row] as usize..offsets[row + 1] as usize;
    let found = entries.find(|&at| keys.value(at) == names::IMAGE_LSN && values.is_valid(at))?;
    values.value(found).parse().ok()
}

/// A listing's rows of these files, as removing them wants them.
///
/// # Errors
/// Failed where one of them is not in the table.
pub(super) fn rows_of(
    store: &Store,
    snapshot: &SnapshotRef,
    directory: &str,
    wanted: &HashSet<String>,
) -> Result<Vec<FilteredEngineData>> {
    let fail = |error| store.kernel_failure(error);
    let scan = std::sync::Arc::clone(snapshot).scan_builder().build().map_err(fail)?;
    let (mut found, mut parts) = (0, Vec::new());
    for part in scan.scan_metadata(store.engine()).map_err(fail)? {
        let (data, selected) = part.map_err(fail)?.scan_files.into_parts();
        let listing = data.any_ref().downcast_ref::<ArrowEngineData>().map(ArrowEngineData::record_batch);
        let listing = listing.ok_or_else(|| Failure::failed("a listing of files is not of Arrow"))?;
        let paths = column(listing, "path")?.as_string_opt::<i32>();
        let paths = paths.ok_or_else(|| Failure::failed("a listing of files has no paths"))?;
        let is_wanted = |row: usize| {
            let listed = selected.get(row).copied().unwrap_or(true) && paths.is_valid(row);
            listed && full_path(directory, paths.value(row)).is_ok_and(|path| wanted.contains(&path))
        };
        let rows: Vec<bool> = (0..listing.num_rows()).map(is_wanted).collect();
        let count = rows.iter().filter(|wanted| **wanted).count();
        if count > 0 {
            found += count;
            parts.push(FilteredEngineData::try_new(data, rows).map_err(fail)?);
        }
    }
    if found == wanted.len() {
        return Ok(parts);
    }
    Err(Failure::failed(format!(
        "archive {store}: files of {directory} that were to be replaced are not there any more"
    )))
}
