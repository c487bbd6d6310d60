//! What foreign keys did along: rows that ON DELETE CASCADE removed and columns that SET NULL or SET DEFAULT blanked, in the
//! transactions that took away the rows which come back.
//!
//! Such a row belongs to the damage though nobody named its table. Of a blanked row only the blanked columns go back, and only
//! where they are still blank.

use std::collections::BTreeSet;

use super::catalog::{Action, ForeignKey};
use super::difference::{Difference, staged};
use super::plan::Note;
use super::selection::{Found, Selected};
use super::workspace::{Differences, Workspace};
use super::{Class, Goal};
use crate::failure::Result;
use crate::history::writes;
use crate::model::{Lsn, Operation, TableName};

/// Foreign keys that may have taken along rows of a child, for rows of the parent that come back.
fn acting(differences: &Differences, child: Option<u32>) -> Vec<(&ForeignKey, &Difference)> {
    let comes_back = |table: &&Difference| table.counts.insert > 0;
    let keys = differences.foreign_keys.iter().filter(|key| key.on_delete != Action::Forbid && key.parent != key.child);
    let keys = keys.filter(|key| child.is_none_or(|child| key.child == child));
    keys.filter_map(|key| Some((key, differences.table(key.parent).filter(comes_back)?))).collect()
}

/// The tables that are not in the restore and from which rows may have been taken along.
pub(super) async fn missing(workspace: &Workspace<'_>, differences: &Differences) -> Result<BTreeSet<TableName>> {
    let mut missing = BTreeSet::new();
    let only = &workspace.request.only;
    if workspace.request.goal != Goal::Point || !(only.is_empty() || only.contains(&Class::Deleted)) {
        return Ok(missing);
    }
    let known = workspace.archive.tables_before(workspace.request.to.lsn).await?;
    for (key, _) in acting(differences, None) {
        let archived = known.get(&key.child_name).is_some_and(|relation| !relation.partitioned);
        if differences.table(key.child).is_none() && archived {
            missing.insert(key.child_name.clone());
        }
    }
    Ok(missing)
}

/// The transactions since the point that took rows away from the named tables.
pub(super) async fn removals(workspace: &Workspace<'_>, found: &[Found]) -> Result<BTreeSet<Lsn>> {
    let mut removals = BTreeSet::new();
    if !found.iter().any(|found| matches!(found.selected, Selected::Cascaded(_))) {
        return Ok(removals);
    }
    let range = (workspace.request.to.lsn, workspace.request.now.lsn);
    for found in found {
        if let Selected::Point(then) = &found.selected {
            let writes = writes(workspace.archive, then.relation(), then.key(), range, None).await?;
            let takes = |operation: Operation| matches!(operation, Operation::Delete | Operation::Truncate);
            removals.extend(writes.iter().filter(|write| takes(write.operation)).map(|write| write.lsn));
        }
    }
    Ok(removals)
}

/// Leaves of tables that nobody named only what foreign keys did to them.
pub(super) async fn keep(
    workspace: &Workspace<'_>,
    differences: &mut Differences,
    cascaded: &BTreeSet<TableName>,
) -> Result<Vec<Note>> {
    let mut notes = Vec::new();
    for at in 0..differences.tables.len() {
        let child = &differences.tables[at];
        if !cascaded.contains(&child.name) {
            continue;
        }
        for statement in keep_sql(differences, child) {
            workspace.execute(&statement).await?;
        }
        differences.tables[at].recount(workspace).await?;
        let child = &differences.tables[at];
        if child.counts.rows() > 0 {
            notes.push(Note::about(
                &child.name,
                "not named, but foreign keys took these along in the same transactions",
            ));
        }
    }
    Ok(notes)
}

fn keep_sql(differences: &Differences, child: &Difference) -> Vec<String> {
    let (operations, rows, live) = (child.operations(), child.rows(), child.live_rows());
    let (mut gone, mut blanked) = (Vec::new(), Vec::new());
    let mut restored = BTreeSet::new();
    for (key, parent) in acting(differences, Some(child.live.oid)) {
        let Some((refers, positions)) = refers(key, parent, child) else { continue };
        let comes_back = format!(
            "EXISTS (SELECT FROM {} AS po JOIN {} AS pt ON pt.ctid = po.afterimage_then \
             WHERE po.afterimage_class = 'deleted' AND {refers})",
            parent.operations(),
            parent.rows()
        );
        match key.on_delete {
            Action::Cascade => gone.push(comes_back),
            _ => {
                let blank: Vec<String> = positions
                    .iter()
                    .map(|at| format!("l.c{at} IS NOT DISTINCT FROM {}", blank(child, key, *at)))
                    .collect();
                blanked.push(format!("({comes_back} AND {})", blank.join(" AND ")));
                restored.extend(positions);
            }
        }
    }
    let any = |conditions: &[String]| if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") };
    let mut statements = vec![format!(
        "DELETE FROM {operations} AS d WHERE d.ctid NOT IN (SELECT o.ctid FROM {operations} AS o \
         JOIN {rows} AS t ON t.ctid = o.afterimage_then LEFT JOIN {live} AS l ON l.afterimage_tid = o.afterimage_live \
         WHERE (o.afterimage_class = 'deleted' AND ({})) OR (o.afterimage_class = 'updated' AND ({})))",
        any(&gone),
        any(&blanked)
    )];
    // What else has changed in a blanked row is somebody's work.
    let others: Vec<String> =
        (0..child.columns.len()).filter(|at| !restored.contains(at)).map(|at| format!("c{at} = l.c{at}")).collect();
    if !blanked.is_empty() && !others.is_empty() {
        statements.push(format!(
            "WITH moved AS (UPDATE {rows} AS t SET {} FROM {operations} AS o \
             JOIN {live} AS l ON l.afterimage_tid = o.afterimage_live \
             WHERE t.ctid = o.afterimage_then AND o.afterimage_class = 'updated' \
             RETURNING o.afterimage_then AS former, t.ctid AS place) \
             UPDATE {operations} AS o SET afterimage_then = moved.place FROM moved WHERE o.afterimage_then = moved.former",
            others.join(", ")
        ));
    }
    statements
}

/// What the action left in a column.
fn blank(child: &Difference, key: &ForeignKey, at: usize) -> String {
    let column = child.live.columns.iter().find(|live| live.name == child.columns[at].name);
    match (key.on_delete, column.and_then(|column| column.expression.as_deref())) {
        (Action::SetDefault, Some(default)) => format!("({default})"),
        _ => "NULL".to_owned(),
    }
}

/// The condition that a child's row as it was refers to the parent's that comes back, and the columns by which.
fn refers(key: &ForeignKey, parent: &Difference, child: &Difference) -> Option<(String, Vec<usize>)> {
    let (referenced, referring) = (parent.positions(key.referenced())?, child.positions(key.referring())?);
    Some((key.refers(staged("pt", &referenced), staged("t", &referring)), referring))
}
