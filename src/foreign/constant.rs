//! Constants: what rows show that are older than a column.

use arrow::array::{Array as _, ArrayRef, AsArray as _};

use super::dialect::Engine;
use crate::columnar::{ColumnBuilder, Fit, Storage, ValueReader};
use crate::failure::Result;

/// The value with PostgreSQL's text in an engine's words, in its type; `None` where the type cannot hold it.
pub(super) fn constant(engine: Engine, storage: &Storage, text: &str) -> Result<Option<String>> {
    let mut builder = ColumnBuilder::new(storage);
    if builder.append_text(text.as_bytes()) == Fit::Inexact {
        return Ok(None);
    }
    literal(engine, storage, &builder.finish(), 0).map(Some)
}

fn literal(engine: Engine, storage: &Storage, array: &ArrayRef, row: usize) -> Result<String> {
    if array.is_null(row) {
        return Ok(engine.cast("NULL", storage));
    }
    if let (Storage::List { element, .. }, Some(list)) = (storage, array.as_list_opt::<i32>()) {
        let values = list.value(row);
        let values = (0..values.len()).map(|at| literal(engine, element, &values, at)).collect::<Result<Vec<_>>>()?;
        return Ok(engine.cast(&engine.list(&values), storage));
    }
    let mut text = Vec::new();
    ValueReader::new(array.as_ref(), storage)?.write_text(row, &mut text);
    let text = String::from_utf8_lossy(&text);
    Ok(match storage {
        Storage::Boolean => if text == "t" { "TRUE" } else { "FALSE" }.to_owned(),
        Storage::Binary => engine.bytes(text.trim_start_matches("\\x")),
        // PostgreSQL's zone here is UTC, and written shorter than others read it.
        Storage::TimestampTz => {
            let clock = text.trim_end_matches("+00");
            let zone = if engine == Engine::ClickHouse { "" } else { "+00:00" };
            engine.cast(&engine.text(&format!("{clock}{zone}")), storage)
        }
        _ => engine.cast(&engine.text(&text), storage),
    })
}
