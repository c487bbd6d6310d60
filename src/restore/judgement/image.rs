//! Planned rows as the table would have them: with its columns' names, what columns that were added since would take, and
//! what PostgreSQL computes.

use crate::model::quote_identifier;

use super::super::difference::Difference;

/// A query of the planned rows: the operation's place as `afterimage_operation`, then the table's columns.
pub(super) fn planned(table: &Difference) -> String {
    let mut columns = vec!["o.ctid AS afterimage_operation".to_owned()];
    let mut looks_at_live = false;
    for live in table.live.columns.iter().filter(|live| !live.generated) {
        let name = quote_identifier(&live.name);
        let shared = table.columns.iter().position(|column| column.name == live.name);
        let updated = table.counts.update > 0;
        let default = || match &live.expression {
            // Numbers are not drawn to look at them; no constraint can depend on which it is.
            Some(expression) if !expression.contains("nextval(") => {
                format!("CAST(({expression}) AS {})", live.type_sql)
            }
            _ => format!("CAST(NULL AS {})", live.type_sql),
        };
        let value = match shared {
            Some(at) if !table.columns[at].insert_only || !updated => format!("t.c{at}"),
            Some(at) => {
                looks_at_live = true;
                format!("CASE WHEN o.afterimage_live IS NULL THEN t.c{at} ELSE x.{name} END")
            }
            None if updated => {
                looks_at_live = true;
                format!("CASE WHEN o.afterimage_live IS NULL THEN {} ELSE x.{name} END", default())
            }
            None => default(),
        };
        columns.push(format!("{value} AS {name}"));
    }
    let live = match looks_at_live {
        true => format!(" LEFT JOIN ONLY {} AS x ON x.ctid = o.afterimage_live", table.name.to_sql()),
        false => String::new(),
    };
    let plain = format!(
        "SELECT {} FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then{live}",
        columns.join(", "),
        table.operations(),
        table.rows()
    );
    let computed: Vec<String> = table
        .live
        .columns
        .iter()
        .filter(|live| live.generated)
        .filter_map(|live| {
            let expression = live.expression.as_ref()?;
            Some(format!(", ({expression}) AS {}", quote_identifier(&live.name)))
        })
        .collect();
    match computed.is_empty() {
        true => plain,
        false => format!("SELECT g.*{} FROM ({plain}) AS g", computed.concat()),
    }
}
