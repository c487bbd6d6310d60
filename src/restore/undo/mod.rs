//! The inverse of chosen transactions, and of nothing else.
//!
//! A row that such a transaction wrote goes back to what it was before the first of them, unless another transaction has
//! written it since: that is a conflict, and names the transaction. A row that moved from one key to another is one row under
//! both. What the live rows must be equal to is the archive's present state, so that a change of the last moment is no less a
//! conflict.

pub(super) mod dependents;
mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::wanted::{Rows, Wanted};
use super::workspace::Workspace;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{KeySet, TableAt};
use crate::model::{Commit, Lsn, Partitions, TableName, Transaction, Xid};
use rows::TableRows;

use super::plan::Note;

/// What to do where later transactions depend on those that are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Nothing is restored.
    #[default]
    Abort,
    /// Rows that they concern stay as they are.
    Skip,
    /// They are undone too.
    Cascade,
}

impl OnConflict {
    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            OnConflict::Abort => "abort",
            OnConflict::Skip => "skip",
            OnConflict::Cascade => "cascade",
        }
    }
}

/// How a later transaction depends on one that is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// It wrote the same rows, or used their keys again.
    WroteTheSameRows,
    /// It wrote rows that refer to them, or took away rows that they refer to.
    ByForeignKey,
}

impl Dependence {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Dependence::WroteTheSameRows => "wrote the same rows",
            Dependence::ByForeignKey => "depends by foreign keys",
        }
    }
}

/// A later transaction that depends on one that is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    pub lsn: Lsn,
    pub xid: Option<Xid>,
    pub time: Option<DateTime<Utc>>,
    pub table: TableName,
    pub rows: u64,
    pub how: Dependence,
}

/// Rows in conflict by later transaction, table and kind.
pub(super) type Culprits = BTreeMap<(Lsn, TableName, Dependence), u64>;

/// The undone transactions, and what follows from them.
pub(super) struct Undone {
    pub(super) tables: Vec<Wanted>,
    /// Tables that they dropped, as they were before.
    pub(super) dropped: Vec<TableAt>,
    pub(super) culprits: Culprits,
    /// Rows that are left as they are, because others have written them.
    pub(super) conflicting: BTreeMap<TableName, u64>,
}

/// The inverse of these transactions, by table.
pub(super) async fn undo(workspace: &Workspace<'_>, undone: &BTreeSet<Lsn>, notes: &mut Vec<Note>) -> Result<Undone> {
    let dropped = dropped(workspace, undone).await?;
    let is_dropped = |state: &TableAt| dropped.iter().any(|table| table.relation().oid == state.relation().oid);
    let mut states = states_before(workspace, undone, notes).await?;
    states.retain(|states| !is_dropped(&states[0].1));
    let mut found = Undone { tables: Vec::new(), dropped, culprits: Culprits::new(), conflicting: BTreeMap::new() };
    for states in states {
        let name = states[0].1.relation().name.clone();
        let table = TableRows::read(workspace, &states, undone).await.context(&name)?;
        for (lsn, rows) in &table.culprits {
            *found.culprits.entry((*lsn, name.clone(), Dependence::WroteTheSameRows)).or_default() += rows;
        }
        if table.conflicting > 0 {
            found.conflicting.insert(name.clone(), table.conflicting);
        }
        found.tables.push(wanted(workspace, states, table).await.context(&name)?);
    }
    Ok(found)
}

async fn wanted(workspace: &Workspace<'_>, states: Vec<(Lsn, TableAt)>, table: TableRows) -> Result<Wanted> {
    let (relation, key) = (states[0].1.relation().clone(), states[0].1.key().to_vec());
    let now = workspace.present_of(&relation).await?;
    let now = now.ok_or_else(|| {
        Failure::refused("it was dropped since").remedy("bring it back first: restore it to a point before that")
    })?;
    let same = key.len() == now.key().len()
        && key.iter().zip(now.key()).all(|(then, present)| now.relation().same_column(then) == Some(present));
    if !same {
        return Err(Failure::refused("its rows are told apart by other columns since")
            .remedy("take it back to a point instead: --to before:TXN"));
    }
    let mut rows = Vec::new();
    for (lsn, state) in states {
        if let Some(keys) = table.keys.get(&lsn).filter(|keys| !keys.is_empty()) {
            rows.push((Arc::new(state), Some(Arc::new(keys.clone()))));
        }
    }
    let keys: Arc<KeySet> = Arc::new(table.keys.into_values().flatten().collect());
    let present: KeySet = table.present.into_iter().filter(|key| keys.contains(key)).collect();
    let expected = Some((Arc::new(now), Arc::new(present)));
    Ok(Wanted { relation, key, everything: false, keys, rows: Rows::States(rows), expected })
}

/// For each table that the transactions changed, its states before each of them, the oldest first.
async fn states_before(
    workspace: &Workspace<'_>,
    undone: &BTreeSet<Lsn>,
    notes: &mut Vec<Note>,
) -> Result<Vec<Vec<(Lsn, TableAt)>>> {
    let transactions = workspace.archive.transactions(workspace.request.now.lsn).await?;
    let partitions = Partitions::of(workspace.archive.tables_ever().await?.values());
    let mut by_table: BTreeMap<u32, Vec<(Lsn, TableAt)>> = BTreeMap::new();
    let chosen = |transaction: &&Transaction| undone.contains(&transaction.commit.lsn);
    for transaction in transactions.iter().filter(chosen) {
        for (name, counts) in &transaction.tables {
            let wanted = &workspace.request.tables;
            let asked = wanted.is_empty() || partitions.answers_any(name, wanted);
            if !asked {
                notes.push(Note::about(name, "was changed by the transaction too; left as it is, as asked"));
                continue;
            }
            match TableAt::find(workspace.archive, name, transaction.commit.lsn).await.context(name)? {
                Some(state) => {
                    by_table.entry(state.relation().oid).or_default().push((transaction.commit.lsn, state));
                }
                None if counts.total() == counts.insert => notes
                    .push(Note::about(name, "was made by the transaction that is undone; it stays, and what it has")),
                None => notes.push(Note::skipped(name, "was made or renamed by the transaction that is undone")),
            }
        }
    }
    Ok(by_table.into_values().collect())
}

/// The tables that the transactions dropped, as they were before.
async fn dropped(workspace: &Workspace<'_>, undone: &BTreeSet<Lsn>) -> Result<Vec<TableAt>> {
    let mut tables = Vec::new();
    let partitions = Partitions::of(workspace.archive.tables_ever().await?.values());
    let statements = workspace.archive.ddl(workspace.request.now.lsn).await?;
    for record in statements.iter().filter(|record| undone.contains(&record.position.lsn)) {
        let dropped: Vec<serde_json::Value> = serde_json::from_str(&record.dropped).unwrap_or_default();
        let dropped = dropped.iter().filter(|object| object["type"] == "table");
        for name in dropped.filter_map(|object| TableName::parse(object["identity"].as_str()?)) {
            let wanted = &workspace.request.tables;
            let asked = wanted.is_empty() || partitions.answers_any(&name, wanted);
            if asked && let Some(table) = TableAt::find(workspace.archive, &name, record.position.lsn).await? {
                tables.push(table);
            }
        }
    }
    tables.retain(|table| !table.relation().partitioned);
    Ok(tables)
}

/// Later transactions that said that they ran a statement which an undone one had run: whatever runs it again will do so again.
pub(super) async fn repeated(workspace: &Workspace<'_>, undone: &BTreeSet<Lsn>) -> Result<Vec<Note>> {
    let Some(first) = undone.first() else { return Ok(Vec::new()) };
    let transactions = workspace.archive.transactions(workspace.request.now.lsn).await?;
    let said = |transaction: &Transaction| -> BTreeSet<String> {
        let context = transaction.context.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let parts = match context {
            Some(serde_json::Value::Array(parts)) => parts,
            Some(part) => vec![part],
            None => Vec::new(),
        };
        parts.iter().filter_map(|part| part["statement"].as_str().map(str::to_owned)).collect()
    };
    let is_undone = |transaction: &&Transaction| undone.contains(&transaction.commit.lsn);
    let statements: BTreeSet<String> = transactions.iter().filter(is_undone).flat_map(said).collect();
    let later = transactions.iter().filter(|one| one.commit.lsn > *first && !undone.contains(&one.commit.lsn));
    let again = later.filter(|one| !said(one).is_disjoint(&statements));
    let note = |one: &Transaction| Note {
        table: None,
        text: format!(
            "transaction {} (xid {}) ran the same statement again: stop what runs it, or it will undo this restore, \
             and see that the application forgets what it caches of these rows",
            one.commit.lsn, one.commit.xid
        ),
        skipped: false,
    };
    Ok(again.map(note).collect())
}

/// The conflicts as a plan shows them.
pub(super) async fn conflicts(workspace: &Workspace<'_>, culprits: &Culprits) -> Result<Vec<Conflict>> {
    if culprits.is_empty() {
        return Ok(Vec::new());
    }
    let commits = workspace.archive.commits(workspace.request.now.lsn).await?;
    let commits: HashMap<Lsn, &Commit> = commits.iter().map(|commit| (commit.lsn, commit)).collect();
    let conflict = |((lsn, table, how), rows): (&(Lsn, TableName, Dependence), &u64)| {
        let commit = commits.get(lsn);
        Conflict {
            lsn: *lsn,
            xid: commit.map(|commit| commit.xid),
            time: commit.map(|commit| commit.time),
            table: table.clone(),
            rows: *rows,
            how: *how,
        }
    };
    Ok(culprits.iter().map(conflict).collect())
}
