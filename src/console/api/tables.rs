//! The tables that there are for a visitor.

use serde_json::{Value as Json, json};

use super::Told;
use super::changes::shown_columns;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;

pub(super) async fn list(console: &Console, visitor: &Visitor) -> Told {
    let view = View::of(console, visitor).await?;
    let known = view.known().await?;
    let tables = known.iter().map(|(name, relation)| {
        json!({
            "name": name.to_string(), "columns": shown_columns(&relation.columns, relation.has_unique_key()),
            "unique_key": relation.has_unique_key(), "partitioned": relation.partitioned,
        })
    });
    Ok(json!({ "tables": tables.collect::<Vec<Json>>() }))
}
