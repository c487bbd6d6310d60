//! Which tables a restore is about, and what they are now.

use std::collections::BTreeSet;

use super::catalog::{self, LiveTable};
use super::plan::Note;
use super::wanted::Wanted;
use super::workspace::{Mode, Workspace};
use super::{Owner, belonging, quarantine};
use crate::failure::{Failure, Result};
use crate::history::TableAt;
use crate::model::{Partitions, RelationVersion, TableName};

/// A table of the restore.
pub(super) enum Selected {
    /// As it was at the point.
    Point(TableAt),
    /// As it is, with rows in quarantine.
    Quarantine(TableAt),
    /// As it was at the point, for what transactions did to it that took away rows which it refers to.
    Cascaded(TableAt),
    /// With rows that were found already.
    Ready(Box<Wanted>),
}

impl Selected {
    pub(super) fn relation(&self) -> &RelationVersion {
        match self {
            Selected::Point(table) | Selected::Quarantine(table) | Selected::Cascaded(table) => table.relation(),
            Selected::Ready(wanted) => &wanted.relation,
        }
    }
}

/// A table of the restore, and what it is now.
pub(super) struct Found {
    pub(super) selected: Selected,
    pub(super) name: TableName,
    pub(super) live: LiveTable,
}

impl Workspace<'_> {
    /// The tables that have rows in quarantine, as they are now.
    pub(super) async fn select_quarantined(&self) -> Result<Vec<TableAt>> {
        let mut tables = Vec::new();
        for name in quarantine::tables(self).await? {
            let wanted = self.request.tables.is_empty() || self.request.tables.iter().any(|table| table.matches(&name));
            if wanted && let Some(table) = self.present(&name).await? {
                tables.push(table);
            }
        }
        Ok(tables)
    }

    /// The tables that the patterns name, as they were at the point, by name.
    pub(super) async fn select(&self, notes: &mut Vec<Note>) -> Result<Vec<TableAt>> {
        let below = match &self.request.owner {
            Some(Owner::Entity { table, .. }) => belonging::tables_below(self, table).await?,
            _ => BTreeSet::new(),
        };
        // A table that is gone by now can be named too.
        let mut known = self.archive.tables_before(self.request.now.lsn).await?;
        known.extend(self.archive.tables_before(self.request.to.lsn).await?);
        let partitions = Partitions::of(known.values());
        let wanted = |name: &TableName| below.contains(name) || partitions.answers_any(name, &self.request.tables);
        known.retain(|_, relation| !relation.partitioned);
        let mut names: Vec<&TableName> = known.keys().filter(|name| wanted(name)).collect();
        names.sort();
        for pattern in &self.request.tables {
            if !names.iter().any(|name| partitions.answers(name, pattern)) {
                return Err(Failure::usage(format!("the archive has no table that matches {pattern}")).remedy(
                    "afterimage status lists its tables; quote names with capital letters: 'public.\"Orders\"'",
                ));
            }
        }
        let mut tables = Vec::new();
        for name in names {
            match TableAt::find(self.archive, name, self.request.to.lsn).await? {
                Some(table) => tables.push(table),
                None => notes.push(Note::skipped(name, "was not in the archive at the point yet; left as it is")),
            }
        }
        for name in catalog::all_tables(&self.session).await? {
            if wanted(&name) && !known.contains_key(&name) && !self.has_archived_leaves(&name).await? {
                notes.push(Note::skipped(&name, "is not in the archive; left as it is"));
            }
        }
        Ok(tables)
    }

    /// Partitioned tables hold no rows themselves, so they are covered by their partitions.
    async fn has_archived_leaves(&self, name: &TableName) -> Result<bool> {
        Ok(catalog::find(&self.session, name).await?.is_none())
    }

    /// Finds the tables, keeps their definitions as they are, and, in [`Mode::Change`], announces writing.
    pub(super) async fn lock(&self, tables: Vec<Selected>) -> Result<Vec<Found>> {
        let mode = match self.mode {
            Mode::Look => "ACCESS SHARE",
            Mode::Change => "ROW EXCLUSIVE",
        };
        let mut found = Vec::new();
        for selected in tables {
            let relation = selected.relation();
            let located = self.locate(relation).await?;
            let gone = || Failure::failed(format!("the table {} does not exist any more", relation.name));
            let (name, oid) = located.ok_or_else(gone)?;
            self.require_privileges(&name, oid).await?;
            self.execute(&format!("LOCK TABLE ONLY {} IN {mode} MODE", name.to_sql())).await?;
            let live = catalog::table(&self.session, oid).await?;
            if live.policies.is_some() {
                self.execute("SET LOCAL row_security = on").await?;
            }
            found.push(Found { selected, name, live });
        }
        Ok(found)
    }

    /// What a relation of the archive is now: itself, whatever it is called by now, or else what has its name.
    pub(super) async fn locate(&self, relation: &RelationVersion) -> Result<Option<(TableName, u32)>> {
        if let Some(name) = catalog::name_of(&self.session, relation.oid).await? {
            return Ok(Some((name, relation.oid)));
        }
        let found = catalog::find(&self.session, &relation.name).await?;
        Ok(found.map(|oid| (relation.name.clone(), oid)))
    }

    /// What a relation of the archive is at `now`, whatever it is called by then.
    pub(super) async fn present_of(&self, relation: &RelationVersion) -> Result<Option<TableAt>> {
        let known = self.archive.tables_before(self.request.now.lsn).await?;
        match known.values().find(|known| known.oid == relation.oid) {
            Some(known) => self.present(&known.name).await,
            None => Ok(None),
        }
    }
}
