//! Events in the order of lives, told as changes, versions or differences.
//!
//! What comes in is sorted by life, then by place in history, then by kind ([`super::chronicle`]). Only the rows of the
//! life that is being told are held, and those of one batch.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Builder, ListArray, RecordBatch, StringBuilder, StructArray,
    TimestampMicrosecondBuilder, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{
    DataType, Field, Fields, Int8Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};

use super::chronicle::{Chronicle, Cleared, EventKind, KIND, LIFE, NEW};
use crate::columnar::{ExactBuilder, RowReader, names};
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, Operation, Position};

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// One row for each change: `_lsn`, `_seq`, `_xid`, `_ts`, `_op`, `old`, `new`.
    Changes,
    /// One row for each version of a row: its columns, `_from_lsn`, `_from`, `_from_xid`, `_to_lsn`, `_to`, `_to_xid`,
    /// `_to_op`; what is NULL lies outside of the range.
    Versions,
    /// One row for each row that is not what it was: `_change`, `_lsn`, `_xid`, `_ts` of the last change, `old`, `new`.
    Differences,
}

/// See the module's documentation.
pub struct Lives {
    account: Account,
    schema: SchemaRef,
    row_fields: Fields,
    columns: Vec<Column>,
    /// Where every row was gone, in order.
    cleared: Vec<Cleared>,
    /// Rows that are referred to: the `_old` and `_new` of batches, or one array of rows that were kept.
    sources: Vec<StructArray>,
    life: Vec<u8>,
    /// The rows of the life that are there: one at most, unless rows are told apart by all that they are.
    present: Vec<Version>,
    /// For differences: the row at the beginning, how often it was there, and the last that happened.
    first: Option<RowAt>,
    firsts: usize,
    last: Option<Happened>,
    told: Vec<Told>,
}

/// Where a row's values are.
#[derive(Debug, Clone)]
enum RowAt {
    Whole(usize, usize),
    /// For each column: it was left out of an update.
    Parts(Arc<[(usize, usize)]>),
}

impl RowAt {
    fn of(&self, column: usize) -> (usize, usize) {
        match self {
            RowAt::Whole(source, row) => (*source, *row),
            RowAt::Parts(parts) => parts[column],
        }
    }
}

/// When something happened.
#[derive(Debug, Clone)]
struct Happened {
    position: Position,
    xid: Option<i64>,
    time: Option<i64>,
    operation: Option<Operation>,
}

#[derive(Debug, Clone)]
struct Version {
    row: RowAt,
    /// `None` where it was there before the range.
    from: Option<Happened>,
    position: Position,
}

/// A row of the account.
#[derive(Debug)]
struct Told {
    old: Option<RowAt>,
    new: Option<RowAt>,
    at: Option<Happened>,
    to: Option<Happened>,
}

impl Lives {
    pub fn new(chronicle: &Chronicle, account: Account, mut cleared: Vec<Cleared>) -> Lives {
        cleared.sort_unstable_by_key(|cleared| cleared.position);
        let DataType::Struct(row_fields) = chronicle.row_type() else { unreachable!("a row is a struct") };
        Lives {
            account,
            schema: account_schema(chronicle, account),
            row_fields,
            columns: chronicle.columns().to_vec(),
            cleared,
            sources: Vec::new(),
            life: Vec::new(),
            present: Vec::new(),
            first: None,
            firsts: 0,
            last: None,
            told: Vec::new(),
        }
    }

    /// Takes the next events, and gives what they tell.
    pub fn take(&mut self, events: &RecordBatch) -> Result<RecordBatch> {
        let events = Events::of(events)?;
        let base = self.sources.len();
        self.sources.extend([events.old.clone(), events.new.clone()]);
        for row in 0..events.count {
            if events.life.value(row) != self.life.as_slice() {
                self.end_life();
                self.life = events.life.value(row).to_vec();
            }
            self.event(&events, row, base)?;
        }
        let told = self.tell()?;
        self.keep()?;
        Ok(told)
    }

    /// What remains to be told after the last events.
    pub fn end(&mut self) -> Result<RecordBatch> {
        self.end_life();
        self.tell()
    }

    fn event(&mut self, events: &Events<'_>, row: usize, base: usize) -> Result<()> {
        let happened = events.happened(row)?;
        self.clear_until(happened.position);
        let new = events.new.is_valid(row).then_some(RowAt::Whole(base + 1, row));
        match events.kind(row)? {
            EventKind::Before => self.begin(new, None, happened.position),
            EventKind::Begun => {
                let from = happened.operation.is_some().then(|| happened.clone());
                self.begin(new, from, happened.position);
            }
            EventKind::Ended => self.ended(&happened),
            EventKind::Change => self.change(events, row, base, happened),
            EventKind::Whole => {
                let old = events.old.is_valid(row).then_some(RowAt::Whole(base, row));
                let has_new = has_row(happened.operation);
                self.told.push(Told { old, new: new.filter(|_| has_new), at: Some(happened), to: None });
            }
        }
        Ok(())
    }

    /// Rows that a truncation took away before a position.
    fn clear_until(&mut self, position: Position) {
        let Some(newest) = self.present.iter().map(|version| version.position).min() else { return };
        let after = |cleared: &&Cleared| newest < cleared.position && cleared.position <= position;
        let Some(cleared) = self.cleared.iter().find(after) else { return };
        let truncated = Happened {
            position: cleared.position,
            xid: cleared.commit.map(|commit| i64::from(commit.xid)),
            time: cleared.commit.map(|commit| commit.time.timestamp_micros()),
            operation: Some(Operation::Truncate),
        };
        while !self.present.is_empty() {
            self.ended(&truncated);
        }
    }

    fn begin(&mut self, row: Option<RowAt>, from: Option<Happened>, position: Position) {
        let Some(row) = row else { return };
        if from.is_none() {
            self.first.get_or_insert_with(|| row.clone());
            self.firsts += 1;
        } else {
            self.last.clone_from(&from);
        }
        self.present.push(Version { row, from, position });
    }

    fn ended(&mut self, by: &Happened) {
        self.last = Some(by.clone());
        let Some(version) = self.present.pop() else { return };
        if self.account == Account::Versions {
            self.told.push(Told { old: None, new: Some(version.row), at: version.from, to: Some(by.clone()) });
        }
    }

    fn change(&mut self, events: &Events<'_>, row: usize, base: usize, happened: Happened) {
        let operation = happened.operation;
        // What the source said of the old row serves where nothing else is known of it.
        let said = events.old.is_valid(row).then_some(RowAt::Whole(base, row));
        let known = self.present.last().map(|version| version.row.clone());
        let new =
            (has_row(operation) && events.new.is_valid(row)).then(|| self.completed(events, row, base, known.as_ref()));
        let inserted = operation == Some(Operation::Insert);
        let old = if inserted || operation == Some(Operation::Truncate) { None } else { known.or(said) };
        if self.account == Account::Changes {
            let (old, new) = (old.clone(), new.clone());
            self.told.push(Told { old, new, at: Some(happened.clone()), to: None });
        }
        if self.account == Account::Differences && self.present.is_empty() && self.last.is_none() {
            self.firsts = usize::from(old.is_some());
            self.first = old;
        }
        self.ended(&happened);
        self.begin(new, Some(happened.clone()), happened.position);
    }

    /// The row after a change, with what it left out taken from the row before.
    fn completed(&self, events: &Events<'_>, row: usize, base: usize, known: Option<&RowAt>) -> RowAt {
        let whole = (base + 1, row);
        let Some(missing) = events.missing.filter(|missing| missing.is_valid(row)) else {
            return RowAt::Whole(whole.0, whole.1);
        };
        let left_out = missing.value(row);
        let left_out: Vec<&str> = left_out.as_string::<i32>().iter().flatten().collect();
        let part = |(at, column): (usize, &Column)| match known {
            Some(known) if left_out.contains(&column.name.as_str()) => known.of(at),
            _ => whole,
        };
        RowAt::Parts(self.columns.iter().enumerate().map(part).collect())
    }

    fn end_life(&mut self) {
        self.clear_until(Position { lsn: Lsn::MAX, seq: i64::MAX });
        let (first, last, firsts) = (self.first.take(), self.last.take(), std::mem::take(&mut self.firsts));
        match self.account {
            Account::Versions => {
                let told = self.present.drain(..).map(|version| Told {
                    old: None,
                    new: Some(version.row),
                    at: version.from,
                    to: None,
                });
                self.told.extend(told);
            }
            // Equal rows of a table without a key are one life: they differ in how often they are there.
            Account::Differences if last.is_some() => {
                let (mut before, mut after) = (firsts, self.present.len());
                let now = self.present.last().map(|version| version.row.clone());
                let both = usize::from(before > 0 && after > 0);
                (before, after) = match both {
                    1 if before == after => (1, 1),
                    _ => (before - before.min(after), after - before.min(after)),
                };
                for at in 0..before.max(after) {
                    let old = first.clone().filter(|_| at < before);
                    let new = now.clone().filter(|_| at < after);
                    self.told.push(Told { old, new, at: last.clone(), to: None });
                }
            }
            Account::Differences => {}
            Account::Changes => {}
        }
        self.present.clear();
    }

    /// Puts the rows that are still needed into one source.
    fn keep(&mut self) -> Result<()> {
        let kept: Vec<RowAt> =
            self.present.iter().map(|version| version.row.clone()).chain(self.first.clone()).collect();
        let rows = self.rows(kept.iter().map(Some))?;
        self.sources = vec![rows];
        for (at, version) in self.present.iter_mut().enumerate() {
            version.row = RowAt::Whole(0, at);
        }
        if let Some(first) = &mut self.first {
            *first = RowAt::Whole(0, kept.len() - 1);
        }
        Ok(())
    }

    /// Rows in a struct of their own.
    fn rows<'r>(&self, wanted: impl Iterator<Item = Option<&'r RowAt>> + Clone) -> Result<StructArray> {
        let mut values: Vec<ArrayRef> = Vec::with_capacity(self.row_fields.len());
        for at in 0..self.columns.len() {
            let null = new_null_array(self.row_fields[at].data_type(), 1);
            let mut arrays: Vec<&dyn arrow::array::Array> =
                self.sources.iter().map(|source| source.column(at).as_ref()).collect();
            arrays.push(null.as_ref());
            let places: Vec<(usize, usize)> =
                wanted.clone().map(|row| row.map_or((self.sources.len(), 0), |row| row.of(at))).collect();
            values.push(interleave(&arrays, &places).map_err(arrow_failure)?);
        }
        values.push(self.exact(wanted.clone())?);
        let valid: Vec<bool> = wanted.map(|row| row.is_some()).collect();
        let count = valid.len();
        if self.row_fields.is_empty() {
            return Ok(StructArray::new_empty_fields(count, Some(NullBuffer::from(valid))));
        }
        StructArray::try_new(self.row_fields.clone(), values, Some(NullBuffer::from(valid))).map_err(arrow_failure)
    }

    fn exact<'r>(&self, wanted: impl Iterator<Item = Option<&'r RowAt>> + Clone) -> Result<ArrayRef> {
        let at = self.columns.len();
        if self.sources.iter().all(|source| source.column(at).null_count() == source.len()) {
            return Ok(new_null_array(self.row_fields[at].data_type(), wanted.count()));
        }
        let readers: Vec<RowReader<'_>> =
            self.sources.iter().map(|source| RowReader::of_struct(source, &self.columns)).collect::<Result<_>>()?;
        let mut exact = ExactBuilder::new();
        for row in wanted {
            for (at, column) in self.columns.iter().enumerate() {
                let place = row.map(|row| row.of(at));
                if let Some(text) = place.and_then(|(source, row)| readers[source].exact(at, row)) {
                    exact.keep(&column.stored, text);
                }
            }
            exact.end_row()?;
        }
        Ok(exact.finish())
    }

    fn tell(&mut self) -> Result<RecordBatch> {
        let told = std::mem::take(&mut self.told);
        let old = || self.rows(told.iter().map(|told| told.old.as_ref()));
        let new = || self.rows(told.iter().map(|told| told.new.as_ref()));
        let at = Times::of(told.iter().map(|told| told.at.as_ref()));
        let columns: Vec<ArrayRef> = match self.account {
            Account::Changes => vec![at.lsn, at.seq, at.xid, at.time, at.operation, Arc::new(old()?), Arc::new(new()?)],
            Account::Versions => {
                let to = Times::of(told.iter().map(|told| told.to.as_ref()));
                let rows = new()?;
                let mut columns = rows.columns()[..self.columns.len()].to_vec();
                columns.extend([at.lsn, at.time, at.xid, to.lsn, to.time, to.xid, to.operation]);
                columns
            }
            Account::Differences => {
                let word = |told: &Told| match (&told.old, &told.new) {
                    (None, _) => "insert",
                    (_, None) => "delete",
                    _ => "update",
                };
                let mut words = StringBuilder::new();
                told.iter().for_each(|told| words.append_value(word(told)));
                vec![Arc::new(words.finish()), at.lsn, at.xid, at.time, Arc::new(old()?), Arc::new(new()?)]
            }
        };
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_failure)?;
        if self.account == Account::Differences { self.different(&batch) } else { Ok(batch) }
    }

    /// Leaves out rows that are what they were.
    fn different(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let (old, new) = (batch.column(4).as_struct(), batch.column(5).as_struct());
        let (before, after) = (RowReader::of_struct(old, &self.columns)?, RowReader::of_struct(new, &self.columns)?);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let differs = |row: usize| {
            if old.is_null(row) || new.is_null(row) {
                return true;
            }
            before.read_key(row, &mut one);
            after.read_key(row, &mut other);
            one != other
        };
        let kept = BooleanArray::from((0..batch.num_rows()).map(differs).collect::<Vec<bool>>());
        filter_record_batch(batch, &kept).map_err(arrow_failure)
    }
}

/// Whether there is a row after such a change.
fn has_row(operation: Option<Operation>) -> bool {
    matches!(operation, Some(Operation::Insert | Operation::Update | Operation::Snapshot))
}

/// The columns of an account.
pub fn account_schema(chronicle: &Chronicle, account: Account) -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let instant = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let row = |name: &str| Field::new(name, chronicle.row_type(), true);
    let fields = match account {
        Account::Changes => vec![
            number(names::LSN),
            number(names::SEQ),
            number(names::XID),
            instant(names::TS),
            text(names::OP),
            row("old"),
            row("new"),
        ],
        Account::Versions => {
            let mut fields: Vec<Field> = match chronicle.row_type() {
                DataType::Struct(fields) => {
                    fields.iter().take(chronicle.columns().len()).map(|field| field.as_ref().clone()).collect()
                }
                _ => Vec::new(),
            };
            fields.extend([number("_from_lsn"), instant("_from"), number("_from_xid"), number("_to_lsn")]);
            fields.extend([instant("_to"), number("_to_xid"), text("_to_op")]);
            fields
        }
        Account::Differences => {
            vec![text("_change"), number(names::LSN), number(names::XID), instant(names::TS), row("old"), row("new")]
        }
    };
    Arc::new(Schema::new(fields))
}

/// The columns of when something happened.
struct Times {
    lsn: ArrayRef,
    seq: ArrayRef,
    xid: ArrayRef,
    time: ArrayRef,
    operation: ArrayRef,
}

impl Times {
    fn of<'h>(happened: impl Iterator<Item = Option<&'h Happened>>) -> Times {
        let (mut lsn, mut seq, mut xid) = (Int64Builder::new(), Int64Builder::new(), Int64Builder::new());
        let mut time = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let mut operation = StringBuilder::new();
        for happened in happened {
            lsn.append_option(happened.map(|happened| happened.position.lsn.as_i64()));
            seq.append_option(happened.map(|happened| happened.position.seq));
            xid.append_option(happened.and_then(|happened| happened.xid));
            time.append_option(happened.and_then(|happened| happened.time));
            operation.append_option(happened.and_then(|happened| happened.operation).map(Operation::as_str));
        }
        Times {
            lsn: Arc::new(lsn.finish()),
            seq: Arc::new(seq.finish()),
            xid: Arc::new(xid.finish()),
            time: Arc::new(time.finish()),
            operation: Arc::new(operation.finish()),
        }
    }
}

/// The columns of a batch of events.
struct Events<'a> {
    count: usize,
    life: &'a arrow::array::BinaryArray,
    lsn: &'a arrow::array::Int64Array,
    seq: &'a arrow::array::Int64Array,
    kind: &'a arrow::array::Int8Array,
    xid: &'a arrow::array::Int64Array,
    time: &'a arrow::array::TimestampMicrosecondArray,
    operation: &'a arrow::array::StringArray,
    missing: Option<&'a ListArray>,
    old: &'a StructArray,
    new: &'a StructArray,
}

impl<'a> Events<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Events<'a>> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| lacking(name));
        Ok(Events {
            count: batch.num_rows(),
            life: column(LIFE)?.as_binary_opt().ok_or_else(|| lacking(LIFE))?,
            lsn: column(names::LSN)?.as_primitive_opt::<Int64Type>().ok_or_else(|| lacking(names::LSN))?,
            seq: column(names::SEQ)?.as_primitive_opt::<Int64Type>().ok_or_else(|| lacking(names::SEQ))?,
            kind: column(KIND)?.as_primitive_opt::<Int8Type>().ok_or_else(|| lacking(KIND))?,
            xid: column(names::XID)?.as_primitive_opt::<Int64Type>().ok_or_else(|| lacking(names::XID))?,
            time: column(names::TS)?
                .as_primitive_opt::<TimestampMicrosecondType>()
                .ok_or_else(|| lacking(names::TS))?,
            operation: column(names::OP)?.as_string_opt().ok_or_else(|| lacking(names::OP))?,
            missing: column(names::MISSING)?.as_list_opt(),
            old: column(names::OLD)?.as_struct_opt().ok_or_else(|| lacking(names::OLD))?,
            new: column(NEW)?.as_struct_opt().ok_or_else(|| lacking(NEW))?,
        })
    }

    fn kind(&self, row: usize) -> Result<EventKind> {
        EventKind::of(self.kind.value(row)).ok_or_else(|| lacking(KIND))
    }

    fn happened(&self, row: usize) -> Result<Happened> {
        let operation = self.operation.is_valid(row).then(|| self.operation.value(row));
        Ok(Happened {
            position: Position { lsn: Lsn::from_i64(self.lsn.value(row)), seq: self.seq.value(row) },
            xid: self.xid.is_valid(row).then(|| self.xid.value(row)),
            time: self.time.is_valid(row).then(|| self.time.value(row)),
            operation: match operation {
                Some(text) => Some(Operation::parse(text).ok_or_else(|| lacking(names::OP))?),
                None => None,
            },
        })
    }
}

fn lacking(column: &str) -> Failure {
    Failure::failed(format!("events lack the column {column}"))
}

fn arrow_failure(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(format!("telling what happened to rows: {error}"))
}
