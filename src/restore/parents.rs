//! Rows that planned ones refer to and that are gone: with `--with-parents` they come back too, and what those refer to.

use std::collections::BTreeSet;

use super::catalog::ForeignKey;
use super::desired::Matching;
use super::difference::{Difference, staged};
use super::judgement::{Rejection, RuleKind};
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::TableName;

/// The foreign keys for want of whose parents rows are rejected.
fn wanting<'d>(differences: &'d Differences, rejections: &[Rejection]) -> Vec<&'d ForeignKey> {
    let is_wanting = |key: &&ForeignKey| {
        let child = differences.table(key.child);
        rejections.iter().any(|rejection| {
            rejection.kind == RuleKind::ForeignKey
                && rejection.name == key.name
                && child.is_some_and(|child| child.name == rejection.table)
        })
    };
    differences.foreign_keys.iter().filter(is_wanting).collect()
}

/// The archived tables that are not in the restore and that have what rows want.
pub(super) async fn missing(
    workspace: &Workspace<'_>,
    differences: &Differences,
    rejections: &[Rejection],
) -> Result<BTreeSet<TableName>> {
    let mut missing = BTreeSet::new();
    if !workspace.request.with_parents {
        return Ok(missing);
    }
    let known = workspace.archive.tables_before(workspace.request.to.lsn).await?;
    for key in wanting(differences, rejections) {
        let archived = known.get(&key.parent_name).is_some_and(|relation| !relation.partitioned);
        if differences.table(key.parent).is_none() && archived {
            missing.insert(key.parent_name.clone());
        }
    }
    Ok(missing)
}

/// Adds rows that are wanted to the operations of their tables; says whether there were any.
pub(super) async fn pull(
    workspace: &Workspace<'_>,
    differences: &mut Differences,
    rejections: &[Rejection],
) -> Result<bool> {
    if !workspace.request.with_parents {
        return Ok(false);
    }
    let mut pulled = BTreeSet::new();
    for key in wanting(differences, rejections) {
        let (Some(parent), Some(child)) = (differences.table(key.parent), differences.table(key.child)) else {
            continue;
        };
        let Some(sql) = pull_sql(parent, child, key) else { continue };
        if workspace.execute(&sql).await? > 0 {
            pulled.insert(parent.live.oid);
        }
    }
    for table in differences.tables.iter_mut().filter(|table| pulled.contains(&table.live.oid)) {
        table.recount(workspace).await?;
    }
    Ok(!pulled.is_empty())
}

fn pull_sql(parent: &Difference, child: &Difference, key: &ForeignKey) -> Option<String> {
    let Matching::Key(parts) = &parent.matching else { return None };
    let (referenced, referring) = (parent.positions(key.referenced())?, child.positions(key.referring())?);
    let refers = key.refers(staged("t", &referenced), staged("c", &referring));
    let same: Vec<String> = parts.iter().map(|(at, equals)| format!("t.c{at} {equals} l.c{at}")).collect();
    Some(format!(
        "INSERT INTO {operations} (afterimage_class, afterimage_then, afterimage_hash) \
         SELECT 'deleted', t.ctid, t.afterimage_hash FROM {rows} AS t \
         WHERE EXISTS (SELECT FROM {rejected} AS r JOIN {child_operations} AS o ON o.ctid = r.operation \
           JOIN {child_rows} AS c ON c.ctid = o.afterimage_then WHERE r.kind = '{kind}' AND {refers}) \
         AND NOT EXISTS (SELECT FROM {live} AS l WHERE {same}) \
         AND NOT EXISTS (SELECT FROM {operations} AS o WHERE o.afterimage_then = t.ctid)",
        operations = parent.operations(),
        rows = parent.rows(),
        rejected = child.rejected(),
        child_operations = child.operations(),
        child_rows = child.rows(),
        kind = RuleKind::ForeignKey.as_str(),
        live = parent.live_rows(),
        same = same.join(" AND "),
    ))
}
