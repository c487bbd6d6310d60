//! Rows into tables with foreign keys.
//!
//! PostgreSQL asks a foreign key row by row, which takes most of the time of inserting many. A superuser can write rows in a
//! replica's role, in which no trigger fires, and have the same asked of all of them at once: the rows that they refer to are
//! locked as the key's own trigger would lock each of them (PostgreSQL manual, 13.3.2, `FOR KEY SHARE`), then every row must
//! have one. This is done only where nothing else would fire: no trigger of a user, no deferred check of a unique key.

use super::catalog::ForeignKey;
use super::difference::{Difference, staged};
use super::relaxation::Relaxation;
use super::workspace::{Differences, Workspace};
use crate::failure::{Failure, Result};

/// The tables whose rows are written so, with the foreign keys to ask.
pub(super) struct Bulk<'a> {
    tables: Vec<(&'a Difference, Vec<Key<'a>>)>,
}

/// A foreign key, and where the rows of the restore have its columns.
struct Key<'a> {
    key: &'a ForeignKey,
    places: Vec<usize>,
}

impl<'a> Bulk<'a> {
    /// Finds them, when triggers of users are off and constraints that are in the way are gone.
    pub(super) async fn find(
        workspace: &Workspace<'_>,
        differences: &'a Differences,
        relaxation: &Relaxation,
    ) -> Result<Bulk<'a>> {
        let mut tables = Vec::new();
        for table in differences.tables.iter().filter(|table| table.counts.insert > 0) {
            let asked = |key: &&ForeignKey| {
                key.child == table.live.oid && !key.of_partition && !relaxation.has_removed(&key.child_name, &key.name)
            };
            let keys: Option<Vec<Key<'a>>> =
                differences.foreign_keys.iter().filter(asked).map(|key| Key::of(key, table)).collect();
            let Some(keys) = keys.filter(|keys| !keys.is_empty()) else { continue };
            if nothing_else_fires(workspace, table).await? {
                tables.push((table, keys));
            }
        }
        Ok(Bulk { tables })
    }

    pub(super) fn has(&self, table: &Difference) -> bool {
        self.tables.iter().any(|(one, _)| one.live.oid == table.live.oid)
    }

    /// Requires what the foreign keys' triggers would have.
    ///
    /// # Errors
    /// Refused where a row has no parent any more.
    pub(super) async fn require_parents(&self, workspace: &Workspace<'_>) -> Result<()> {
        for (table, keys) in &self.tables {
            for key in keys {
                workspace.join_for(table.counts.insert, key.key.parent).await?;
                workspace.query(&key.lock_sql(table), &[]).await?;
                let orphans = workspace.count(&key.orphans_sql(table)).await?;
                workspace.join_as_ever().await?;
                if orphans > 0 {
                    return Err(Failure::refused(format!(
                        "{orphans} rows of {} refer by {} to rows of {} that have gone meanwhile; nothing was changed",
                        table.name, key.key.name, key.key.parent_name
                    ))
                    .remedy("plan again"));
                }
            }
        }
        Ok(())
    }
}

async fn nothing_else_fires(workspace: &Workspace<'_>, table: &Difference) -> Result<bool> {
    let sql = "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        AND current_setting('session_replication_role') = 'origin'
        AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D')
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = $1 AND condeferrable AND contype IN ('p', 'u', 'x'))";
    let rows = workspace.query(sql, &[&table.live.oid]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

impl<'a> Key<'a> {
    /// `None` for a key that is not simply an equality of columns of the rows, which PostgreSQL itself is to ask.
    fn of(key: &'a ForeignKey, table: &Difference) -> Option<Key<'a>> {
        let simple =
            !key.definition.contains(" PERIOD ") && (key.columns.len() == 1 || !key.definition.contains(" MATCH FULL"));
        let places = table.positions(key.referring());
        places.filter(|_| simple).map(|places| Key { key, places })
    }

    fn refers(&self) -> String {
        self.key.refers(self.key.live_parent("p"), staged("t", &self.places))
    }

    fn lock_sql(&self, table: &Difference) -> String {
        format!(
            "SELECT count(*) FROM (SELECT FROM {} AS p WHERE EXISTS (SELECT FROM {} AND {}) FOR KEY SHARE OF p) AS locked",
            self.key.parents(),
            table.inserted(),
            self.refers()
        )
    }

    fn orphans_sql(&self, table: &Difference) -> String {
        let present: Vec<String> = self.places.iter().map(|at| format!("t.c{at} IS NOT NULL")).collect();
        format!(
            "SELECT count(*) FROM {} AND {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})",
            table.inserted(),
            present.join(" AND "),
            self.key.parents(),
            self.refers()
        )
    }
}
