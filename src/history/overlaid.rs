//! A table's rows with every change applied in the order of history.
//!
//! This heeds what updates left out, and how often a row stands there. Only keys and places of changed rows are in memory;
//! the rows are fetched from where they lie.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use futures::TryStreamExt as _;

use super::changes::{Condition, Key, KeySet, Place, bounds_in, key_conditions, selection, stored_name, wanted_in};
use super::overlay::{Only, Overlay, Source};
use super::table_at::{Base, RowSink, TableAt, places_in, rearrange};
use crate::archive::{DataFile, DataReader, Image};
use crate::columnar::{RowReader, RowText, Wanted, names};
use crate::failure::{Failure, Result};
use crate::model::RelationVersion;

/// What a row is given to, with its key.
type KeyedSink<'a> = dyn FnMut(&RowText, &[u8]) -> Result<()> + Send + 'a;

/// The same for a version of a row, with the columns that it left out.
type VersionSink<'a> = dyn FnMut(usize, &RowText, Vec<usize>, &[u8]) -> Result<()> + Send + 'a;

impl TableAt {
    /// The rows under these keys with every change applied in order, which heeds what changes left out, and how often a
    /// row stands there. About the bytes that texts of rows took come back; `None` and no row where the changes take more
    /// than this memory.
    pub(super) async fn overlaid_rows(
        &self,
        only: &Only<'_>,
        memory: usize,
        sink: &mut RowSink<'_>,
    ) -> Result<Option<usize>> {
        let range = self.range();
        let Some((mut overlay, read)) = Overlay::read(&range, only, memory).await? else { return Ok(None) };
        let read = read.as_deref();
        let sought = read.map_or_else(Vec::new, |read| key_conditions(&self.key, read));
        let mut borrowed = Borrowed::of(&overlay);
        let mut wanted = |row: &RowText, key: &[u8]| if only.has(key) { sink(row) } else { Ok(()) };
        if !overlay.image_dropped || borrowed.needs_image() {
            match &self.base {
                Base::Nothing | Base::Leaves(_) => {}
                Base::Image(image) => {
                    for file in self.files_with_keys(image, &sought).await? {
                        self.image_rows(file, &mut overlay, (read, &sought), &mut borrowed, &mut wanted).await?;
                    }
                }
                Base::State(state) => {
                    Box::pin(self.state_rows(state, &mut overlay, read, &mut borrowed, &mut wanted)).await?;
                }
            }
        }
        let kept = self.changed_rows(&overlay, &mut borrowed, &mut wanted).await?;
        Ok(Some(kept + borrowed.memory()))
    }

    fn columns_in<'r>(&'r self, relation: &'r RelationVersion) -> Vec<Wanted<'r>> {
        self.relation.columns.iter().map(|column| wanted_in(column, relation)).collect()
    }

    fn keys_in<'r>(&'r self, relation: &'r RelationVersion) -> Vec<Wanted<'r>> {
        self.key.iter().map(|column| wanted_in(column, relation)).collect()
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
        let places = places_in(&self.relation().columns, state.relation());
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

    /// The files of an image that can have the sought rows, by what the Delta log says of them.
    async fn files_with_keys<'f>(&self, image: &'f Image, sought: &[Condition]) -> Result<Vec<&'f DataFile>> {
        let ([_, ..], [first, _, ..]) = (sought, image.files.as_slice()) else {
            return Ok(image.files.iter().collect());
        };
        // All have the same relation version, for an image is of one point.
        let relation = self.archive.read(first, None).await?.relation()?;
        let bounds = bounds_in(sought, &relation);
        Ok(image.files.iter().filter(|file| bounds.iter().all(|column| column.may_be_in(file))).collect())
    }

    async fn image_rows(
        &self,
        file: &DataFile,
        overlay: &mut Overlay,
        (only, sought): (Option<&KeySet>, &[Condition]),
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
        let selects = only.is_some() || overlay.selects_from_image() || borrowed.needs_image();
        let reader = match only {
            Some(only) => rows_with_keys(reader.select_keys(&bounds_in(sought, &relation)), &keys, only).await?,
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
    /// About the bytes of those that waited for what they left out come back.
    async fn changed_rows(
        &self,
        overlay: &Overlay,
        borrowed: &mut Borrowed,
        sink: &mut KeyedSink<'_>,
    ) -> Result<usize> {
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
        self.completed_rows(overlay, borrowed, &kept, sink)?;
        Ok(kept.values().map(|(text, _)| text.memory()).sum())
    }

    async fn fetch(&self, file: &DataFile, rows: &[(u32, usize)], take: &mut VersionSink<'_>) -> Result<()> {
        let reader = self.archive.read_some(file).await?;
        let relation = reader.relation()?;
        let columns = self.columns_in(&relation);
        let keys = self.keys_in(&relation);
        let positions: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
        let mut wanted = vec![names::EXACT, names::MISSING];
        wanted.extend(columns.iter().chain(&keys).filter_map(stored_name));
        let mut batches = reader.select(selection(&positions)).columns(&wanted).stream()?;
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
}

/// Rows that are not in the state themselves but hold values that updates left out.
#[derive(Debug, Default)]
struct Borrowed {
    /// Versions in the changes.
    versions: std::collections::HashSet<usize>,
    /// Rows of the image, filled in when they are met.
    image: HashMap<Key, Option<RowText>>,
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

    /// Bytes of the rows of the image.
    fn memory(&self) -> usize {
        self.image.values().flatten().map(RowText::memory).sum()
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
        let lost = |what: &str, version: usize| {
            let place = overlay.versions[version].place;
            let file = overlay.files.get(place.file as usize).map_or("", |file| &file.path);
            let whose = format!("row {} of {file} left out column {}", place.row, column + 1);
            Failure::failed(format!("{whose}, and {what}")).remedy("the store has lost objects of the archive")
        };
        loop {
            let (text, missing) = kept.get(&version).ok_or_else(|| lost("the row before it was not read", version))?;
            if !missing.contains(&column) {
                return Ok(text);
            }
            let base = overlay.versions[version].base.as_ref();
            match base.ok_or_else(|| lost("no row was there before it", version))? {
                Source::Version(before) => version = *before,
                Source::Image(key) => {
                    let row = self.image.get(key).and_then(Option::as_ref);
                    return row.ok_or_else(|| lost("the base image has no such row", version));
                }
            }
        }
    }
}

/// A file of an image, restricted to the rows with these keys.
async fn rows_with_keys(reader: DataReader, keys: &[Wanted<'_>], only: &KeySet) -> Result<DataReader> {
    let mut wanted = vec![names::EXACT];
    wanted.extend(keys.iter().filter_map(stored_name));
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
