//! One table as it was at a point.
//!
//! The newest base image before the point is streamed, without the rows that changes since then have
//! touched; then come the rows that those changes left, fetched from where they lie.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt as _;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};

use super::overlay::{self, Base, KeySet, Overlay, Place};
use crate::archive::{Archive, DataFile, Image};
use crate::columnar::{RowReader, RowText, names};
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, RelationVersion, TableName};

/// What a row is given to.
pub type RowSink<'a> = dyn FnMut(&RowText) -> Result<()> + Send + 'a;

/// The same, with the row's key.
type KeyedSink<'a> = dyn FnMut(&RowText, &[u8]) -> Result<()> + Send + 'a;

/// The same for a version of a row, with the columns that it left out.
type VersionSink<'a> = dyn FnMut(usize, &RowText, Vec<String>, &[u8]) -> Result<()> + Send + 'a;

/// See the module's documentation.
#[derive(Debug)]
pub struct TableAt {
    archive: Archive,
    relation: RelationVersion,
    /// Every name that it had until then.
    names: Vec<TableName>,
    key: Vec<String>,
    image: Image,
    cut: Lsn,
}

impl TableAt {
    /// Finds a table as it was before the transaction with commit LSN `cut`; `None` where it was not there.
    ///
    /// # Errors
    /// Refused where its state then cannot be known.
    pub async fn find(archive: &Archive, name: &TableName, cut: Lsn) -> Result<Option<TableAt>> {
        let start = archive.identity().start_lsn;
        let mut known = archive.relations().await?;
        known.retain(|record| record.lsn < cut || record.lsn <= start);
        let Some(latest) = known.iter().rfind(|record| record.relation.name == *name) else { return Ok(None) };
        let relation = latest.relation.clone();
        let names = overlay::names_of(archive, relation.oid, cut).await?;
        let mut image: Option<Image> = None;
        for name in &names {
            let found = image_of(archive, name, relation.oid, cut).await?;
            image = image.into_iter().chain(found).max_by_key(|image| image.lsn);
        }
        let image = image.ok_or_else(|| {
            Failure::refused(format!("the archive has no base image of {name}, so its rows at a point are not known"))
                .remedy(
                    "it was not archived from the beginning; its changes since are in the archive: afterimage query",
                )
        })?;
        let versions = known.iter().map(|record| &record.relation).filter(|version| version.oid == relation.oid);
        let key = overlay::common_key(name, versions)?;
        Ok(Some(TableAt { archive: archive.clone(), relation, names, key, image, cut }))
    }

    /// The columns that the table had then.
    pub fn relation(&self) -> &RelationVersion {
        &self.relation
    }

    /// The columns by which its rows are told apart.
    pub fn key(&self) -> &[String] {
        &self.key
    }

    /// Gives every row, in no order, its fields in the order of [`TableAt::relation`]. With `only`, rows
    /// under other keys are left out.
    pub async fn for_each_row(&self, only: Option<&KeySet>, sink: &mut RowSink<'_>) -> Result<()> {
        let range = overlay::Range {
            archive: &self.archive,
            names: &self.names,
            oid: self.relation.oid,
            key: &self.key,
            from: self.image.lsn,
            to: self.cut,
        };
        let wider = match only {
            Some(only) => Some(range.with_former_keys(only).await?),
            None => None,
        };
        let read = wider.as_ref();
        let mut overlay = Overlay::read(&range, read).await?;
        let mut borrowed = Borrowed::of(&overlay);
        let mut wanted = |row: &RowText, key: &[u8]| {
            if only.is_none_or(|only| only.contains(key)) { sink(row) } else { Ok(()) }
        };
        if !overlay.image_dropped || borrowed.needs_image() {
            for file in &self.image.files {
                self.image_rows(file, &mut overlay, read, &mut borrowed, &mut wanted).await?;
            }
        }
        self.changed_rows(&overlay, &mut borrowed, &mut wanted).await
    }

    fn columns_in<'r>(&self, relation: &'r RelationVersion) -> Vec<Option<&'r Column>> {
        self.relation.columns.iter().map(|column| relation.column(&column.name)).collect()
    }

    async fn image_rows(
        &self,
        file: &DataFile,
        overlay: &mut Overlay,
        only: Option<&KeySet>,
        borrowed: &mut Borrowed,
        sink: &mut KeyedSink<'_>,
    ) -> Result<()> {
        let reader = self.archive.read(file, None).await?;
        let relation = reader.relation()?;
        let columns = self.columns_in(&relation);
        let keys: Vec<Option<&Column>> = self.key.iter().map(|key| relation.column(key)).collect();
        let selects = only.is_some() || overlay.touches_image() || borrowed.needs_image();
        let reader = match only {
            Some(only) => {
                let rows = self.rows_with_keys(file, &keys, only).await?;
                reader.select(selection(&rows))
            }
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

    async fn rows_with_keys(&self, file: &DataFile, keys: &[Option<&Column>], only: &KeySet) -> Result<Vec<u32>> {
        let mut wanted = vec![names::EXACT];
        wanted.extend(keys.iter().flatten().map(|column| column.stored.as_str()));
        let mut batches = self.archive.read(file, Some(&wanted)).await?.stream()?;
        let (mut found, mut first_row, mut key) = (Vec::new(), 0u32, Vec::new());
        while let Some(batch) = batches.try_next().await? {
            let reader = RowReader::new(&batch, keys)?;
            for row in 0..batch.num_rows() {
                reader.read_key(row, &mut key);
                if only.contains(key.as_slice()) {
                    found.push(first_row + row as u32);
                }
            }
            first_row += batch.num_rows() as u32;
        }
        Ok(found)
    }

    /// The rows that the changes left, file by file.
    async fn changed_rows(&self, overlay: &Overlay, borrowed: &mut Borrowed, sink: &mut KeyedSink<'_>) -> Result<()> {
        let mut by_file: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        let wanted = overlay.live().chain(borrowed.versions.iter().copied());
        for version in wanted {
            let Place { file, row } = overlay.versions[version].place;
            by_file.entry(file).or_default().push((row, version));
        }
        let mut kept: HashMap<usize, (RowText, Vec<String>)> = HashMap::new();
        for (file, mut rows) in by_file {
            rows.sort_unstable();
            rows.dedup();
            let mut take = |version: usize, text: &RowText, missing: Vec<String>, key: &[u8]| -> Result<()> {
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
        let reader = self.archive.read(file, None).await?;
        let relation = reader.relation()?;
        let columns = self.columns_in(&relation);
        let keys: Vec<Option<&Column>> = self.key.iter().map(|key| relation.column(key)).collect();
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
                take(version, &text, missing_columns(&batch, row), &key)?;
            }
        }
        Ok(())
    }

    /// Fills in what updates left out, and gives those rows.
    fn completed_rows(
        &self,
        overlay: &Overlay,
        borrowed: &Borrowed,
        kept: &HashMap<usize, (RowText, Vec<String>)>,
        sink: &mut KeyedSink<'_>,
    ) -> Result<()> {
        let live = overlay.live().filter(|version| kept.contains_key(version));
        for version in live {
            let mut text = RowText::default();
            for (at, column) in self.relation.columns.iter().enumerate() {
                let holder = borrowed.find(overlay, kept, version, &column.name)?;
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
        for name in &self.key {
            let at = self.relation.columns.iter().position(|column| column.name == *name);
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

/// The newest base image under a name, where it is of this table and not of another that had the name.
async fn image_of(archive: &Archive, name: &TableName, oid: u32, at: Lsn) -> Result<Option<Image>> {
    let Some(image) = archive.image(name, at).await? else { return Ok(None) };
    let Some(file) = image.files.first() else { return Ok(None) };
    let relation = archive.read(file, Some(&[])).await?.relation()?;
    Ok((relation.oid == oid).then_some(image))
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
                    Base::Image(key) => {
                        borrowed.image.insert(key.clone(), None);
                        next = None;
                    }
                    Base::Version(before) => {
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
        kept: &'k HashMap<usize, (RowText, Vec<String>)>,
        mut version: usize,
        column: &str,
    ) -> Result<&'k RowText> {
        let lost = || {
            Failure::failed(format!("a value of the column {column} is not in the archive where it should be"))
                .remedy("the store has lost objects of the archive")
        };
        loop {
            let (text, missing) = kept.get(&version).ok_or_else(lost)?;
            if !missing.iter().any(|name| name == column) {
                return Ok(text);
            }
            match overlay.versions[version].base.as_ref().ok_or_else(lost)? {
                Base::Version(before) => version = *before,
                Base::Image(key) => return self.image.get(key).and_then(Option::as_ref).ok_or_else(lost),
            }
        }
    }
}

/// The columns, by their names in the source, that an update left out.
fn missing_columns(batch: &arrow::array::RecordBatch, row: usize) -> Vec<String> {
    use arrow::array::{Array as _, AsArray as _};
    let Some(missing) = batch.column_by_name(names::MISSING).and_then(|column| column.as_list_opt::<i32>()) else {
        return Vec::new();
    };
    if missing.is_null(row) {
        return Vec::new();
    }
    let listed = missing.value(row);
    let stored = listed.as_string_opt::<i32>().map(|stored| stored.iter().flatten().collect()).unwrap_or_else(Vec::new);
    stored.into_iter().filter_map(names::source_column).collect()
}

/// The rows of a file at these positions, which ascend.
fn selection(rows: &[u32]) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = 0;
    for &row in rows {
        if row > at {
            selectors.push(RowSelector::skip((row - at) as usize));
        }
        selectors.push(RowSelector::select(1));
        at = row + 1;
    }
    RowSelection::from(selectors)
}
