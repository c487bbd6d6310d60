//! Changed rows as a rule sees them, from the archive or from a transaction that has not ended.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::archive::{Archive, DataFile};
use crate::columnar::{ChangeBuilder, Place, RowReader, RowText, Wanted, names, old_rows};
use crate::failure::{Failure, Result};
use crate::history::Key;
use crate::model::{Column, Identity, Lsn, Operation, RelationVersion, TableName, Xid};
use crate::pgoutput::{self, Message, OldTuple, Tuple};
use crate::transaction::Records;

/// One change.
#[derive(Debug, Clone)]
pub(super) struct ChangedRow {
    /// Commit LSN, and the order in the transaction.
    pub(super) place: (i64, i64),
    pub(super) operation: Operation,
    /// The key under which the row stood before.
    pub(super) key: Key,
    /// The row before, where the source sent all of it.
    pub(super) old: Option<RowText>,
    pub(super) new: Option<RowText>,
    /// The key under which it stands afterwards.
    pub(super) new_key: Option<Key>,
    /// Positions of columns that the change left as they were, and that were not sent.
    pub(super) unsent: Vec<usize>,
}

impl ChangedRow {
    /// Bytes that it takes, about.
    pub(super) fn memory(&self) -> usize {
        let texts = [&self.old, &self.new].into_iter().flatten().map(RowText::memory).sum::<usize>();
        let keys = self.key.len() + self.new_key.as_ref().map_or(0, |key| key.len());
        size_of::<ChangedRow>() + texts + keys + self.unsent.len() * size_of::<usize>()
    }
}

/// Reads the rows of a batch of changes, truncations aside.
pub(super) fn changed_rows(
    batch: &RecordBatch,
    relation: &RelationVersion,
    wanted: impl Fn(i64, Operation) -> bool,
) -> Result<Vec<ChangedRow>> {
    let broken = || Failure::failed(format!("a file of changes of {} is not what it should be", relation.name));
    let number = |name: &str| {
        batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(broken)
    };
    let (lsns, seqs) = (number(names::LSN)?, number(names::SEQ)?);
    let operations = batch.column_by_name(names::OP).and_then(|column| column.as_string_opt::<i32>());
    let operations = operations.ok_or_else(broken)?;
    let missing = batch.column_by_name(names::MISSING).and_then(|column| column.as_list_opt::<i32>());
    let columns: Vec<Wanted<'_>> = relation.columns.iter().map(Wanted::Stored).collect();
    let keys: Vec<Wanted<'_>> = relation.key_positions().into_iter().map(|at| columns[at]).collect();
    let (new, new_keys) = (RowReader::new(batch, &columns)?, RowReader::new(batch, &keys)?);
    let (old, old_keys) = (RowReader::old(batch, &columns)?, RowReader::old(batch, &keys)?);
    let before = old_rows(batch);
    let full = relation.identity == Identity::Full;
    let mut buffer = Vec::new();
    let mut found = Vec::new();
    for row in 0..batch.num_rows() {
        let operation = Operation::parse(operations.value(row)).ok_or_else(broken)?;
        if operation == Operation::Truncate || !wanted(lsns.value(row), operation) {
            continue;
        }
        let has_new = operation != Operation::Delete;
        let has_old = before.is_some_and(|before| before.is_valid(row));
        let mut text = RowText::default();
        let old_text = match &old {
            Some(reader) if has_old && full => {
                reader.read(row, &mut text);
                Some(text.clone())
            }
            _ => None,
        };
        let new_key = has_new.then(|| {
            new_keys.read_key(row, &mut buffer);
            Key::from(buffer.as_slice())
        });
        let key = match &old_keys {
            Some(reader) if has_old => {
                reader.read_key(row, &mut buffer);
                Key::from(buffer.as_slice())
            }
            _ => new_key.clone().unwrap_or_default(),
        };
        let new_text = has_new.then(|| {
            new.read(row, &mut text);
            text
        });
        let unsent = missing.filter(|missing| missing.is_valid(row)).map(|missing| {
            let left_out = missing.value(row);
            let names: Vec<&str> = left_out.as_string_opt::<i32>().into_iter().flatten().flatten().collect();
            let at = |name: &&str| relation.columns.iter().position(|column| column.stored == **name);
            names.iter().filter_map(at).collect()
        });
        found.push(ChangedRow {
            place: (lsns.value(row), seqs.value(row)),
            operation,
            key,
            old: old_text,
            new: new_text,
            new_key,
            unsent: unsent.unwrap_or_default(),
        });
    }
    Ok(found)
}

/// The changes of a table by transactions with commit LSNs within a range, some at a time.
pub(super) struct CommittedRows {
    archive: Archive,
    /// The first commit LSN, and the last.
    range: (i64, i64),
    files: std::vec::IntoIter<DataFile>,
    open: Option<(RelationVersion, BoxStream<'static, Result<RecordBatch>>)>,
    /// Rows that may still come.
    most: usize,
}

impl CommittedRows {
    /// `most` is how many at most.
    pub(super) async fn find(
        archive: &Archive,
        table: &TableName,
        (first, last): (Lsn, Lsn),
        most: usize,
    ) -> Result<CommittedRows> {
        let files = archive.change_files(table, first, Lsn(last.0.saturating_add(1))).await?.into_iter();
        Ok(CommittedRows { archive: archive.clone(), range: (first.as_i64(), last.as_i64()), files, open: None, most })
    }

    /// The next ones, of one relation version, in the order of history, in about so many bytes; `None` where there are no
    /// more.
    pub(super) async fn next(&mut self, memory: usize) -> Result<Option<(RelationVersion, Vec<ChangedRow>)>> {
        let mut found: Option<(RelationVersion, Vec<ChangedRow>)> = None;
        let mut taken = 0;
        while self.most > 0 && taken < memory {
            let Some((relation, batches)) = &mut self.open else {
                let Some(file) = self.files.next() else { break };
                let reader = self.archive.read_some(&file).await?;
                self.open = Some((reader.relation()?, reader.stream()?.boxed()));
                continue;
            };
            if found.as_ref().is_some_and(|(known, _)| known != relation) {
                break;
            }
            let Some(batch) = batches.try_next().await? else {
                self.open = None;
                continue;
            };
            let (from, to) = self.range;
            let mut rows = changed_rows(&batch, relation, |lsn, _| (from..=to).contains(&lsn))?;
            rows.truncate(self.most);
            self.most -= rows.len();
            taken += rows.iter().map(ChangedRow::memory).sum::<usize>();
            found.get_or_insert_with(|| (relation.clone(), Vec::new())).1.extend(rows);
        }
        if let Some((_, rows)) = &mut found {
            rows.sort_by_key(|row| row.place);
        }
        Ok(found)
    }
}

/// Rows of one table of a transaction that has not ended.
pub(super) struct FlightRows {
    pub(super) relation: RelationVersion,
    builder: ChangeBuilder,
}

impl FlightRows {
    pub(super) fn len(&self) -> usize {
        self.builder.rows()
    }

    pub(super) fn memory(&self) -> usize {
        self.builder.memory()
    }

    /// The rows so far; there are none afterwards.
    pub(super) fn take(&mut self) -> Result<Vec<ChangedRow>> {
        changed_rows(&self.builder.finish()?, &self.relation, |_, _| true)
    }
}

/// Reads the records of a transaction that has not ended into the rows of its tables.
#[derive(Default)]
pub(super) struct FlightReader {
    records: Records,
    pub(super) tables: HashMap<u32, FlightRows>,
    /// Tables that this transaction found or made otherwise than they are known.
    unlike: HashSet<u32>,
    next: i64,
}

impl FlightReader {
    /// Reads further records. Rows of tables that are not `wanted`, or not known as they are, are left out.
    pub(super) fn read(
        &mut self,
        records: Bytes,
        known: &HashMap<u32, RelationVersion>,
        wanted: impl Fn(&RelationVersion, usize) -> bool,
    ) -> Result<()> {
        // A piece always ends with a whole record, and one that was left out leaves no rest.
        self.records.add(records);
        while let Some((_, message)) = self.records.next() {
            let message = pgoutput::decode(&message).map_err(|error| Failure::failed(error.to_string()))?;
            match message {
                Message::Relation(said) => {
                    let relation = known.get(&said.oid).filter(|relation| is_as_said(relation, &said));
                    if relation.is_none() {
                        self.unlike.insert(said.oid);
                        self.tables.remove(&said.oid);
                    }
                }
                Message::Insert { relation, new } => {
                    self.push(known, relation, Operation::Insert, None, Some(&new), &wanted)?
                }
                Message::Update { relation, old, new } => {
                    self.push(known, relation, Operation::Update, old.as_ref(), Some(&new), &wanted)?;
                }
                Message::Delete { relation, old } => {
                    self.push(known, relation, Operation::Delete, Some(&old), None, &wanted)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A table that was not described is as it is known: newer sources describe it once a session, perhaps in another
    /// transaction.
    fn push(
        &mut self,
        known: &HashMap<u32, RelationVersion>,
        oid: u32,
        operation: Operation,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
        wanted: &impl Fn(&RelationVersion, usize) -> bool,
    ) -> Result<()> {
        let Some(relation) = known.get(&oid).filter(|_| !self.unlike.contains(&oid)) else { return Ok(()) };
        let table = self
            .tables
            .entry(oid)
            .or_insert_with(|| FlightRows { builder: ChangeBuilder::new(relation), relation: relation.clone() });
        if !wanted(&table.relation, table.len()) {
            return Ok(());
        }
        let place = Place { lsn: Lsn::ZERO, seq: self.next, xid: Xid::default(), time: 0 };
        self.next += 1;
        table.builder.push(place, operation, old, new)
    }
}

/// Whether what the stream says of a table is what the archive knows.
fn is_as_said(known: &RelationVersion, said: &pgoutput::Relation<'_>) -> bool {
    let same = |(known, said): (&Column, &pgoutput::RelationColumn<'_>)| {
        known.name == said.name && known.type_oid == said.type_oid && known.type_modifier == said.type_modifier
    };
    known.columns.len() == said.columns.len() && known.columns.iter().zip(&said.columns).all(same)
}
