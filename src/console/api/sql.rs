//! SQL over the archive, with the limits of the wire endpoint.

use std::time::Instant;

use serde_json::{Value as Json, json};

use super::Told;
use super::changes::shown;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::failure::Failure;
use crate::http::Request;
use crate::model::Lsn;
use crate::serve;

/// Rows that are shown; of more it is said that they are cut.
const MOST_ROWS: usize = 1000;
/// Columns of this name and type are places in the log.
const LSN_COLUMNS: [&str; 7] = ["_lsn", "_image_lsn", "commit_lsn", "end_lsn", "lsn", "_from_lsn", "_to_lsn"];

pub(super) async fn ask(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let body: Json = serde_json::from_slice(&request.body).map_err(|_| Failure::usage("the body is no JSON"))?;
    let sql = body["sql"].as_str().ok_or_else(|| Failure::usage("sql is missing"))?;
    let view = View::of(console, visitor).await?;
    if view.access.rows.is_some() && serve::explains(sql) {
        return Err(Trouble::forbidden("EXPLAIN is not for users whose rows are limited", "ask for rows"));
    }
    let began = Instant::now();
    let found = console.read(async { Ok(view.rows(sql, MOST_ROWS).await?) }).await?;
    let places: Vec<bool> =
        found.columns.iter().map(|(name, of)| *of == "bigint" && LSN_COLUMNS.contains(&name.as_str())).collect();
    let cell = |(cell, is_place): (&Option<String>, &bool)| {
        let text = cell.as_deref()?;
        let place = text.parse().ok().filter(|_| *is_place).map(|lsn| Lsn::from_i64(lsn).to_string());
        Some(place.unwrap_or_else(|| shown(text)))
    };
    let rows = found.rows.iter().map(|row| row.iter().zip(&places).map(cell).collect());
    let rows: Vec<Vec<Option<String>>> = rows.collect();
    let columns = found.columns.iter().zip(&places);
    let columns: Vec<Json> = columns
        .map(|((name, of), place)| json!({ "name": name, "type": if *place { "pg_lsn" } else { of } }))
        .collect();
    let took = began.elapsed().as_secs_f64() * 1000.0;
    Ok(json!({ "columns": columns, "rows": rows, "cut": found.cut, "most": MOST_ROWS, "took_ms": took }))
}
