//! What a transaction did to the rows of one table.

use std::ops::ControlFlow;

use serde_json::{Value as Json, json};

use super::header::named;
use super::{Told, limit, number, required};
use crate::columnar::RowText;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;
use crate::failure::Result;
use crate::history::{Account, Chronicle};
use crate::http::Request;
use crate::model::{Column, Lsn};
use crate::query;

/// Characters of a value that are shown at once.
const SHOWN: usize = 4000;

pub(super) async fn tell(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let lsn = named(&view, required(request, "txn")?).await?;
    let (name, _) = view.table(required(request, "name")?).await?;
    let (most, skipped) = (limit(request, 50, 500)?, number(request, "offset")?.unwrap_or(0).max(0) as usize);
    let operation = request.asked("op").map(str::to_owned);
    console
        .read(async {
            let chronicle = view.chronicle(&name, lsn, Lsn(lsn.0 + 1)).await?;
            let columns = chronicle.columns().to_vec();
            let shown = columns_of(&chronicle).await?;
            let (mut rows, mut seen) = (Vec::new(), 0);
            view.tell(chronicle, Account::Changes, &mut |told| {
                if operation.as_ref().is_some_and(|wanted| *wanted != told.operation) {
                    return Ok(ControlFlow::Continue(()));
                }
                seen += 1;
                if seen > skipped {
                    rows.push(told);
                }
                Ok(if rows.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
            .await?;
            let cut = rows.len() > most;
            rows.truncate(most);
            let rows: Vec<Json> = rows.iter().map(|told| change(told, &columns)).collect();
            Ok(json!({ "name": name.to_string(), "columns": shown, "rows": rows, "cut": cut }))
        })
        .await
}

/// A table's columns: name, and whether it is of the key that tells its rows apart.
pub(super) fn shown_columns(columns: &[Column], key: &[&str]) -> Vec<Json> {
    columns.iter().map(|column| json!({ "name": column.name, "key": key.contains(&column.name.as_str()) })).collect()
}

/// The same of a chronicle's.
pub(super) async fn columns_of(chronicle: &Chronicle) -> Result<Vec<Json>> {
    let key = query::row_key(chronicle).await?;
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    Ok(shown_columns(chronicle.columns(), &key))
}

/// A change with the row before and after, value by value in the order of the columns.
pub(super) fn change(told: &query::Told, columns: &[Column]) -> Json {
    let row = |row: &Option<RowText>| row.as_ref().map(|row| values(row, columns.len()));
    json!({
        "lsn": told.lsn, "xid": told.xid, "time": told.time.map(|time| time.timestamp_millis()),
        "micros": told.time.map(|time| time.timestamp_micros()),
        "op": told.operation, "old": row(&told.old), "new": row(&told.new),
    })
}

/// The texts of a row's values.
pub(super) fn values(row: &RowText, columns: usize) -> Vec<Option<String>> {
    (0..columns).map(|at| row.field(at).map(|field| shown(&String::from_utf8_lossy(field)))).collect()
}

/// A text that is not longer than a person reads at once.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
    }
}
