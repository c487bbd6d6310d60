//! What happened to the rows of one table between two places in history, to be told row by row.
//!
//! Rows are told apart by the columns of their identity. Where that is unique, an event knows its row after the change, and
//! what was before is the event before it; so events come with the *life* that they belong to, a key that follows a row
//! when its key columns change, and whoever sorts them by life and position ([`super::lives`]) sees each row's life from
//! its beginning to its end. Without a unique identity every event says its whole row itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryBuilder, Int8Array, Int64Array, ListBuilder, RecordBatch, StringBuilder,
    StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::changes::{ChangeBatch, FilePart, Key, KeySet, PARALLEL_FILES, Range, Select, key_conditions, wanted_in};
use super::overlay::{is_before, names_of};
use super::table_at::{TableAt, identity_kind, key_fields, key_of_fields, places_in, rearrange};
use crate::archive::{Archive, DataFile};
use crate::columnar::{
    ImageBuilder, RowReader, RowText, Storage, Wanted, conform, conform_exact, conform_old, exact_field, names,
    old_rows,
};
use crate::failure::{Failure, Result};
use crate::model::{
    Column, Commit, Lsn, Operation, Position, RelationEvent, RelationRecord, RelationVersion, TableName,
};

/// The life that an event belongs to.
pub const LIFE: &str = "_life";
/// What an event is, see [`EventKind`].
pub const KIND: &str = "_kind";
/// The row after the change.
pub const NEW: &str = "_new";

/// What an event is. In one place of history they follow in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum EventKind {
    /// The row was there before the first change that is looked at.
    Before = 0,
    /// A change as the source sent it.
    Change = 1,
    /// A row is gone, by its whole text.
    Ended = 2,
    /// A row is there, by its whole text.
    Begun = 3,
    /// A change that says itself what was before.
    Whole = 4,
}

impl EventKind {
    pub(super) fn of(number: i8) -> Option<EventKind> {
        [EventKind::Before, EventKind::Change, EventKind::Ended, EventKind::Begun, EventKind::Whole]
            .into_iter()
            .find(|kind| *kind as i8 == number)
    }
}

/// A place at which every row of the table was gone, whatever else events say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    pub position: Position,
    /// The transaction that did it.
    pub commit: Option<Commit>,
}

/// How the rows of a table without a unique identity are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Each change as one event.
    Changes,
    /// Each change as the end of one row and the beginning of another.
    Lives,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Chronicle {
    archive: Archive,
    /// Every version of the table.
    records: Vec<RelationRecord>,
    names: Vec<TableName>,
    /// The columns that rows are shown in, each stored under its own name.
    columns: Vec<Column>,
    relation: RelationVersion,
    from: Lsn,
    to: Lsn,
    only: Option<Arc<KeySet>>,
    /// Whether another table had one of the names before or since.
    shares_names: bool,
    /// The partitions of a partitioned table, which has no rows of its own.
    leaves: Vec<Chronicle>,
}

/// A part of the range in which rows are told apart by the same columns.
#[derive(Debug)]
struct Segment {
    number: u8,
    range: std::ops::Range<Position>,
    key: Vec<Column>,
    unique: bool,
}

/// The least and the greatest, where there are such.
pub type RangeOf = (Option<i64>, Option<i64>);

/// Of more bytes of changes the keys are not held in memory to leave out the rows that no change touches.
const SMALL_RANGE_BYTES: u64 = 64 << 20;

/// Takes events.
pub type EventSink<'a> = dyn FnMut(RecordBatch) -> Result<()> + Send + 'a;

impl Chronicle {
    /// Finds the table that had the name last before `to`; `None` where none ever had it.
    ///
    /// # Errors
    /// Usage where the range ends before it begins.
    pub async fn find(archive: &Archive, name: &TableName, from: Lsn, to: Lsn) -> Result<Option<Chronicle>> {
        if from > to {
            return Err(Failure::usage(format!("{from} comes after {to}")).remedy("exchange them"));
        }
        let (all, start) = (archive.relations().await?, archive.identity().start_lsn);
        let named = |record: &&RelationRecord| record.relation.name == *name;
        let before = |record: &&RelationRecord| is_before(record, Position::before(to), start);
        let last = all.iter().rfind(|record| named(record) && before(record)).or_else(|| all.iter().find(named));
        let Some(last) = last else { return Ok(None) };
        let mut found = Chronicle::of_relation(archive, &all, last.relation.oid, from, to);
        if found.relation.partitioned {
            found.leaves = partitions(&all, found.relation.oid)
                .into_iter()
                .filter(|(_, between)| between.start < to && between.end > from)
                .map(|(oid, between)| {
                    let (from, to) = (between.start.max(from), between.end.min(to));
                    Chronicle::of_relation(archive, &all, oid, from, to).in_columns_of(&found)
                })
                .collect();
        }
        Ok(Some(found))
    }

    /// That of a relation of which there are records.
    fn of_relation(archive: &Archive, all: &[RelationRecord], oid: u32, from: Lsn, to: Lsn) -> Chronicle {
        let records: Vec<RelationRecord> = all.iter().filter(|record| record.relation.oid == oid).cloned().collect();
        let start = archive.identity().start_lsn;
        let last = records.iter().rfind(|record| is_before(record, Position::before(to), start));
        let relation = last.unwrap_or(&records[0]).relation.clone();
        let columns = relation.columns.iter().map(|column| Column { stored: column.name.clone(), ..column.clone() });
        let (columns, names) = (columns.collect(), names_of(&records));
        let shares_names = all.iter().any(|record| record.relation.oid != oid && names.contains(&record.relation.name));
        let (archive, only, leaves) = (archive.clone(), None, Vec::new());
        Chronicle { archive, records, names, columns, relation, from, to, only, shares_names, leaves }
    }

    /// The same with its rows shown in the columns of the partitioned table.
    fn in_columns_of(mut self, whole: &Chronicle) -> Chronicle {
        let here = |column: &Column| match self.relation.column(&column.name) {
            Some(own) => Column { number: own.number, missing: own.missing.clone(), ..column.clone() },
            // It was no partition any more when the column was added.
            None => Column { number: i16::MAX, missing: None, ..column.clone() },
        };
        self.columns = whole.columns.iter().map(here).collect();
        self
    }

    /// What there is to be told apart: the partitions of a partitioned table, each for as long as it was one. Rows that
    /// came or went with a partition, by ATTACH and DETACH, did not change.
    pub fn parts(&self) -> Vec<&Chronicle> {
        if self.relation.partitioned { self.leaves.iter().collect() } else { vec![self] }
    }

    /// The same of the rows under these keys, which name the columns of [`Chronicle::unique_key`].
    pub fn with_keys(self, only: KeySet) -> Chronicle {
        let key = self.unique_key().unwrap_or_default();
        let of_leaf = |leaf: Chronicle| {
            let own = leaf.unique_key().unwrap_or_default();
            let place = |column: &Column| key.iter().position(|one| one.name == column.name);
            let places: Vec<usize> = own.iter().filter_map(place).collect();
            let rearranged = |one: &Key| {
                let fields = key_fields(one);
                Key::from(key_of_fields(places.iter().map(|at| fields[*at])))
            };
            leaf.with_keys(only.iter().map(rearranged).collect())
        };
        let leaves = self.leaves.into_iter().map(of_leaf).collect();
        Chronicle { only: Some(Arc::new(only)), leaves, ..self }
    }

    /// The same without changes by transactions outside of these commit LSNs and times (microseconds), both ends included.
    /// Where the rows before are not known, changes that tell of them stay.
    pub async fn narrowed(self, lsns: RangeOf, times: RangeOf) -> Result<Chronicle> {
        let (mut from, mut to) = (self.from, self.to);
        if let Some(least) = lsns.0 {
            from = from.max(Lsn::from_i64(least.max(0)));
        }
        if let Some(greatest) = lsns.1 {
            to = to.min(Lsn(Lsn::from_i64(greatest.max(0)).0.saturating_add(1)));
        }
        if times != (None, None) {
            // Times do not ascend with LSNs.
            let commits = self.archive.commits(self.to).await?;
            let within = |commit: &&Commit| {
                let time = commit.time.timestamp_micros();
                times.0.is_none_or(|least| time >= least) && times.1.is_none_or(|greatest| time <= greatest)
            };
            let lsns = commits.iter().filter(within).map(|commit| commit.lsn);
            let range = lsns.fold(None, |range: Option<(Lsn, Lsn)>, lsn| {
                Some(range.map_or((lsn, lsn), |(least, greatest)| (least.min(lsn), greatest.max(lsn))))
            });
            let (least, greatest) =
                range.map_or((self.to, self.from), |(least, greatest)| (least, Lsn(greatest.0 + 1)));
            (from, to) = (from.max(least), to.min(greatest));
        }
        let from = from.min(self.to);
        let known = from == self.from
            || TableAt::of_relation(&self.archive, self.relation.oid, Position::before(from)).await.is_ok();
        let from = if known { from } else { self.from };
        Ok(Chronicle { from, to: to.max(from), ..self })
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// From which commit LSN on and before which.
    pub fn range(&self) -> std::ops::Range<Lsn> {
        self.from..self.to
    }

    /// Whether it is not only that of some rows.
    pub fn is_of_all_rows(&self) -> bool {
        self.only.is_none()
    }

    /// The names that the table had, where no other table ever had one of them.
    pub fn own_names(&self) -> Option<&[TableName]> {
        (!self.shares_names).then_some(&self.names)
    }

    /// The files with changes of the range. What is outside of the range may be in them too, other tables' changes are not.
    pub async fn files(&self) -> Result<Vec<DataFile>> {
        let (from, to) = (Position::before(self.from), Position::before(self.to));
        let range = Range { archive: &self.archive, names: &self.names, oid: self.relation.oid, key: &[], from, to };
        let (files, parts) = range.parts(Vec::new()).await?;
        if !self.shares_names {
            return Ok(files);
        }
        let is_ours = async |part: FilePart| part.open().await.map(|found| found.is_some());
        let is_ours: Vec<bool> = stream::iter(parts).map(is_ours).buffered(PARALLEL_FILES).try_collect().await?;
        Ok(files.into_iter().zip(is_ours).filter_map(|(file, ours)| ours.then_some(file)).collect())
    }

    /// The table as it was at the end of the range.
    pub fn relation(&self) -> &RelationVersion {
        &self.relation
    }

    /// The columns of its rows, whose stored names are those that they are shown under.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The columns of its identity, where that is unique; of a partitioned table, where it is that of every partition.
    pub fn unique_key(&self) -> Option<Vec<Column>> {
        let key = key_of(&self.relation);
        let is_key = |own: &[Column]| {
            own.len() == key.len() && own.iter().all(|one| key.iter().any(|column| column.name == one.name))
        };
        let everywhere = self.leaves.iter().all(|leaf| leaf.unique_key().is_some_and(|own| is_key(&own)));
        (self.relation.has_unique_key() && everywhere).then_some(key)
    }

    /// The type of a row: its columns, and beside them `_exact`, the texts that they cannot hold.
    pub fn row_type(&self) -> DataType {
        DataType::Struct(self.row_fields())
    }

    fn row_fields(&self) -> Fields {
        let column = |column: &Column| Field::new(&column.name, Storage::of_column(column).arrow_type(), true);
        self.columns.iter().map(column).chain([exact_field()]).collect()
    }

    /// The columns of events.
    pub fn event_schema(&self) -> SchemaRef {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let missing = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
        Arc::new(Schema::new(vec![
            Field::new(LIFE, DataType::Binary, false),
            Field::new(names::LSN, DataType::Int64, false),
            Field::new(names::SEQ, DataType::Int64, false),
            Field::new(KIND, DataType::Int8, false),
            Field::new(names::XID, DataType::Int64, true),
            Field::new(names::TS, instant, true),
            Field::new(names::OP, DataType::Utf8, true),
            Field::new(names::MISSING, missing, true),
            Field::new(names::OLD, self.row_type(), true),
            Field::new(NEW, self.row_type(), true),
        ]))
    }

    /// Gives every event, in no order, and the places where all rows were gone.
    pub async fn events(&self, telling: Telling, sink: &mut EventSink<'_>) -> Result<Vec<Cleared>> {
        let mut cleared = Vec::new();
        for segment in self.segments() {
            cleared.extend(self.segment_events(&segment, telling, sink).await?);
        }
        if cleared.is_empty() {
            return Ok(Vec::new());
        }
        let commits = self.archive.commits(self.to).await?;
        let commit = |lsn| commits.iter().find(|commit| commit.lsn == lsn).copied();
        Ok(cleared.into_iter().map(|position| Cleared { position, commit: commit(position.lsn) }).collect())
    }

    fn segments(&self) -> Vec<Segment> {
        let (start, end) = (Position::before(self.from), Position::before(self.to));
        let archive_start = self.archive.identity().start_lsn;
        let first = self.records.iter().rfind(|record| is_before(record, start, archive_start));
        let mut current = first.unwrap_or(&self.records[0]);
        let (mut from, mut segments) = (start, Vec::new());
        let mut segment = |relation: &RelationVersion, range: std::ops::Range<Position>| {
            let number = segments.len().min(usize::from(u8::MAX)) as u8;
            segments.push(Segment { number, range, key: key_of(relation), unique: relation.has_unique_key() });
        };
        for record in &self.records {
            if record.position <= start || record.position >= end {
                continue;
            }
            if identity_kind(&record.relation) != identity_kind(&current.relation) {
                segment(&current.relation, from..record.position);
                from = record.position;
            }
            current = record;
        }
        segment(&current.relation, from..end);
        segments
    }

    async fn segment_events(
        &self,
        segment: &Segment,
        telling: Telling,
        sink: &mut EventSink<'_>,
    ) -> Result<Vec<Position>> {
        let range = Range {
            archive: &self.archive,
            names: &self.names,
            oid: self.relation.oid,
            key: &segment.key,
            from: segment.range.start,
            to: segment.range.end,
        };
        let whole_rows = !segment.unique;
        let mut only = self.only.clone();
        let (parts, found, touched) = match &self.only {
            Some(keys) => {
                let found = range.entries_with_former_keys(keys, usize::MAX).await?;
                let (found, keys) = found.ok_or_else(|| Failure::failed("more changes than can be counted"))?;
                only = Some(Arc::clone(&keys));
                (range.parts(key_conditions(&segment.key, &keys)).await?.1, found.entries, Some(keys))
            }
            None => {
                let (files, parts) = range.parts(Vec::new()).await?;
                if files.iter().map(|file| file.size).sum::<u64>() > SMALL_RANGE_BYTES {
                    (parts, range.entries(Select::KeyChanges).await?.entries, None)
                } else {
                    let found = range.entries(Select::All).await?.entries;
                    let keys = found.iter().flat_map(|entry| [&entry.old_key, &entry.new_key]).flatten().cloned();
                    let keys = Arc::new(keys.collect::<KeySet>());
                    (parts, found, Some(keys))
                }
            }
        };
        let mut lives = Lives::new(segment.number);
        let mut cleared = self.rewrites(segment);
        // Where all rows were gone, those are touched too that no change names.
        let all_gone = !cleared.is_empty() || found.iter().any(|entry| entry.operation == Operation::Truncate);
        let touched = if all_gone && self.only.is_none() && telling == Telling::Lives { None } else { touched };
        for entry in found {
            match (entry.old_key, entry.new_key) {
                (Some(old), Some(new)) if !whole_rows => lives.follow(&old, &new, entry.position),
                _ => {}
            }
            if entry.operation == Operation::Truncate {
                cleared.push(entry.position);
            }
        }
        // Under a former key of a row another may stand since.
        if let Some(keys) = &self.only {
            lives.only(keys);
        }
        let with_old = whole_rows && telling == Telling::Changes;
        if !with_old && touched.as_ref().is_none_or(|touched| !touched.is_empty()) {
            self.rows_before(segment, touched.as_deref(), &lives, sink).await?;
        }
        for part in parts {
            self.file_events(segment, telling, part, only.as_deref(), &lives, sink).await?;
        }
        Ok(cleared)
    }

    /// Where a table without a unique identity was written anew: its rows follow, and which was which nobody can say.
    fn rewrites(&self, segment: &Segment) -> Vec<Position> {
        let rewritten = self.records.iter().filter(|record| match record.event {
            RelationEvent::Rewritten => !segment.unique,
            RelationEvent::Created | RelationEvent::Dropped => true,
            RelationEvent::Described | RelationEvent::Unseen => false,
        });
        let within = rewritten.filter(|record| segment.range.contains(&record.position));
        within.map(|record| record.position).collect()
    }

    /// The rows at the beginning, of which those under other keys than the touched are of no interest.
    async fn rows_before(
        &self,
        segment: &Segment,
        touched: Option<&KeySet>,
        lives: &Lives,
        sink: &mut EventSink<'_>,
    ) -> Result<()> {
        let start = segment.range.start;
        // There was no such table yet, or its rows were not known: then what was before is not either.
        let Ok(state) = TableAt::of_relation(&self.archive, self.relation.oid, start).await else { return Ok(()) };
        // Before a change of the identity its rows were told apart by other columns: then all are read and looked at here.
        let alike = state.key().iter().map(|column| &column.name).eq(segment.key.iter().map(|column| &column.name));
        let places = places_in(&self.columns, state.relation());
        let key_places = places_in(&segment.key, state.relation());
        let shown = RelationVersion { columns: self.columns.clone(), ..self.relation.clone() };
        let (mut rows, mut key_row, mut text) = (ImageBuilder::new(&shown), RowText::default(), RowText::default());
        let mut found = BinaryBuilder::new();
        let mut give = |rows: &mut ImageBuilder, found: &mut BinaryBuilder| {
            let events = self.events_before(segment, &rows.finish()?, Arc::new(found.finish()))?;
            sink(events)
        };
        let mut add = |row: &RowText| {
            rearrange(row, &key_places, &mut key_row);
            let key = key_of_fields(key_row.fields());
            if touched.is_some_and(|touched| !touched.contains(key.as_slice())) {
                return Ok(());
            }
            let life = lives.at(&key, start, segment.unique);
            if segment.unique && !lives.wants(&life) {
                return Ok(());
            }
            found.append_value(life);
            rearrange(row, &places, &mut text);
            rows.push(text.fields())?;
            if rows.rows() >= ROWS_AT_ONCE { give(&mut rows, &mut found) } else { Ok(()) }
        };
        state.for_each_row(touched.filter(|_| alike), &mut add).await?;
        give(&mut rows, &mut found)
    }

    /// Rows of an image as events.
    fn events_before(&self, segment: &Segment, rows: &RecordBatch, lives: ArrayRef) -> Result<RecordBatch> {
        let count = rows.num_rows();
        let kind = if segment.unique { EventKind::Before } else { EventKind::Begun };
        let mut values: Vec<ArrayRef> = rows.columns()[1..].to_vec();
        values.push(Arc::clone(&rows.columns()[0]));
        let new = StructArray::try_new(self.row_fields(), values, None).map_err(arrow_failure)?;
        let null = |name: &str| self.null(name, count);
        let columns: Vec<ArrayRef> = vec![
            lives,
            Arc::new(Int64Array::from(vec![segment.range.start.lsn.as_i64(); count])),
            Arc::new(Int64Array::from(vec![segment.range.start.seq; count])),
            Arc::new(Int8Array::from(vec![kind as i8; count])),
            null(names::XID)?,
            null(names::TS)?,
            null(names::OP)?,
            null(names::MISSING)?,
            null(names::OLD)?,
            Arc::new(new),
        ];
        RecordBatch::try_new(self.event_schema(), columns).map_err(arrow_failure)
    }

    fn null(&self, name: &str, rows: usize) -> Result<ArrayRef> {
        let schema = self.event_schema();
        schema.field_with_name(name).map(|field| new_null_array(field.data_type(), rows)).map_err(arrow_failure)
    }

    /// The events of one file.
    async fn file_events(
        &self,
        segment: &Segment,
        telling: Telling,
        part: FilePart,
        only: Option<&KeySet>,
        lives: &Lives,
        sink: &mut EventSink<'_>,
    ) -> Result<()> {
        let Some((reader, relation)) = part.open().await? else { return Ok(()) };
        let keys: Vec<Wanted<'_>> = part.key.iter().map(|key| wanted_in(key, &relation)).collect();
        let Some(reader) = part.within_range(reader).await? else { return Ok(()) };
        let wanted: Vec<Wanted<'_>> = self.columns.iter().map(|column| wanted_in(column, &relation)).collect();
        let mut batches = reader.stream()?;
        while let Some(batch) = batches.try_next().await? {
            let mut chosen = Chosen::default();
            let changes = ChangeBatch::new(&batch, &keys)?;
            let (mut old, mut new) = (Vec::new(), Vec::new());
            for row in 0..batch.num_rows() {
                let position = changes.position(row);
                if !part.range.contains(&position) {
                    continue;
                }
                let operation = changes.operation(row)?;
                let old = changes.old_key(row, &mut old).then_some(old.as_slice());
                let new = changes.new_key(row, operation, &mut new).then_some(new.as_slice());
                let among = |key: Option<&[u8]>| only.is_none_or(|only| key.is_some_and(|key| only.contains(key)));
                if operation != Operation::Truncate && !among(old) && !among(new) {
                    continue;
                }
                let life = |key: Option<&[u8]>| lives.at(key.unwrap_or_default(), position, segment.unique);
                match (segment.unique, telling) {
                    (true, _) => {
                        let life = life(old.or(new));
                        if operation == Operation::Truncate || lives.wants(&life) {
                            chosen.add(row, EventKind::Change, life);
                        }
                    }
                    (false, Telling::Changes) => chosen.add(row, EventKind::Whole, life(None)),
                    (false, Telling::Lives) => {
                        let ends = matches!(operation, Operation::Update | Operation::Delete);
                        if let (Some(old), true) = (old, ends) {
                            chosen.add(row, EventKind::Ended, life(Some(old)));
                        }
                        if let Some(new) = new {
                            chosen.add(row, EventKind::Begun, life(Some(new)));
                        }
                    }
                }
            }
            if !chosen.rows.is_empty() {
                sink(self.events_of(&batch, &wanted, chosen)?)?;
            }
        }
        Ok(())
    }

    /// The chosen rows of a batch of changes as events.
    fn events_of(&self, batch: &RecordBatch, wanted: &[Wanted<'_>], mut chosen: Chosen) -> Result<RecordBatch> {
        let rows = UInt32Array::from(chosen.rows);
        let batch = &take_record_batch(batch, &rows).map_err(arrow_failure)?;
        let count = batch.num_rows();
        let new = self.rows(conform(batch, wanted, &self.columns)?, &RowReader::new(batch, wanted)?, count, None)?;
        let old = match (conform_old(batch, wanted, &self.columns)?, RowReader::old(batch, wanted)?, old_rows(batch)) {
            (Some(values), Some(reader), Some(old)) => self.rows(values, &reader, count, old.nulls().cloned())?,
            _ => self.null(names::OLD, count)?,
        };
        let column = |name: &str| match batch.column_by_name(name) {
            Some(column) => Ok(Arc::clone(column)),
            None => self.null(name, count),
        };
        let missing = match batch.column_by_name(names::MISSING) {
            Some(missing) if missing.null_count() < count => self.left_out(missing, wanted),
            _ => self.null(names::MISSING, count)?,
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(chosen.lives.finish()),
            column(names::LSN)?,
            column(names::SEQ)?,
            Arc::new(Int8Array::from(chosen.kinds)),
            column(names::XID)?,
            column(names::TS)?,
            column(names::OP)?,
            missing,
            old,
            new,
        ];
        let schema = self.event_schema();
        let cast = columns.iter().zip(schema.fields()).map(|(column, field)| match column.data_type() {
            same if same == field.data_type() => Ok(Arc::clone(column)),
            _ => arrow::compute::cast(column, field.data_type()),
        });
        let columns = cast.collect::<std::result::Result<_, _>>().map_err(arrow_failure)?;
        RecordBatch::try_new(schema, columns).map_err(arrow_failure)
    }

    /// The names of the columns that changes left out, as they are shown.
    fn left_out(&self, missing: &ArrayRef, wanted: &[Wanted<'_>]) -> ArrayRef {
        let mut names = ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true));
        let shown = |stored: &str| {
            let is = |wanted: &Wanted<'_>| matches!(wanted, Wanted::Stored(column) if column.stored == stored);
            wanted.iter().position(is).map(|at| self.columns[at].name.as_str())
        };
        let lists = missing.as_list_opt::<i32>();
        for row in 0..missing.len() {
            let list = lists.filter(|lists| lists.is_valid(row)).map(|lists| lists.value(row));
            let stored = list.as_ref().and_then(|list| list.as_string_opt::<i32>());
            stored.into_iter().flatten().flatten().filter_map(shown).for_each(|name| names.values().append_value(name));
            names.append(stored.is_some());
        }
        Arc::new(names.finish())
    }

    fn rows(
        &self,
        mut values: Vec<ArrayRef>,
        reader: &RowReader<'_>,
        count: usize,
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        values.push(conform_exact(reader, &self.columns, count)?);
        let rows = StructArray::try_new(self.row_fields(), values, nulls).map_err(arrow_failure)?;
        Ok(Arc::new(rows))
    }
}

/// Rows that are built before they are given.
const ROWS_AT_ONCE: usize = 4096;

/// Rows of a batch that become events; a row can become two.
#[derive(Default)]
struct Chosen {
    rows: Vec<u32>,
    kinds: Vec<i8>,
    lives: BinaryBuilder,
}

impl Chosen {
    fn add(&mut self, row: usize, kind: EventKind, life: Vec<u8>) {
        self.rows.push(row as u32);
        self.kinds.push(kind as i8);
        self.lives.append_value(life);
    }
}

/// Which life an event under a key belongs to.
struct Lives {
    segment: u8,
    /// By key, from which position on it is the key of another life than the one that it began, in order.
    moved: HashMap<Key, Vec<(Position, Vec<u8>)>>,
    wanted: Option<HashSet<Vec<u8>>>,
}

impl Lives {
    fn new(segment: u8) -> Lives {
        Lives { segment, moved: HashMap::new(), wanted: None }
    }

    /// A row moved from one key to another; moves come in the order of history.
    fn follow(&mut self, old: &Key, new: &Key, at: Position) {
        let life = self.at(old, at, true);
        // Whoever takes the old key later is another row.
        let mut next = self.own(old);
        next.extend_from_slice(&at.lsn.0.to_be_bytes());
        next.extend_from_slice(&at.seq.to_be_bytes());
        self.moved.entry(old.clone()).or_default().push((at, next));
        self.moved.entry(new.clone()).or_default().push((at, life));
    }

    /// From here on only the lives of rows that ever had one of these keys are wanted.
    fn only(&mut self, keys: &KeySet) {
        let moved = |key: &Key| self.moved.get(key).into_iter().flatten().map(|(_, life)| life.clone());
        self.wanted = Some(keys.iter().flat_map(|key| moved(key).chain([self.own(key)]).collect::<Vec<_>>()).collect());
    }

    fn wants(&self, life: &[u8]) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(life))
    }

    fn own(&self, key: &[u8]) -> Vec<u8> {
        let mut life = Vec::with_capacity(1 + key.len());
        life.push(self.segment);
        life.extend_from_slice(key);
        life
    }

    /// The life of the row that stands under a key just before a position.
    fn at(&self, key: &[u8], position: Position, unique: bool) -> Vec<u8> {
        let moved = if unique { self.moved.get(key) } else { None };
        let last = moved.and_then(|moved| moved.iter().rfind(|(from, _)| *from < position));
        last.map_or_else(|| self.own(key), |(_, life)| life.clone())
    }
}

/// The relations that hold the rows of a partitioned one, each with the commit LSNs between which it belonged to it.
fn partitions(all: &[RelationRecord], oid: u32) -> Vec<(u32, std::ops::Range<Lsn>)> {
    let mut family = HashSet::from([oid]);
    let belongs = |record: &RelationRecord, family: &HashSet<u32>| {
        record.event != RelationEvent::Dropped && record.relation.parent.is_some_and(|parent| family.contains(&parent))
    };
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|record| belongs(record, &family) && !family.contains(&record.relation.oid))
            .map(|record| record.relation.oid)
            .collect();
        if more.is_empty() {
            break;
        }
        family.extend(more);
    }
    let mut found: Vec<(u32, std::ops::Range<Lsn>)> = Vec::new();
    let mut open: HashMap<u32, Lsn> = HashMap::new();
    for record in all.iter().filter(|record| family.contains(&record.relation.oid) && !record.relation.partitioned) {
        let (oid, lsn) = (record.relation.oid, record.position.lsn);
        if belongs(record, &family) {
            open.entry(oid).or_insert(lsn);
        } else if let Some(from) = open.remove(&oid) {
            found.push((oid, from..Lsn(lsn.0 + 1)));
        }
    }
    found.extend(open.into_iter().map(|(oid, from)| (oid, from..Lsn(u64::MAX))));
    found.sort_by_key(|(oid, between)| (*oid, between.start));
    found
}

/// The columns by which rows are told apart: all of them where the source names none.
fn key_of(relation: &RelationVersion) -> Vec<Column> {
    match relation.key_positions().as_slice() {
        [] => relation.columns.clone(),
        places => places.iter().map(|at| relation.columns[*at].clone()).collect(),
    }
}

fn arrow_failure(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(format!("the events of a table: {error}"))
}
