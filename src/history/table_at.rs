//! One table as it was at a point.
//!
//! The newest base image before the point is streamed, without the rows that changes since then have
//! touched; then come the rows that those changes left, fetched from where they lie.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use futures::TryStreamExt as _;

use super::overlay::{self, KeySet, Overlay, Place, Source};
use crate::archive::{Archive, DataFile, DataReader, Image};
use crate::columnar::{RowReader, RowText, Wanted, names};
use crate::failure::{Failure, Result};
use crate::model::{Column, Identity, Lsn, Position, RelationEvent, RelationRecord, RelationVersion, TableName};

/// What a row is given to.
pub type RowSink<'a> = dyn FnMut(&RowText) -> Result<()> + Send + 'a;

/// The same, with the row's key.
type KeyedSink<'a> = dyn FnMut(&RowText, &[u8]) -> Result<()> + Send + 'a;

/// The same for a version of a row, with the columns that it left out.
type VersionSink<'a> = dyn FnMut(usize, &RowText, Vec<usize>, &[u8]) -> Result<()> + Send + 'a;

/// See the module's documentation.
#[derive(Debug)]
pub struct TableAt {
    archive: Archive,
    relation: RelationVersion,
    /// Every name that it had until then.
    names: Vec<TableName>,
    /// The columns by which its rows are told apart.
    key: Vec<Column>,
    base: Base,
    /// Changes from here on are not in the base.
    from: Position,
    cut: Position,
}

/// Where the rows come from that no change since has touched.
#[derive(Debug)]
enum Base {
    /// There were none.
    Nothing,
    Image(Image),
    /// The state before rows were told apart by other columns.
    State(Box<TableAt>),
    /// The leaves of a partitioned table.
    Leaves(Vec<TableAt>),
}

/// What somebody is told who asks for a table where it cannot be known.
fn unknown(name: &TableName, records: &[RelationRecord]) -> Failure {
    let since = records.iter().rfind(|record| record.event == RelationEvent::Unseen).map(|record| record.position.lsn);
    let cause = match since {
        Some(lsn) => format!("the rows of {name} are not known from {lsn} on, until its next base image"),
        None => format!("the archive has no base image of {name}, so its rows at a point are not known"),
    };
    Failure::refused(cause).remedy("name a later point; its changes are in the archive: afterimage query")
}

impl TableAt {
    /// Finds a table as it was before the transaction with commit LSN `cut`; `None` where it was not there.
    ///
    /// # Errors
    /// Refused where its state then cannot be known.
    pub async fn find(archive: &Archive, name: &TableName, cut: Lsn) -> Result<Option<TableAt>> {
        let cut = Position::before(cut);
        let latest = overlay::latest_records(archive, cut).await?;
        let mut named = latest.into_values().filter(|record| record.relation.name == *name);
        match named.find(|record| record.event != RelationEvent::Dropped) {
            Some(record) => TableAt::of_relation(archive, record.relation.oid, cut).await.map(Some),
            None => Ok(None),
        }
    }

    /// The state of the relation at a position, where it has one.
    async fn of_relation(archive: &Archive, oid: u32, cut: Position) -> Result<TableAt> {
        let records = overlay::records_of(archive, oid, cut).await?;
        let gone = || Failure::failed(format!("the archive has no relation {oid}"));
        let relation = records.last().ok_or_else(gone)?.relation.clone();
        let names = overlay::names_of(&records);
        if relation.partitioned {
            return TableAt::of_partitioned(archive, relation, names, cut).await;
        }
        let (mut base, mut from) = base_of(archive, &relation, &names, &records, cut).await?;
        let since = segment_start(&records, from);
        if since > from {
            // Rows of before are told apart in another way.
            base = Base::State(Box::new(Box::pin(TableAt::of_relation(archive, oid, since)).await?));
            from = since;
        }
        let key = relation.key_positions().into_iter().map(|at| relation.columns[at].clone()).collect();
        Ok(TableAt { archive: archive.clone(), relation, names, key, base, from, cut })
    }

    async fn of_partitioned(
        archive: &Archive,
        relation: RelationVersion,
        names: Vec<TableName>,
        cut: Position,
    ) -> Result<TableAt> {
        let latest = overlay::latest_records(archive, cut).await?;
        let parent = |oid: u32| latest.get(&oid).and_then(|record| record.relation.parent);
        let belongs =
            |oid: u32| std::iter::successors(parent(oid), |above| parent(*above)).any(|above| above == relation.oid);
        let mut leaves = Vec::new();
        for (oid, record) in &latest {
            if record.event != RelationEvent::Dropped && !record.relation.partitioned && belongs(*oid) {
                leaves.push(Box::pin(TableAt::of_relation(archive, *oid, cut)).await?);
            }
        }
        let (archive, base, from) = (archive.clone(), Base::Leaves(leaves), cut);
        Ok(TableAt { archive, relation, names, key: Vec::new(), base, from, cut })
    }

    /// The columns that the table had then.
    pub fn relation(&self) -> &RelationVersion {
        &self.relation
    }

    /// The columns by which its rows are told apart.
    pub fn key(&self) -> &[Column] {
        &self.key
    }

    /// Gives every row, in no order, its fields in the order of [`TableAt::relation`]. With `only`, rows
    /// under other keys are left out.
    pub async fn for_each_row(&self, only: Option<&KeySet>, sink: &mut RowSink<'_>) -> Result<()> {
        if let Base::Leaves(leaves) = &self.base {
            for leaf in leaves {
                self.rows_of_leaf(leaf, sink).await?;
            }
            return Ok(());
        }
        let range = overlay::Range {
            archive: &self.archive,
            names: &self.names,
            oid: self.relation.oid,
            key: &self.key,
            from: self.from,
            to: self.cut,
        };
        let (mut overlay, read) = Overlay::read(&range, only).await?;
        let read = read.as_deref();
        let mut borrowed = Borrowed::of(&overlay);
        let mut wanted = |row: &RowText, key: &[u8]| {
            if only.is_none_or(|only| only.contains(key)) { sink(row) } else { Ok(()) }
        };
        if !overlay.image_dropped || borrowed.needs_image() {
            match &self.base {
                Base::Nothing | Base::Leaves(_) => {}
                Base::Image(image) => {
                    for file in &image.files {
                        self.image_rows(file, &mut overlay, read, &mut borrowed, &mut wanted).await?;
                    }
                }
                Base::State(state) => {
                    Box::pin(self.state_rows(state, &mut overlay, read, &mut borrowed, &mut wanted)).await?;
                }
            }
        }
        self.changed_rows(&overlay, &mut borrowed, &mut wanted).await
    }

    fn columns_in<'r>(&'r self, relation: &'r RelationVersion) -> Vec<Wanted<'r>> {
        self.relation.columns.iter().map(|column| overlay::wanted_in(column, relation)).collect()
    }

    fn keys_in<'r>(&'r self, relation: &'r RelationVersion) -> Vec<Wanted<'r>> {
        self.key.iter().map(|column| overlay::wanted_in(column, relation)).collect()
    }

    /// A leaf can have the columns in another order, and numbers of its own.
    async fn rows_of_leaf(&self, leaf: &TableAt, sink: &mut RowSink<'_>) -> Result<()> {
        let position = |column: &Column| leaf.relation.columns.iter().position(|known| known.name == column.name);
        let places: Vec<_> = self.relation.columns.iter().map(|column| (position(column), None)).collect();
        let mut text = RowText::default();
        let mut give = |row: &RowText| {
            rearrange(row, &places, &mut text);
            sink(&text)
        };
        Box::pin(leaf.for_each_row(None, &mut give)).await
    }

    /// The rows of a state that stands in for an image.
    async fn state_rows(
        &self,
        state: &TableAt,
        overlay: &mut Overlay,
        only: Option<&KeySet>,
        borrowed: &mut Borrowed,
        sink: &mut KeyedSink<'_>,
    ) -> Result<()> {
        let columns = self.relation.columns.iter();
        let places: Vec<_> =
            columns.map(|column| (state.relation.position_of(column), column.missing.as_deref())).collect();
        let mut text = RowText::default();
        let mut give = |row: &RowText| {
            rearrange(row, &places, &mut text);
            let key = self.key_of(&text);
            if only.is_some_and(|only| !only.contains(key.as_slice())) {
                return Ok(());
            }
            let taken = overlay.takes_from_image(&key);
            if borrowed.wants_image_row(&key) {
                borrowed.keep_image_row(&key, text.clone());
            }
            if taken || overlay.image_dropped { Ok(()) } else { sink(&text, &key) }
        };
        Box::pin(state.for_each_row(None, &mut give)).await
    }

    async fn image_rows(
        &self,
        file: &DataFile,
        overlay: &mut Overlay,
        only: Option<&KeySet>,
        borrowed: &mut Borrowed,
        sink: &mut KeyedSink<'_>,
    ) -> Result<()> {
        let reader = match only {
            Some(_) => self.archive.read_some(file).await?,
            None => self.archive.read(file, None).await?,
        };
        let relation = reader.relation()?;
        let columns = self.columns_in(&relation);
        let keys = self.keys_in(&relation);
        let selects = only.is_some() || overlay.touches_image() || borrowed.needs_image();
        let reader = match only {
            Some(only) => rows_with_keys(reader.select_keys(&overlay::key_bounds(&keys, only)), &keys, only).await?,
            None => reader,
        };
        let mut batches = reader.stream()?;
        let (mut key, mut text) = (Vec::new(), RowText::default());
        while let Some(batch) = batches.try_next().await? {
            let rows = RowReader::new(&batch, &columns)?;
            let row_keys = RowReader::new(&batch, &keys)?;
            for row in 0..batch.num_rows() {
                if selects {
                    row_keys.read_key(row, &mut key);
                    let taken = overlay.takes_from_image(&key);
                    if borrowed.wants_image_row(&key) {
                        rows.read(row, &mut text);
                        borrowed.keep_image_row(&key, text.clone());
                    }
                    if taken || overlay.image_dropped {
                        continue;
                    }
                }
                rows.read(row, &mut text);
                sink(&text, &key)?;
            }
        }
        Ok(())
    }

    /// The rows that the changes left, file by file.
    async fn changed_rows(&self, overlay: &Overlay, borrowed: &mut Borrowed, sink: &mut KeyedSink<'_>) -> Result<()> {
        let mut by_file: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        let wanted = overlay.live().chain(borrowed.versions.iter().copied());
        for version in wanted {
            let Place { file, row } = overlay.versions[version].place;
            by_file.entry(file).or_default().push((row, version));
        }
        let mut kept: HashMap<usize, (RowText, Vec<usize>)> = HashMap::new();
        for (file, mut rows) in by_file {
            rows.sort_unstable();
            rows.dedup();
            let mut take = |version: usize, text: &RowText, missing: Vec<usize>, key: &[u8]| -> Result<()> {
                let needed = borrowed.versions.contains(&version);
                if needed || overlay.versions[version].base.is_some() {
                    kept.insert(version, (text.clone(), missing));
                    return Ok(());
                }
                sink(text, key)
            };
            self.fetch(&overlay.files[file as usize], &rows, &mut take).await?;
        }
        self.completed_rows(overlay, borrowed, &kept, sink)
    }

    async fn fetch(&self, file: &DataFile, rows: &[(u32, usize)], take: &mut VersionSink<'_>) -> Result<()> {
        let reader = self.archive.read_some(file).await?;
        let relation = reader.relation()?;
        let columns = self.columns_in(&relation);
        let keys = self.keys_in(&relation);
        let positions: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
        let mut batches = reader.select(selection(&positions)).stream()?;
        let mut versions = rows.iter().map(|(_, version)| *version);
        let (mut text, mut key) = (RowText::default(), Vec::new());
        while let Some(batch) = batches.try_next().await? {
            let reader = RowReader::new(&batch, &columns)?;
            let row_keys = RowReader::new(&batch, &keys)?;
            for (row, version) in (0..batch.num_rows()).zip(versions.by_ref()) {
                reader.read(row, &mut text);
                row_keys.read_key(row, &mut key);
                take(version, &text, self.missing_columns(&relation, &batch, row), &key)?;
            }
        }
        Ok(())
    }

    /// The positions of the columns that an update left out.
    fn missing_columns(&self, relation: &RelationVersion, batch: &RecordBatch, row: usize) -> Vec<usize> {
        let Some(missing) = batch.column_by_name(names::MISSING).and_then(|column| column.as_list_opt::<i32>()) else {
            return Vec::new();
        };
        if missing.is_null(row) {
            return Vec::new();
        }
        let listed = missing.value(row);
        let Some(listed) = listed.as_string_opt::<i32>() else { return Vec::new() };
        let left_out =
            relation.columns.iter().filter(|column| listed.iter().flatten().any(|name| name == column.stored));
        left_out.filter_map(|column| self.relation.position_of(column)).collect()
    }

    /// Fills in what updates left out, and gives those rows.
    fn completed_rows(
        &self,
        overlay: &Overlay,
        borrowed: &Borrowed,
        kept: &HashMap<usize, (RowText, Vec<usize>)>,
        sink: &mut KeyedSink<'_>,
    ) -> Result<()> {
        let live = overlay.live().filter(|version| kept.contains_key(version));
        for version in live {
            let mut text = RowText::default();
            for at in 0..self.relation.columns.len() {
                let holder = borrowed.find(overlay, kept, version, at)?;
                text.push_with(|out| match holder.field(at) {
                    Some(bytes) => {
                        out.extend_from_slice(bytes);
                        true
                    }
                    None => false,
                });
            }
            sink(&text, &self.key_of(&text))?;
        }
        Ok(())
    }

    /// The key of a row in this table's columns.
    pub fn key_of(&self, row: &RowText) -> Vec<u8> {
        let mut key = Vec::new();
        for column in &self.key {
            let at = self.relation.columns.iter().position(|known| known.name == column.name);
            match at.and_then(|at| row.field(at)) {
                Some(bytes) => {
                    key.push(1);
                    key.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                    key.extend_from_slice(bytes);
                }
                None => key.extend_from_slice(&[0; 5]),
            }
        }
        key
    }
}

/// The newest place from which the rows are known, and what was there.
async fn base_of(
    archive: &Archive,
    relation: &RelationVersion,
    names: &[TableName],
    records: &[RelationRecord],
    cut: Position,
) -> Result<(Base, Position)> {
    let mut image: Option<Image> = None;
    for name in names {
        let found = image_of(archive, name, relation.oid, cut.lsn).await?;
        image = image.into_iter().chain(found).max_by_key(|image| image.lsn);
    }
    let said = records.iter().rfind(|record| record.event != RelationEvent::Described);
    match (image, said) {
        (Some(image), said) if said.is_none_or(|said| said.position < Position::before(image.lsn)) => {
            let from = Position::before(image.lsn);
            Ok((Base::Image(image), from))
        }
        (_, Some(said)) if matches!(said.event, RelationEvent::Created | RelationEvent::Rewritten) => {
            Ok((Base::Nothing, said.position))
        }
        _ => Err(unknown(&relation.name, records)),
    }
}

/// From where on, at or after a base, rows are told apart as they are in the end.
fn segment_start(records: &[RelationRecord], base: Position) -> Position {
    let mut start = base;
    let mut kind: Option<Option<Vec<i16>>> = None;
    for record in records.iter().rev() {
        let relation = &record.relation;
        // Without an identity nothing was updated or deleted, and of a table without columns all rows are equal.
        if relation.identity != Identity::Nothing && !relation.columns.is_empty() {
            let found = identity_kind(relation);
            if kind.get_or_insert_with(|| found.clone()) != &found {
                return start.max(base);
            }
            start = record.position;
        }
        if record.position <= base {
            return base;
        }
    }
    base
}

/// What tells rows apart: the numbers of the key's columns, or `None` for all that there are.
fn identity_kind(relation: &RelationVersion) -> Option<Vec<i16>> {
    let numbered = relation.columns.iter().all(|column| column.number != 0);
    let number = |at: usize| if numbered { relation.columns[at].number } else { at as i16 };
    (relation.identity != Identity::Full).then(|| relation.key_positions().into_iter().map(number).collect())
}

/// The newest base image under a name that is of this table: another may have had the name too.
async fn image_of(archive: &Archive, name: &TableName, oid: u32, at: Lsn) -> Result<Option<Image>> {
    for image in archive.images(name, at).await? {
        if let Some(file) = image.files.first()
            && archive.read(file, None).await?.relation()?.oid == oid
        {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Rows that are not in the state themselves but hold values that updates left out.
#[derive(Debug, Default)]
struct Borrowed {
    /// Versions in the changes.
    versions: std::collections::HashSet<usize>,
    /// Rows of the image, filled in when they are met.
    image: HashMap<overlay::Key, Option<RowText>>,
}

impl Borrowed {
    fn of(overlay: &Overlay) -> Borrowed {
        let mut borrowed = Borrowed::default();
        for version in overlay.live() {
            let mut next = overlay.versions[version].base.as_ref();
            while let Some(base) = next {
                match base {
                    Source::Image(key) => {
                        borrowed.image.insert(key.clone(), None);
                        next = None;
                    }
                    Source::Version(before) => {
                        borrowed.versions.insert(*before);
                        next = overlay.versions[*before].base.as_ref();
                    }
                }
            }
        }
        borrowed
    }

    fn needs_image(&self) -> bool {
        !self.image.is_empty()
    }

    fn wants_image_row(&self, key: &[u8]) -> bool {
        self.image.get(key).is_some_and(Option::is_none)
    }

    fn keep_image_row(&mut self, key: &[u8], text: RowText) {
        if let Some(slot) = self.image.get_mut(key) {
            *slot = Some(text);
        }
    }

    /// The version or image row that holds a column's value for a version.
    fn find<'k>(
        &'k self,
        overlay: &Overlay,
        kept: &'k HashMap<usize, (RowText, Vec<usize>)>,
        mut version: usize,
        column: usize,
    ) -> Result<&'k RowText> {
        let lost = || {
            Failure::failed(format!("a value of column {} is not in the archive where it should be", column + 1))
                .remedy("the store has lost objects of the archive")
        };
        loop {
            let (text, missing) = kept.get(&version).ok_or_else(lost)?;
            if !missing.contains(&column) {
                return Ok(text);
            }
            match overlay.versions[version].base.as_ref().ok_or_else(lost)? {
                Source::Version(before) => version = *before,
                Source::Image(key) => return self.image.get(key).and_then(Option::as_ref).ok_or_else(lost),
            }
        }
    }
}

/// Replaces `text` by a row's fields in another order: each from its position, or the constant where it has none.
fn rearrange(row: &RowText, places: &[(Option<usize>, Option<&str>)], text: &mut RowText) {
    text.clear();
    for (position, constant) in places {
        let value = match position {
            Some(at) => row.field(*at),
            None => constant.map(str::as_bytes),
        };
        text.push_with(|out| value.map(|value| out.extend_from_slice(value)).is_some());
    }
}

/// A file of an image, restricted to the rows with these keys.
async fn rows_with_keys(reader: DataReader, keys: &[Wanted<'_>], only: &KeySet) -> Result<DataReader> {
    let mut wanted = vec![names::EXACT];
    wanted.extend(keys.iter().filter_map(overlay::stored_name));
    let (mut numbers, mut batches) = (reader.row_numbers(), reader.columns(&wanted).stream()?);
    let (mut found, mut key) = (Vec::new(), Vec::new());
    while let Some(batch) = batches.try_next().await? {
        let rows = RowReader::new(&batch, keys)?;
        for (row, number) in (0..batch.num_rows()).zip(numbers.by_ref()) {
            rows.read_key(row, &mut key);
            if only.contains(key.as_slice()) {
                found.push(number as u32);
            }
        }
    }
    Ok(reader.select(selection(&found)))
}

/// The rows of a file at these positions, which ascend, as ranges.
fn selection(rows: &[u32]) -> Vec<std::ops::Range<u64>> {
    let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
    for row in rows.iter().map(|row| u64::from(*row)) {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}
