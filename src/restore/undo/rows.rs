//! Which rows of a table go back, and which others have written since.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::super::workspace::Workspace;
use crate::columnar::RowText;
use crate::failure::Result;
use crate::history::{Key, KeySet, TableAt, Write, writes};
use crate::model::{Lsn, Operation};

/// The rows of one table that the undone transactions wrote.
#[derive(Default)]
pub(super) struct TableRows {
    /// Those that go back, by the transaction before which they were what they shall be.
    pub(super) keys: BTreeMap<Lsn, KeySet>,
    /// Those of them under which there is a row now.
    pub(super) present: KeySet,
    /// The transactions that wrote others of them since, with how many.
    pub(super) culprits: BTreeMap<Lsn, u64>,
    /// Rows that others have written since.
    pub(super) conflicting: u64,
}

impl TableRows {
    pub(super) async fn read(
        workspace: &Workspace<'_>,
        states: &[(Lsn, TableAt)],
        undone: &BTreeSet<Lsn>,
    ) -> Result<TableRows> {
        let mut history = History::default();
        for (lsn, state) in states {
            history.add(workspace, *lsn, state).await?;
        }
        history.follow(workspace, states, undone).await?;
        let conflicts = history.conflicts();
        let conflicts = leave_what_is_undone(workspace, states, &history.first, conflicts).await?;
        let mut rows = TableRows { present: history.present, ..TableRows::default() };
        for (key, first) in history.first {
            match conflicts.get(&key) {
                None => drop(rows.keys.entry(first).or_default().insert(key)),
                Some(writers) => {
                    rows.conflicting += u64::from(!writers.is_empty());
                    writers.iter().for_each(|lsn| *rows.culprits.entry(*lsn).or_default() += 1);
                }
            }
        }
        Ok(rows)
    }
}

/// Who wrote which keys.
#[derive(Default)]
struct History {
    /// The first of the undone transactions that wrote a key.
    first: HashMap<Key, Lsn>,
    /// Keys between which rows moved.
    moves: Vec<(Key, Key)>,
    /// Keys under which there is a row in the end.
    present: KeySet,
    /// Others that wrote a key since then.
    others: HashMap<Key, BTreeSet<Lsn>>,
}

impl History {
    /// What one undone transaction wrote.
    async fn add(&mut self, workspace: &Workspace<'_>, lsn: Lsn, state: &TableAt) -> Result<()> {
        let range = (lsn, Lsn(lsn.0 + 1));
        let mut truncated = false;
        for write in writes(workspace.archive, state.relation(), state.key(), range, None).await? {
            truncated |= write.operation == Operation::Truncate;
            self.note_presence(&write);
            self.note_move(&write);
            for key in [write.old_key, write.new_key].into_iter().flatten() {
                self.first.entry(key).or_insert(lsn);
            }
        }
        if truncated {
            state
                .for_each_row(None, &mut |row: &RowText| {
                    self.first.entry(state.key_of(row).into()).or_insert(lsn);
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    fn note_presence(&mut self, write: &Write) {
        if write.operation == Operation::Truncate {
            self.present.clear();
        }
        if let Some(key) = &write.old_key {
            self.present.remove(key);
        }
        self.present.extend(write.new_key.clone());
    }

    fn note_move(&mut self, write: &Write) {
        if let (Some(old), Some(new)) = (&write.old_key, &write.new_key) {
            self.moves.push((old.clone(), new.clone()));
        }
    }

    /// What others have done to these keys since.
    async fn follow(
        &mut self,
        workspace: &Workspace<'_>,
        states: &[(Lsn, TableAt)],
        undone: &BTreeSet<Lsn>,
    ) -> Result<()> {
        let Some((since, state)) = states.first() else { return Ok(()) };
        let keys: KeySet = self.first.keys().cloned().collect();
        // What a single transaction did has been seen; what several did is seen again among what came between.
        let from = match states.len() {
            1 => Lsn(since.0 + 1),
            _ => {
                self.present.clear();
                *since
            }
        };
        let range = (from, workspace.request.now.lsn);
        let found = writes(workspace.archive, state.relation(), state.key(), range, Some(Arc::new(keys))).await?;
        for write in &found {
            self.note_presence(write);
        }
        for write in found.iter().filter(|write| !undone.contains(&write.lsn)) {
            let all = || self.first.keys().cloned().collect::<Vec<_>>();
            let keys = match write.operation {
                Operation::Truncate => all(),
                _ => [write.old_key.clone(), write.new_key.clone()].into_iter().flatten().collect(),
            };
            for key in keys {
                if self.first.get(&key).is_some_and(|first| *first < write.lsn) {
                    self.others.entry(key).or_default().insert(write.lsn);
                }
            }
        }
        Ok(())
    }

    /// The keys that others wrote, and those between which the same rows moved.
    fn conflicts(&self) -> HashMap<Key, BTreeSet<Lsn>> {
        let mut conflicts = self.others.clone();
        loop {
            let before = conflicts.len();
            for (old, new) in &self.moves {
                for (from, to) in [(old, new), (new, old)] {
                    if conflicts.contains_key(from) && !conflicts.contains_key(to) {
                        // It is the other key's row that was written.
                        conflicts.insert(to.clone(), BTreeSet::new());
                    }
                }
            }
            if conflicts.len() == before {
                return conflicts;
            }
        }
    }
}

/// Takes out conflicts about rows that are already what they were: somebody else has undone the same.
async fn leave_what_is_undone(
    workspace: &Workspace<'_>,
    states: &[(Lsn, TableAt)],
    first: &HashMap<Key, Lsn>,
    mut conflicts: HashMap<Key, BTreeSet<Lsn>>,
) -> Result<HashMap<Key, BTreeSet<Lsn>>> {
    if conflicts.is_empty() {
        return Ok(conflicts);
    }
    let Some(now) = workspace.present_of(states[0].1.relation()).await? else { return Ok(conflicts) };
    let now = rows_of(&now, conflicts.keys().cloned().collect()).await?;
    let mut same = HashSet::new();
    for (lsn, state) in states {
        let keys: KeySet = conflicts.keys().filter(|key| first.get(*key) == Some(lsn)).cloned().collect();
        let then = rows_of(state, keys.clone()).await?;
        same.extend(keys.into_iter().filter(|key| then.get(key) == now.get(key)));
    }
    for key in same {
        if let Some(writers) = conflicts.get_mut(&key) {
            writers.clear();
        }
    }
    Ok(conflicts)
}

/// The rows under keys, each as one text.
async fn rows_of(state: &TableAt, keys: KeySet) -> Result<HashMap<Key, Vec<Vec<u8>>>> {
    let mut rows: HashMap<Key, Vec<Vec<u8>>> = HashMap::new();
    state
        .for_each_row(Some(&keys), &mut |row: &RowText| {
            let mut text = Vec::new();
            crate::copy_format::write_text_row(&mut text, row.fields());
            rows.entry(state.key_of(row).into()).or_default().push(text);
            Ok(())
        })
        .await?;
    rows.values_mut().for_each(|rows| rows.sort());
    Ok(rows)
}
