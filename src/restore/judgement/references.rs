//! Foreign keys between what will be there and what will not.
//!
//! A row that refers to nothing is never written, and a row that others refer to is never deleted. Since a row that falls
//! takes along those that refer to it, and one that stays holds those that it refers to, this is repeated until nothing
//! falls any more.

use super::super::catalog::{Action, ForeignKey};
use super::super::difference::{Difference, staged};
use super::super::workspace::{Differences, Workspace};
use super::{OnReject, RuleKind, image};
use crate::failure::Result;
use crate::model::{quote_identifier, quote_literal};

/// Finds the operations that foreign keys forbid.
pub(super) async fn judge(workspace: &Workspace<'_>, differences: &Differences) -> Result<()> {
    let statements: Vec<String> =
        differences.foreign_keys.iter().flat_map(|key| statements(workspace, differences, key)).collect();
    loop {
        let mut found = 0;
        for statement in &statements {
            found += workspace.execute(statement).await?;
        }
        if found == 0 {
            return Ok(());
        }
    }
}

fn statements(workspace: &Workspace<'_>, differences: &Differences, key: &ForeignKey) -> Vec<String> {
    let planned = |oid: u32| differences.table(oid).filter(|table| table.counts.rows() > 0);
    let mut statements = Vec::new();
    if let Some(child) = planned(key.child)
        && child.counts.insert + child.counts.update > 0
        && !key.of_partition
    {
        let relaxes = workspace.request.on_reject == OnReject::NotValid && !key.inherited && child.live.owned;
        statements.push(without_parent_sql(differences, key, child, !relaxes));
    }
    if let Some(parent) = planned(key.parent) {
        if parent.counts.delete > 0 {
            statements.push(referred_to_sql(differences, key, parent, "inserted"));
        }
        if parent.counts.update > 0 && moves(parent, key) {
            statements.push(referred_to_sql(differences, key, parent, "updated"));
        }
    }
    statements
}

/// The tables of the restore that hold a relation's rows: itself, or its partitions.
fn holders(differences: &Differences, oid: u32) -> impl Iterator<Item = &Difference> {
    differences
        .tables
        .iter()
        .filter(move |table| table.live.oid == oid || table.live.ancestors.contains(&oid))
        .filter(|table| table.counts.rows() > 0)
}

/// The condition that an operation is performed.
fn stands(table: &Difference, alias: &str) -> String {
    format!("NOT EXISTS (SELECT FROM {} AS f WHERE f.operation = {alias}.ctid AND f.falls)", table.rejected())
}

/// Whether a planned row of the parent's will have what a child's row refers to.
fn planned_parent(parent: &Difference, key: &ForeignKey, child: &str) -> Option<String> {
    let positions = parent.positions(key.referenced())?;
    let equal = key.refers(staged("t", &positions), key.live_child(child));
    Some(format!(
        "EXISTS (SELECT FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then WHERE {equal} AND {})",
        parent.operations(),
        parent.rows(),
        stands(parent, "o")
    ))
}

/// Planned rows that refer to a row that will not be there.
fn without_parent_sql(differences: &Differences, key: &ForeignKey, child: &Difference, falls: bool) -> String {
    let (mut stays, mut comes) = (String::new(), String::new());
    for parent in holders(differences, key.parent) {
        let planned = planned_parent(parent, key, "i");
        let leaving = if planned.is_some() { "" } else { " AND o.afterimage_then IS NULL" };
        stays.push_str(&format!(
            " AND NOT EXISTS (SELECT FROM {} AS o WHERE o.afterimage_live = p.ctid AND p.tableoid = {}{leaving} AND {})",
            parent.operations(),
            parent.live.oid,
            stands(parent, "o")
        ));
        if let Some(planned) = planned {
            comes.push_str(&format!(" AND NOT {planned}"));
        }
    }
    let present: Vec<String> =
        key.referring().map(|referring| format!("i.{} IS NOT NULL", quote_identifier(referring))).collect();
    let (kind, name) = (RuleKind::ForeignKey.as_str(), quote_literal(&key.name));
    format!(
        "INSERT INTO {rejected} SELECT i.afterimage_operation, '{kind}', {name}, {reason}, {falls} FROM ({planned}) AS i \
         WHERE {present} AND NOT EXISTS (SELECT FROM {from} AS p WHERE {refers}{stays}){comes} \
         AND NOT EXISTS (SELECT FROM {rejected} AS r WHERE r.operation = i.afterimage_operation AND r.kind = '{kind}' \
         AND r.name = {name})",
        rejected = child.rejected(),
        reason = quote_literal(&format!("the row of {} that it refers to is not there", key.parent_name)),
        planned = image::planned(child),
        present = present.join(" AND "),
        from = key.parents(),
        refers = key.refers(key.live_parent("p"), key.live_child("i")),
    )
}

/// Rows that are to go, or to change what others refer to, while rows that nobody planned to change refer to them.
fn referred_to_sql(differences: &Differences, key: &ForeignKey, parent: &Difference, class: &str) -> String {
    let action = if class == "inserted" { key.on_delete } else { key.on_update };
    let planned: String = holders(differences, key.child)
        .map(|child| {
            format!(
                " AND NOT EXISTS (SELECT FROM {} AS c WHERE c.afterimage_live = x.ctid AND {})",
                child.operations(),
                stands(child, "c")
            )
        })
        .collect();
    let moved = match (class, parent.positions(key.referenced())) {
        ("updated", Some(positions)) => format!(
            " AND EXISTS (SELECT FROM {} AS t WHERE t.ctid = o.afterimage_then AND {} IS DISTINCT FROM {})",
            parent.rows(),
            parent.live_text("p", &positions),
            parent.staged_text("t", &positions)
        ),
        _ => String::new(),
    };
    // Another row may take the place; an action would fire all the same.
    let replaced = match action {
        Action::Forbid => planned_parent(parent, key, "x").map_or(String::new(), |comes| format!(" AND NOT {comes}")),
        _ => String::new(),
    };
    let (kind, name) = (RuleKind::Reference.as_str(), quote_literal(&key.name));
    let event = if class == "inserted" { "DELETE" } else { "UPDATE" };
    let reason = match action {
        Action::Forbid => format!("rows of {} that are not in the plan refer to it", key.child_name),
        _ => format!(
            "rows of {} that are not in the plan would change along (ON {event} {})",
            key.child_name,
            action.as_sql()
        ),
    };
    format!(
        "INSERT INTO {rejected} SELECT o.ctid, '{kind}', {name}, {reason}, true FROM {operations} AS o \
         JOIN ONLY {parent} AS p ON p.ctid = o.afterimage_live WHERE o.afterimage_class = '{class}'{moved} \
         AND EXISTS (SELECT FROM ONLY {child} AS x WHERE {refers}{planned}{replaced}) \
         AND NOT EXISTS (SELECT FROM {rejected} AS r WHERE r.operation = o.ctid AND r.kind = '{kind}' AND r.name = {name})",
        rejected = parent.rejected(),
        reason = quote_literal(&reason),
        operations = parent.operations(),
        parent = parent.name.to_sql(),
        child = key.child_name.to_sql(),
        refers = key.refers(key.live_parent("p"), key.live_child("x")),
    )
}

/// Whether an update can change the columns that others refer to: not those by which rows are matched.
fn moves(parent: &Difference, key: &ForeignKey) -> bool {
    parent.positions(key.referenced()).is_some_and(|positions| positions.iter().any(|&at| !parent.matched_by(at)))
}
