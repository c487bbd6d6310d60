//! The tables that there are for a visitor.

use serde_json::{Value as Json, json};

use super::Told;
use super::changes::shown_columns;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;
use crate::query::PrimaryKeys;

pub(super) async fn list(console: &Console, visitor: &Visitor) -> Told {
    let view = View::of(console, visitor).await?;
    let known = view.known().await?;
    let primary = PrimaryKeys::of(&view.archive, known.iter().map(|(_, relation)| relation)).await?;
    let tables = known.iter().map(|(name, relation)| {
        let key = primary.row_key(relation);
        json!({
            "name": name.to_string(), "columns": shown_columns(&relation.columns, &key),
            "unique_key": !key.is_empty(), "partitioned": relation.partitioned,
        })
    });
    Ok(json!({ "tables": tables.collect::<Vec<Json>>() }))
}
