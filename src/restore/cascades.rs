//! Rows that would change along with those of the plan.
//!
//! A foreign key with ON DELETE or ON UPDATE CASCADE, SET NULL or SET DEFAULT changes rows that nobody
//! planned, and that the report would not count. So they are looked for right before, and refused.

use super::catalog::{Action, ForeignKey};
use super::desired::Matching;
use super::difference::Difference;
use super::workspace::{Differences, Workspace};
use crate::failure::{Failure, Result};
use crate::model::quote_identifier;

/// Refuses the deletions of a table where they would change rows outside the plan.
pub(super) async fn refuse_after_deletes(
    workspace: &Workspace<'_>,
    differences: &Differences,
    parent: &Difference,
) -> Result<()> {
    let concerned = |key: &&ForeignKey| key.parent == parent.live.oid && key.on_delete != Action::Forbid;
    for key in differences.foreign_keys.iter().filter(concerned) {
        let gone = format!(
            "SELECT FROM {} AS o JOIN ONLY {} AS p ON p.ctid = o.afterimage_live \
             WHERE o.afterimage_class = 'inserted' AND {}",
            parent.operations(),
            parent.name.to_sql(),
            refers(key, "p")
        );
        refuse(workspace, differences, key, key.on_delete, "DELETE", &gone).await?;
    }
    Ok(())
}

/// Refuses the updates of a table where they would change rows outside the plan.
pub(super) async fn refuse_after_updates(
    workspace: &Workspace<'_>,
    differences: &Differences,
    parent: &Difference,
) -> Result<()> {
    let concerned = |key: &&ForeignKey| key.parent == parent.live.oid && key.on_update != Action::Forbid;
    for key in differences.foreign_keys.iter().filter(concerned) {
        let Some(positions) = moving_columns(parent, key) else { continue };
        let gone = format!(
            "SELECT FROM {} AS o JOIN ONLY {} AS p ON p.ctid = o.afterimage_live JOIN {} AS t ON t.ctid = o.afterimage_then \
             WHERE o.afterimage_class = 'updated' AND {} AND {} IS DISTINCT FROM {}",
            parent.operations(),
            parent.name.to_sql(),
            parent.rows(),
            refers(key, "p"),
            parent.live_text("p", &positions),
            parent.staged_text("t", &positions)
        );
        refuse(workspace, differences, key, key.on_update, "UPDATE", &gone).await?;
    }
    Ok(())
}

/// Positions of the referenced columns, unless rows are matched by them, so that no update moves them.
fn moving_columns(parent: &Difference, key: &ForeignKey) -> Option<Vec<usize>> {
    let position = |name: &String| parent.columns.iter().position(|column| column.name == *name);
    let positions: Vec<usize> = key.columns.iter().filter_map(|(referenced, _, _)| position(referenced)).collect();
    let Matching::Key(parts) = &parent.matching else { return None };
    let moves = positions.iter().any(|at| parts.iter().all(|part| part.0 != *at));
    moves.then_some(positions)
}

/// The condition that the child's row `x` refers to the parent's row.
fn refers(key: &ForeignKey, parent: &str) -> String {
    let equal = key.columns.iter().map(|(referenced, referring, equals)| {
        format!("{parent}.{} {equals} x.{}", quote_identifier(referenced), quote_identifier(referring))
    });
    equal.collect::<Vec<_>>().join(" AND ")
}

async fn refuse(
    workspace: &Workspace<'_>,
    differences: &Differences,
    key: &ForeignKey,
    action: Action,
    event: &str,
    gone: &str,
) -> Result<()> {
    // Rows that the plan deletes itself are in the plan.
    let planned = differences.table(key.child).map_or(String::new(), |child| {
        format!(
            " AND NOT EXISTS (SELECT FROM {} AS c WHERE c.afterimage_live = x.ctid AND c.afterimage_class = 'inserted')",
            child.operations()
        )
    });
    let child = key.child_name.to_sql();
    let along = workspace.count(&format!("SELECT count(*) FROM {child} AS x WHERE EXISTS ({gone}){planned}")).await?;
    if along == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{along} rows of {} that are not in the plan would change along (constraint {}, ON {event} {}); nothing was changed",
        key.child_name,
        key.name,
        action.as_sql()
    ))
    .remedy(format!("restore {} too, or leave the rows that they refer to out with --where", key.child_name)))
}
