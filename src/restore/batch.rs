//! `--batch-rows`: very large damage in several transactions, each with the guarantees of one.
//!
//! Every batch is worked out anew, so that whoever stops in between only has to begin again. Rows come back parents first, then
//! others change, then rows go, children first: in between there is more than there was at the point, and never a row that
//! refers to nothing.

use super::difference::Difference;
use super::order;
use super::plan::Class;
use super::workspace::{Differences, Workspace};
use crate::failure::{Failure, Result};

/// Leaves the operations of one batch, and says for each table how many wait for later ones.
///
/// # Errors
/// Refused where no order of single rows satisfies the foreign keys: within a table, or in a circle of tables.
pub(super) async fn restrict(workspace: &Workspace<'_>, differences: &mut Differences, rows: u64) -> Result<Vec<u64>> {
    let before: Vec<u64> = differences.tables.iter().map(|table| table.counts.rows()).collect();
    if before.iter().sum::<u64>() > rows {
        require_order(differences)?;
        let mut left = rows;
        for class in [Class::Deleted, Class::Updated, Class::Inserted] {
            let count = differences.tables.len();
            for at in 0..count {
                let at = if class == Class::Inserted { count - 1 - at } else { at };
                left -= take(workspace, &differences.tables[at], class, left).await?;
            }
        }
        for table in &mut differences.tables {
            table.recount(workspace).await?;
        }
    }
    Ok(before.iter().zip(&differences.tables).map(|(before, table)| before - table.counts.rows()).collect())
}

/// Leaves so many operations of a class at most, and says how many there are.
async fn take(workspace: &Workspace<'_>, table: &Difference, class: Class, most: u64) -> Result<u64> {
    let mut counts = table.counts;
    let count = *counts.of(class);
    if count <= most {
        return Ok(count);
    }
    let (operations, class) = (table.operations(), class.as_str());
    let sql = format!(
        "DELETE FROM {operations} WHERE afterimage_class = '{class}' AND ctid NOT IN (\
         SELECT o.ctid FROM {operations} AS o WHERE o.afterimage_class = '{class}' ORDER BY o.ctid LIMIT {most})"
    );
    workspace.execute(&sql).await?;
    Ok(most)
}

fn require_order(differences: &Differences) -> Result<()> {
    let at = |oid: u32| differences.tables.iter().position(|table| table.live.oid == oid && table.counts.rows() > 0);
    let edges = differences.foreign_keys.iter().filter_map(|key| Some((at(key.parent)?, at(key.child)?)));
    let edges: Vec<(usize, usize)> = edges.collect();
    match edges.iter().find(|edge| order::in_circle(&edges, **edge)) {
        None => Ok(()),
        Some((parent, _)) => Err(Failure::refused(format!(
            "rows of {} refer to each other, directly or in a circle, and cannot come back in parts",
            differences.tables[*parent].name
        ))
        .remedy("restore them without --batch-rows, or in parts that belong together with --where")),
    }
}
