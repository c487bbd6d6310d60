//! Later transactions that depend on the undone ones by foreign keys: they wrote rows that refer to what goes, or took away
//! what comes back refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::catalog::ForeignKey;
use super::super::judgement::{Rejection, RuleKind};
use super::super::workspace::{Differences, Workspace};
use super::{Culprits, Dependence};
use crate::failure::Result;
use crate::history::{Key, KeySet, TableAt, writes};
use crate::model::{Lsn, TableName, quote_identifier};

/// Who is to blame for what foreign keys forbid.
pub(in super::super) async fn culprits(
    workspace: &Workspace<'_>,
    differences: &Differences,
    rejections: &[Rejection],
    undone: &BTreeSet<Lsn>,
) -> Result<Culprits> {
    let mut culprits = Culprits::new();
    let Some(first) = undone.first() else { return Ok(culprits) };
    for rejection in rejections {
        let is_it = |key: &&ForeignKey| {
            let table = if rejection.kind == RuleKind::Reference { key.parent } else { key.child };
            key.name == rejection.name && differences.table(table).is_some_and(|found| found.name == rejection.table)
        };
        let Some(key) = differences.foreign_keys.iter().find(is_it) else { continue };
        let (other, sql) = match rejection.kind {
            RuleKind::Reference => (&key.child_name, referring_sql(differences, key)),
            RuleKind::ForeignKey => (&key.parent_name, None),
            _ => continue,
        };
        let Some(table) = workspace.present(other).await? else { continue };
        let sql = match rejection.kind {
            RuleKind::Reference => sql.map(|sql| sql(&table)),
            _ => missing_sql(differences, key, &table),
        };
        let Some(sql) = sql else { continue };
        let keys: KeySet = workspace.query(&sql, &[]).await?.iter().map(key_of).collect();
        let range = (Lsn(first.0 + 1), workspace.request.now.lsn);
        let found = writes(workspace.archive, table.relation(), table.key(), range, Some(Arc::new(keys))).await?;
        for write in found.iter().filter(|write| !undone.contains(&write.lsn)) {
            *culprits.entry((write.lsn, other.clone(), Dependence::ByForeignKey)).or_default() += 1;
        }
    }
    Ok(culprits)
}

/// Leaves out what foreign keys forbid, and counts it.
pub(in super::super) async fn leave_out(
    workspace: &Workspace<'_>,
    differences: &mut Differences,
    skipped: &mut BTreeMap<TableName, u64>,
) -> Result<()> {
    let kinds = format!("'{}', '{}'", RuleKind::Reference.as_str(), RuleKind::ForeignKey.as_str());
    for table in differences.tables.iter_mut().filter(|table| table.counts.rows() > 0) {
        let sql = format!(
            "DELETE FROM {} AS o WHERE o.ctid IN (SELECT r.operation FROM {} AS r WHERE r.kind IN ({kinds}))",
            table.operations(),
            table.rejected()
        );
        let left = workspace.execute(&sql).await?;
        if left > 0 {
            workspace.execute(&format!("DELETE FROM {} WHERE kind IN ({kinds})", table.rejected())).await?;
            *skipped.entry(table.name.clone()).or_default() += left;
            table.recount(workspace).await?;
        }
    }
    Ok(())
}

/// A row of texts as the history makes keys.
fn key_of(row: &tokio_postgres::Row) -> Key {
    let mut key = Vec::new();
    for at in 0..row.len() {
        match row.get::<_, Option<String>>(at) {
            Some(text) => {
                key.push(1);
                key.extend_from_slice(&(text.len() as u32).to_be_bytes());
                key.extend_from_slice(text.as_bytes());
            }
            None => key.extend_from_slice(&[0; 5]),
        }
    }
    key.into()
}

/// The keys of live rows that refer to those that cannot go.
fn referring_sql<'k>(
    differences: &'k Differences,
    key: &'k ForeignKey,
) -> Option<impl Fn(&TableAt) -> String + use<'k>> {
    let parent = differences.table(key.parent)?;
    Some(move |child: &TableAt| {
        let columns: Vec<String> =
            child.key().iter().map(|column| format!("x.{}::text", quote_identifier(&column.name))).collect();
        format!(
            "SELECT DISTINCT {} FROM {} AS r JOIN {} AS o ON o.ctid = r.operation JOIN ONLY {} AS p \
             ON p.ctid = o.afterimage_live JOIN ONLY {} AS x ON {} WHERE r.kind = '{}'",
            columns.join(", "),
            parent.rejected(),
            parent.operations(),
            parent.name.to_sql(),
            key.child_name.to_sql(),
            key.refers(key.live_parent("p"), key.live_child("x")),
            RuleKind::Reference.as_str()
        )
    })
}

/// The keys of rows that are missing to those that cannot come back, where they are referred to by the key that tells them
/// apart.
fn missing_sql(differences: &Differences, key: &ForeignKey, parent: &TableAt) -> Option<String> {
    let child = differences.table(key.child)?;
    let column = |name: &String| {
        let (_, referring, _) = key.columns.iter().find(|(referenced, _, _)| referenced == name)?;
        let at = child.position(referring)?;
        Some(format!("t.c{at}::text"))
    };
    let columns: Option<Vec<String>> = parent.key().iter().map(|known| column(&known.name)).collect();
    Some(format!(
        "SELECT DISTINCT {} FROM {} AS r JOIN {} AS o ON o.ctid = r.operation JOIN {} AS t ON t.ctid = o.afterimage_then \
         WHERE r.kind = '{}'",
        columns?.join(", "),
        child.rejected(),
        child.operations(),
        child.rows(),
        RuleKind::ForeignKey.as_str()
    ))
}
