//! Constraints that are other than usual while rows are written, and what they are afterwards.
//!
//! Foreign keys of a circle are checked at the end, because no order of tables satisfies each statement by itself. With
//! `--on-reject not-valid` constraints that forbid planned rows are taken away and come back NOT VALID: in force for
//! whatever is written from then on.

use super::catalog::ForeignKey;
use super::constraint::Demand;
use super::judgement::{Rejection, RuleKind};
use super::order;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::{TableName, quote_identifier, quote_literal};

/// A constraint that was taken away.
struct Removed {
    table: TableName,
    name: String,
    definition: String,
    comment: Option<String>,
}

/// See the module's documentation. A rollback undoes all of it too.
pub(super) struct Relaxation {
    removed: Vec<Removed>,
    deferred: Vec<(TableName, String)>,
}

impl Relaxation {
    pub(super) async fn relax(
        workspace: &Workspace<'_>,
        differences: &Differences,
        rejections: &[Rejection],
    ) -> Result<Relaxation> {
        let mut relaxation = Relaxation { removed: Vec::new(), deferred: Vec::new() };
        for rejection in rejections.iter().filter(|rejection| rejection.can_be_not_valid) {
            relaxation.removed.extend(removed(differences, rejection));
        }
        for removed in &relaxation.removed {
            alter(workspace, &removed.table, &format!("DROP CONSTRAINT {}", quote_identifier(&removed.name))).await?;
        }
        for key in deferrable(differences, in_circle) {
            relaxation.defer(workspace, key).await?;
        }
        Ok(relaxation)
    }

    /// Whether a constraint is not there until [`Relaxation::restore`].
    pub(super) fn has_removed(&self, table: &TableName, name: &str) -> bool {
        self.removed.iter().any(|removed| removed.table == *table && removed.name == *name)
    }

    /// Has all foreign keys between planned rows checked at the end; false where none is left that could be.
    pub(super) async fn defer_all(&mut self, workspace: &Workspace<'_>, differences: &Differences) -> Result<bool> {
        let mut any = false;
        for key in deferrable(differences, |_, _| true) {
            any |= self.defer(workspace, key).await?;
        }
        Ok(any)
    }

    async fn defer(&mut self, workspace: &Workspace<'_>, key: &ForeignKey) -> Result<bool> {
        let mut deferred = self.deferred.iter();
        if self.has_removed(&key.child_name, &key.name)
            || deferred.any(|(table, name)| *table == key.child_name && *name == key.name)
        {
            return Ok(false);
        }
        let name = quote_identifier(&key.name);
        alter(workspace, &key.child_name, &format!("ALTER CONSTRAINT {name} DEFERRABLE INITIALLY DEFERRED")).await?;
        self.deferred.push((key.child_name.clone(), key.name.clone()));
        Ok(true)
    }

    /// Gives every constraint back; says which are NOT VALID from now on.
    pub(super) async fn restore(self, workspace: &Workspace<'_>) -> Result<Vec<(TableName, String)>> {
        for (table, name) in &self.deferred {
            alter(workspace, table, &format!("ALTER CONSTRAINT {} NOT DEFERRABLE", quote_identifier(name))).await?;
        }
        for removed in &self.removed {
            let (table, name) = (&removed.table, quote_identifier(&removed.name));
            let already = removed.definition.ends_with(" NOT VALID");
            let not_valid = if already { "" } else { " NOT VALID" };
            alter(workspace, table, &format!("ADD CONSTRAINT {name} {}{not_valid}", removed.definition)).await?;
            if let Some(comment) = &removed.comment {
                let comment = quote_literal(comment);
                let sql = format!("COMMENT ON CONSTRAINT {name} ON {} IS {comment}", table.to_sql());
                workspace.execute(&sql).await?;
            }
        }
        Ok(self.removed.into_iter().map(|removed| (removed.table, removed.name)).collect())
    }
}

fn removed(differences: &Differences, rejection: &Rejection) -> Option<Removed> {
    let table = differences.tables.iter().find(|table| table.name == rejection.table)?;
    let (definition, comment) = match rejection.kind {
        RuleKind::Check => {
            let is_it = |known: &&super::constraint::Constraint| {
                known.name == rejection.name && matches!(known.demand, Demand::Check(..))
            };
            let found = table.live.constraints.iter().find(is_it)?;
            (found.definition.clone(), found.comment.clone())
        }
        _ => {
            let is_it = |key: &&ForeignKey| key.name == rejection.name && key.child == table.live.oid;
            let found = differences.foreign_keys.iter().find(is_it)?;
            (found.definition.clone(), found.comment.clone())
        }
    };
    Some(Removed { table: table.name.clone(), name: rejection.name.clone(), definition, comment })
}

async fn alter(workspace: &Workspace<'_>, table: &TableName, action: &str) -> Result<()> {
    workspace.execute(&format!("ALTER TABLE {} {action}", table.to_sql())).await?;
    Ok(())
}

/// Foreign keys between planned tables that the role may defer and that are chosen by where they lie.
fn deferrable(
    differences: &Differences,
    chosen: impl Fn(&[(usize, usize)], (usize, usize)) -> bool,
) -> Vec<&ForeignKey> {
    let tables = &differences.tables;
    let at = |oid: u32| tables.iter().position(|table| table.live.oid == oid && table.counts.rows() > 0);
    let edge = |key: &ForeignKey| Some((at(key.parent)?, at(key.child)?));
    let edges: Vec<(usize, usize)> = differences.foreign_keys.iter().filter_map(edge).collect();
    let may = |key: &&ForeignKey| {
        !key.deferrable && !key.inherited && differences.table(key.child).is_some_and(|child| child.live.owned)
    };
    let chosen = |key: &&ForeignKey| edge(key).is_some_and(|edge| chosen(&edges, edge));
    differences.foreign_keys.iter().filter(may).filter(chosen).collect()
}

/// No order of the tables satisfies such a key.
fn in_circle(edges: &[(usize, usize)], edge: (usize, usize)) -> bool {
    edge.0 != edge.1 && order::in_circle(edges, edge)
}
