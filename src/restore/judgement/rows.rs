//! What a table demands of each of its rows, and of its rows beside each other.

use super::super::constraint::{Apart, Demand};
use super::super::difference::Difference;
use super::super::policies::Policies;
use super::super::workspace::Workspace;
use super::{OnReject, RuleKind, image};
use crate::failure::Result;
use crate::model::{quote_identifier, quote_literal};

/// Finds the operations of a table that types, domains, conditions and unique values forbid.
pub(super) async fn judge(workspace: &Workspace<'_>, table: &Difference) -> Result<()> {
    let sql = format!(
        "CREATE TEMPORARY TABLE {} (operation tid, kind text, name text, reason text, falls boolean) ON COMMIT DROP",
        table.rejected()
    );
    workspace.execute(&sql).await?;
    if table.counts.insert + table.counts.update == 0 {
        return Ok(());
    }
    if table.read_as_text() {
        workspace.execute(&objections_sql(table)).await?;
    }
    workspace.enter_application_path(&table.name).await?;
    for live in table.live.columns.iter() {
        if let Some(domain) = &live.domain {
            let column = quote_identifier(&live.name);
            let look = format!("SELECT count(CAST(i.{column} AS {domain})) FROM ({}) AS i", image::planned(table));
            let each = format!("SELECT CAST(i.{column} AS {domain})::text FROM ({}) AS i", image::planned(table));
            look_or_try_each(workspace, table, &look, &each, (RuleKind::Domain, &live.name)).await?;
        }
    }
    judge_conditions(workspace, table).await?;
    for constraint in &table.live.constraints {
        if let Demand::Apart(apart) = &constraint.demand
            && !is_matched_by(table, apart)
        {
            let kind = if apart.unique { RuleKind::Unique } else { RuleKind::Exclude };
            let (with_live, with_planned) = apart_sql(table, apart, kind, &constraint.name);
            workspace.execute(&with_live).await?;
            workspace.execute(&with_planned).await?;
        }
    }
    workspace.leave_application_path().await
}

/// What reading the values said.
fn objections_sql(table: &Difference) -> String {
    format!(
        "INSERT INTO {} SELECT o.ctid, '{}', e.key, e.value, true FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then \
         CROSS JOIN LATERAL jsonb_each_text(t.afterimage_objections) AS e WHERE t.afterimage_objections IS NOT NULL",
        table.rejected(),
        RuleKind::Type.as_str(),
        table.operations(),
        table.rows()
    )
}

/// NOT NULL and CHECK: one look over all rows, and a closer one at those that something forbids.
async fn judge_conditions(workspace: &Workspace<'_>, table: &Difference) -> Result<()> {
    let mut conditions: Vec<(RuleKind, &str, String, bool)> = Vec::new();
    for live in table.live.columns.iter().filter(|live| live.not_null && !live.generated) {
        let drawn = live.identity || live.expression.as_ref().is_some_and(|default| default.contains("nextval("));
        if table.columns.iter().any(|column| column.name == live.name) || !drawn {
            let condition = format!("{} IS NOT NULL", quote_identifier(&live.name));
            let condition = where_read(table, condition, std::slice::from_ref(&live.name));
            conditions.push((RuleKind::NotNull, &live.name, condition, true));
        }
    }
    let relaxes = workspace.request.on_reject == OnReject::NotValid;
    for constraint in &table.live.constraints {
        if let Demand::Check(condition, columns) = &constraint.demand {
            let falls = !(relaxes && !constraint.inherited && table.live.owned);
            let condition = where_read(table, format!("({condition})"), columns);
            conditions.push((RuleKind::Check, &constraint.name, condition, falls));
        }
    }
    for (command, condition) in table.live.policies.iter().flat_map(Policies::demands) {
        conditions.push((RuleKind::Policy, command, format!("({condition})"), true));
    }
    if conditions.is_empty() {
        return Ok(());
    }
    let sql = conditions_sql(table, &conditions);
    workspace.execute("SAVEPOINT afterimage_conditions").await?;
    if let Err(failure) = workspace.execute(&sql).await {
        if failure.is_transient() {
            return Err(failure);
        }
        // A condition that fails forbids the row too: each row for itself, each condition for itself.
        workspace.execute("ROLLBACK TO SAVEPOINT afterimage_conditions").await?;
        for condition in &conditions {
            let one = std::slice::from_ref(condition);
            let each = conditions_sql(table, one);
            try_each(workspace, table, &each, (condition.0, condition.1)).await?;
        }
    }
    Ok(())
}

/// A condition that holds where it cannot be asked, because a value of one of these columns could not be read; where none is
/// named, of any. What other columns forbid shows at once, not only when the values can be read.
fn where_read(table: &Difference, condition: String, columns: &[String]) -> String {
    if !table.read_as_text() {
        return condition;
    }
    let names: Vec<String> = columns.iter().map(|name| quote_literal(name)).collect();
    let among = if names.is_empty() { String::new() } else { format!(" AND r.name IN ({})", names.join(", ")) };
    format!(
        "CASE WHEN EXISTS (SELECT FROM {} AS r WHERE r.operation = {}.afterimage_operation AND r.kind = '{}'{among}) \
         THEN true ELSE {condition} END",
        table.rejected(),
        quote_identifier(&table.name.table),
        RuleKind::Type.as_str()
    )
}

fn conditions_sql(table: &Difference, conditions: &[(RuleKind, &str, String, bool)]) -> String {
    let broken: Vec<String> = conditions.iter().map(|(_, _, condition, _)| format!("({condition}) IS FALSE")).collect();
    let values: Vec<String> = conditions
        .iter()
        .map(|(kind, name, condition, falls)| {
            format!("('{}', {}, ({condition}), {falls})", kind.as_str(), quote_literal(name))
        })
        .collect();
    let alias = quote_identifier(&table.name.table);
    format!(
        "INSERT INTO {} SELECT {alias}.afterimage_operation, j.kind, j.name, NULL, j.falls FROM (\
         SELECT * FROM ({}) AS {alias} WHERE {}) AS {alias} \
         CROSS JOIN LATERAL (VALUES {}) AS j(kind, name, holds, falls) WHERE j.holds IS FALSE",
        table.rejected(),
        image::planned(table),
        broken.join(" OR "),
        values.join(", ")
    )
}

/// Runs a statement that fails where any row is forbidden; where it does, tries every row for itself.
async fn look_or_try_each(
    workspace: &Workspace<'_>,
    table: &Difference,
    look: &str,
    each: &str,
    rule: (RuleKind, &str),
) -> Result<()> {
    workspace.execute("SAVEPOINT afterimage_look").await?;
    match workspace.execute(look).await {
        Err(failure) if failure.is_transient() => Err(failure),
        Err(_) => {
            workspace.execute("ROLLBACK TO SAVEPOINT afterimage_look").await?;
            try_each(workspace, table, each, rule).await
        }
        Ok(_) => Ok(()),
    }
}

/// Runs a statement over the planned rows for one operation after the other; what it objects to is rejected.
async fn try_each(
    workspace: &Workspace<'_>,
    table: &Difference,
    statement: &str,
    (kind, name): (RuleKind, &str),
) -> Result<()> {
    let one = statement.replace(
        &format!("FROM {} AS o JOIN", table.operations()),
        &format!("FROM (SELECT o.*, o.ctid FROM {} AS o WHERE o.ctid = $1) AS o JOIN", table.operations()),
    );
    let body = format!(
        "DECLARE operation tid; BEGIN FOR operation IN SELECT o.ctid FROM {} AS o WHERE o.afterimage_then IS NOT NULL LOOP \
         BEGIN EXECUTE {} USING operation; EXCEPTION WHEN OTHERS THEN \
         INSERT INTO {} VALUES (operation, '{}', {}, SQLERRM, true); END; END LOOP; END",
        table.operations(),
        quote_literal(&one),
        table.rejected(),
        kind.as_str(),
        quote_literal(name)
    );
    workspace.execute(&format!("DO {}", quote_literal(&body))).await?;
    Ok(())
}

/// Rows meet by this very index, so a planned row finds itself there and no other.
fn is_matched_by(table: &Difference, apart: &Apart) -> bool {
    let Some(columns) = &apart.columns else { return false };
    let names = table.matched_columns();
    !names.is_empty() && apart.predicate.is_none() && apart.unique && names.iter().all(|name| columns.contains(name))
}

/// Planned rows that live ones outside the plan, or other planned ones, leave no room for.
fn apart_sql(table: &Difference, apart: &Apart, kind: RuleKind, name: &str) -> (String, String) {
    let elements = |place: &str, from: &str, alias: &str| {
        let elements: Vec<String> = apart
            .elements
            .iter()
            .enumerate()
            .map(|(at, (expression, _))| format!("({expression}) AS afterimage_e{at}"))
            .collect();
        let predicate = apart.predicate.as_ref().map_or(String::new(), |predicate| format!(" WHERE ({predicate})"));
        format!("(SELECT {place}, {} FROM {from}{predicate}) AS {alias}", elements.join(", "))
    };
    let together = |other: &str| {
        let each = apart.elements.iter().enumerate().map(|(at, (_, operator))| {
            let meets = format!("i.afterimage_e{at} {operator} {other}.afterimage_e{at}");
            match apart.nulls_are_equal {
                true => format!("({meets} OR (i.afterimage_e{at} IS NULL AND {other}.afterimage_e{at} IS NULL))"),
                false => meets,
            }
        });
        each.collect::<Vec<_>>().join(" AND ")
    };
    let alias = quote_identifier(&table.name.table);
    let planned = format!("({}) AS {alias}", image::planned(table));
    let live = format!("ONLY {} AS {alias}", table.name.to_sql());
    let (rejected, operations, kind, name) = (table.rejected(), table.operations(), kind.as_str(), quote_literal(name));
    let head = format!("INSERT INTO {rejected} SELECT i.afterimage_operation, '{kind}', {name}, ",);
    let of_planned = elements("afterimage_operation", &planned, "i");
    let with_live = format!(
        "{head}'a row that is there now has the value', true FROM {of_planned} WHERE EXISTS (SELECT FROM {} WHERE {} \
         AND NOT EXISTS (SELECT FROM {operations} AS o WHERE o.afterimage_live = x.afterimage_place))",
        elements("ctid AS afterimage_place", &live, "x"),
        together("x")
    );
    let with_planned = format!(
        "{head}'another row of the plan has the value', true FROM {of_planned} WHERE EXISTS (SELECT FROM {} WHERE {} \
         AND j.afterimage_operation <> i.afterimage_operation) \
         AND NOT EXISTS (SELECT FROM {rejected} AS r WHERE r.operation = i.afterimage_operation AND r.name = {name})",
        elements("afterimage_operation", &planned, "j"),
        together("j")
    );
    (with_live, with_planned)
}
