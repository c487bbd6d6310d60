//! A table as it was at a point.

use serde_json::{Value as Json, json};

use super::changes::shown;
use super::{Told, limit, number, required};
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;
use crate::failure::Failure;
use crate::http::Request;
use crate::model::{RelationVersion, quote_identifier, quote_literal};
use crate::query::PrimaryKeys;

pub(super) async fn tell(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let (name, _) = view.table(required(request, "name")?).await?;
    let cut = view.cut(request.asked("at")).await?;
    let (most, skipped) = (limit(request, 100, 1000)?, number(request, "offset")?.unwrap_or(0).max(0));
    console
        .read(async {
            let then = view.archive.tables_before(cut.lsn).await?;
            let relation = then.get(&name).ok_or_else(|| {
                Failure::refused(format!("there was no table {name} at {}", cut.point))
                    .remedy("choose a later point, or the name that it had then")
            })?;
            let from = format!("as_of({}, {})", quote_literal(&name.to_sql()), quote_literal(&cut.lsn.to_string()));
            let condition = request.asked("where").map_or(String::new(), |sql| format!(" WHERE (\n{sql}\n)"));
            let order = order(relation);
            let sql = format!("SELECT * FROM {from}{condition}{order} LIMIT {} OFFSET {skipped}", most + 1);
            let found = view.rows(&sql, most).await?;
            let count = view.rows(&format!("SELECT count(*) FROM {from}{condition}"), 1).await?;
            let count: Option<u64> = count.rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
            let primary = PrimaryKeys::of(&view.archive, [relation]).await?;
            let key = primary.row_key(relation);
            let columns: Vec<Json> =
                found.columns.iter().map(|(name, of)| json!({ "name": name, "type": of, "key": key.contains(&name.as_str()) })).collect();
            let rows = found.rows.iter().map(|row| row.iter().map(|cell| cell.as_deref().map(shown)).collect());
            let rows: Vec<Vec<Option<String>>> = rows.collect();
            Ok(json!({
                "name": name.to_string(), "lsn": cut.lsn, "point": cut.point.to_string(), "describe": cut.describe(),
                "last": cut.last.map(|commit| json!({ "lsn": commit.lsn, "xid": commit.xid, "micros": commit.time.timestamp_micros() })),
                "columns": columns, "rows": rows, "count": count, "cut": found.cut,
            }))
        })
        .await
}

/// By the key, so that a page is the same when it is asked for again.
fn order(relation: &RelationVersion) -> String {
    let key = relation.columns.iter().filter(|column| column.key);
    let key: Vec<String> = key.map(|column| quote_identifier(&column.name)).collect();
    if key.is_empty() { String::new() } else { format!(" ORDER BY {}", key.join(", ")) }
}
