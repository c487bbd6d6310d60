//! Whether changed rows are what a rule looks for, and whose they are.
//!
//! Of a deleted or updated row the stream has the key, unless the table has `REPLICA IDENTITY FULL`. What the row was is in
//! the archive: the writers pay nothing for it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};

use super::condition::Compiled;
use super::rows::{ChangedRow, CommittedRows};
use super::rule::{Rule, Watched};
use crate::archive::Archive;
use crate::columnar::RowText;
use crate::failure::{Failure, Result};
use crate::history::{Key, KeySet, TableAt, json_row, places_in, rearrange};
use crate::model::{Lsn, Operation, RelationVersion, TableName};

/// Rows that an alert shows.
const SAMPLES: usize = 3;

/// Tenants that an alert counts apart, at most.
const MOST_TENANTS: usize = 1000;

/// What was found of some rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Judged {
    /// Rows of which the rule's condition holds.
    pub(super) matched: u64,
    /// Rows that were looked at.
    pub(super) examined: u64,
    /// Matching rows by tenant.
    pub(super) tenants: BTreeMap<String, u64>,
    pub(super) samples: Vec<Map<String, Json>>,
}

impl Judged {
    pub(super) fn add(&mut self, other: Judged) {
        self.matched += other.matched;
        self.examined += other.examined;
        for (tenant, rows) in other.tenants {
            *self.tenants.entry(tenant).or_default() += rows;
        }
        let room = SAMPLES.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.into_iter().take(room));
    }
}

/// The state that is left, for rules that ask what is the last of its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) cut: Lsn,
    /// Rows of that state that are gone too.
    pub(super) without: &'a KeySet,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    pub(super) archive: Archive,
    pub(super) tenant_columns: Vec<String>,
    /// Bytes of rows that are judged at a time.
    pub(super) memory: usize,
}

impl Judge {
    /// What rows may take where nobody archives meanwhile.
    pub(super) const USUAL_MEMORY: usize = 32 << 20;

    /// Judges what transactions with these commit LSNs, the first and the last, did to a table, by so many rows at most.
    /// What a row was is known from the rows that are judged with it, or else as it was before these transactions.
    ///
    /// # Errors
    /// Usage where the condition does not fit the table; else as the archive says.
    pub(super) async fn committed(
        &self,
        rule: &Rule,
        table: &TableName,
        range: (Lsn, Lsn),
        most: usize,
    ) -> Result<Judged> {
        let mut judged = Judged::default();
        let none = KeySet::new();
        let left = Left { cut: Lsn(range.1.0.saturating_add(1)), without: &none };
        let mut committed = CommittedRows::find(&self.archive, table, range, most).await?;
        while let Some((relation, rows)) = committed.next(self.memory).await? {
            judged.add(self.rows(rule, &relation, rows, range.0, left).await?);
        }
        Ok(judged)
    }

    /// Judges rows in the order in which they were changed. Before them the table was as it is at `cut`.
    pub(super) async fn rows(
        &self,
        rule: &Rule,
        relation: &RelationVersion,
        mut rows: Vec<ChangedRow>,
        cut: Lsn,
        left: Left<'_>,
    ) -> Result<Judged> {
        let compiled = rule.condition.as_ref().map(|condition| condition.compile(relation)).transpose()?;
        self.complete(relation, &mut rows, cut).await?;
        rows.retain(|row| rule.operations.iter().any(|watched| is_watched(*watched, row.operation)));
        let examined = rows.len() as u64;
        if let Some(compiled) = &compiled {
            rows = matching(compiled, relation, rows)?;
        }
        if !rule.last_of.is_empty() {
            rows = self.last_of_their_kind(rule, compiled.as_ref(), relation, rows, left).await?;
        }
        let names = &self.tenant_columns;
        let tenant = names.iter().find_map(|name| relation.columns.iter().position(|column| column.name == *name));
        let mut judged = Judged { examined, matched: rows.len() as u64, ..Judged::default() };
        for row in &rows {
            let Some(shown) = row.old.as_ref().or(row.new.as_ref()) else { continue };
            if let Some(at) = tenant {
                let value = shown.field(at).map_or("NULL".into(), String::from_utf8_lossy);
                if judged.tenants.len() < MOST_TENANTS || judged.tenants.contains_key(value.as_ref()) {
                    *judged.tenants.entry(value.into_owned()).or_default() += 1;
                }
            }
            if judged.samples.len() < SAMPLES {
                judged.samples.push(json_row(relation, shown));
            }
        }
        Ok(judged)
    }

    /// Fills in what rows were before, from the rows changed before them and from the archive.
    async fn complete(&self, relation: &RelationVersion, rows: &mut [ChangedRow], cut: Lsn) -> Result<()> {
        let lacks = |row: &ChangedRow| row.operation != Operation::Insert && row.old.is_none();
        let keys: KeySet = rows.iter().filter(|row| lacks(row)).map(|row| row.key.clone()).collect();
        let mut known: HashMap<Key, RowText> = HashMap::new();
        if !keys.is_empty()
            && let Some(state) = TableAt::find(&self.archive, &relation.name, cut).await?
        {
            let places = places_in(&relation.columns, state.relation());
            let mut sink = |row: &RowText| {
                known.insert(state.key_of(row).into(), arranged(row, &places));
                Ok(())
            };
            state.for_each_row(Some(&keys), &mut sink).await?;
        }
        for row in rows {
            if lacks(row) {
                row.old = known.remove(&row.key);
            }
            if let (Some(new), Some(old)) = (&mut row.new, &row.old)
                && !row.unsent.is_empty()
            {
                *new = with_unsent(new, old, &row.unsent);
            }
            if let (Some(key), Some(new)) = (&row.new_key, &row.new) {
                known.insert(key.clone(), new.clone());
            }
        }
        Ok(())
    }

    /// Those after which no row of the same kind is left.
    async fn last_of_their_kind(
        &self,
        rule: &Rule,
        compiled: Option<&Compiled>,
        relation: &RelationVersion,
        rows: Vec<ChangedRow>,
        left: Left<'_>,
    ) -> Result<Vec<ChangedRow>> {
        let at = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        let Some(columns) = rule.last_of.iter().map(at).collect::<Option<Vec<usize>>>() else {
            return Err(Failure::usage(format!(
                "the rule {} names columns that {} does not have: {}",
                rule.name,
                relation.name,
                rule.last_of.join(", ")
            )));
        };
        let group = |row: &RowText| columns.iter().map(|at| row.field(*at).map(<[u8]>::to_vec)).collect::<Vec<_>>();
        let mut open: HashSet<_> = rows.iter().filter_map(|row| row.old.as_ref()).map(group).collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let mut remaining: Vec<RowText> = Vec::new();
        if let Some(state) = TableAt::find(&self.archive, &relation.name, left.cut).await? {
            let places = places_in(&relation.columns, state.relation());
            let mut keep = |row: &RowText| {
                if !left.without.contains(state.key_of(row).as_slice()) {
                    let row = arranged(row, &places);
                    if open.contains(&group(&row)) {
                        remaining.push(row);
                    }
                }
                Ok(())
            };
            state.for_each_row(None, &mut keep).await?;
        }
        let holds = match compiled {
            Some(compiled) => {
                let said = compiled.holds(relation, remaining.iter().map(|row| (Some(row), None)))?;
                said.iter().map(|said| said == Some(true)).collect()
            }
            None => vec![true; remaining.len()],
        };
        for (row, _) in remaining.iter().zip(holds).filter(|(_, holds)| *holds) {
            open.remove(&group(row));
        }
        Ok(rows.into_iter().filter(|row| row.old.as_ref().is_some_and(|old| open.contains(&group(old)))).collect())
    }
}

fn is_watched(watched: Watched, operation: Operation) -> bool {
    matches!(
        (watched, operation),
        (Watched::Insert, Operation::Insert | Operation::Snapshot)
            | (Watched::Update, Operation::Update)
            | (Watched::Delete, Operation::Delete)
    )
}

fn matching(compiled: &Compiled, relation: &RelationVersion, rows: Vec<ChangedRow>) -> Result<Vec<ChangedRow>> {
    let mut found = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let chunk: Vec<ChangedRow> = rows.by_ref().take(8192).collect();
        let said = compiled.holds(relation, chunk.iter().map(|row| (row.old.as_ref(), row.new.as_ref())))?;
        found.extend(chunk.into_iter().zip(said.iter()).filter(|(_, said)| *said == Some(true)).map(|(row, _)| row));
    }
    Ok(found)
}

fn arranged(row: &RowText, places: &[(Option<usize>, Option<&str>)]) -> RowText {
    let mut text = RowText::default();
    rearrange(row, places, &mut text);
    text
}

fn with_unsent(new: &RowText, old: &RowText, unsent: &[usize]) -> RowText {
    let mut text = RowText::default();
    for at in 0..new.len() {
        let value = if unsent.contains(&at) { old.field(at) } else { new.field(at) };
        text.push_with(|out| value.map(|value| out.extend_from_slice(value)).is_some());
    }
    text
}
