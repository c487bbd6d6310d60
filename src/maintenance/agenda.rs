//! Which tables [`super::keep`] looks at: those that changed since it looked last, and those whose time has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::{LogTable, Publication, TablePath};
use crate::machine;

/// Commits of `log/transactions` that add no rows, from which on its log is looked at.
const WATERMARKS: u64 = 100;

/// What the archiver beside has published. Cloning gives another hand on the same.
#[derive(Debug, Clone, Default)]
pub struct Published(Arc<Mutex<Changed>>);

#[derive(Debug, Default)]
struct Changed {
    tables: BTreeSet<TablePath>,
    watermarks: u64,
}

impl Published {
    /// Notes what a publication changed.
    pub fn note(&self, publication: &Publication) {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = publication.changes.iter().map(|(name, _)| TablePath::Changes(name.clone()));
        let logs = [
            (LogTable::Transactions, !publication.transactions.is_empty()),
            (LogTable::Relations, !publication.relations.is_empty()),
            (LogTable::Ddl, !publication.ddl.is_empty()),
            (LogTable::Messages, !publication.messages.is_empty()),
            (LogTable::Sequences, !publication.sequences.is_empty()),
            (LogTable::Marks, !publication.marks.is_empty()),
            (LogTable::Restores, !publication.restores.is_empty()),
            (LogTable::Gaps, !publication.gaps.is_empty()),
        ];
        let logs = logs.into_iter().filter(|(_, has_rows)| *has_rows).map(|(log, _)| TablePath::Log(log));
        changed.tables.extend(tables.chain(logs));
        changed.watermarks += 1;
    }

    /// What has changed since it was asked last.
    fn take(&self) -> BTreeSet<TablePath> {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changed.watermarks >= WATERMARKS {
            changed.tables.insert(TablePath::Log(LogTable::Transactions));
            changed.watermarks = 0;
        }
        std::mem::take(&mut changed.tables)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    published: Published,
    due: BTreeSet<TablePath>,
    later: BTreeMap<TablePath, Instant>,
}

impl Agenda {
    pub(super) fn new(published: Published) -> Agenda {
        Agenda { published, ..Agenda::default() }
    }

    pub(super) fn add(&mut self, tables: impl IntoIterator<Item = TablePath>) {
        self.due.extend(tables);
    }

    /// The tables to look at now: the log first, and a table's images after its changes, for those decide on them.
    pub(super) fn due(&mut self, now: Instant) -> Vec<TablePath> {
        self.due.extend(self.published.take());
        self.due.extend(self.later.extract_if(.., |_, time| *time <= now).map(|(table, _)| table));
        let images = self.due.iter().filter_map(|table| match table {
            TablePath::Changes(name) => Some(TablePath::Images(name.clone())),
            _ => None,
        });
        let images: Vec<TablePath> = images.collect();
        self.due.extend(images);
        let mut due: Vec<TablePath> = self.due.iter().cloned().collect();
        due.sort_by_key(|table| !matches!(table, TablePath::Log(_)));
        due
    }

    /// Notes that a table was looked at, and when again even if nothing changes.
    pub(super) fn seen(&mut self, table: &TablePath, again: Option<Duration>) {
        self.due.remove(table);
        if let Some(time) = again.and_then(|again| machine::instant().checked_add(again)) {
            self.later.insert(table.clone(), time);
        }
    }
}
