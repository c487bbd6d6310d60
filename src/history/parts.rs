//! What a state, or a range of changes, is made of: for those who read the archive's files by themselves.

use std::ops::Range as Between;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::changes::{PARALLEL_FILES, Range, Select};
use super::overlay;
use super::point::Cut;
use super::table_at::{Base, TableAt};
use crate::archive::{DataFile, Image, TablePath};
use crate::columnar::names;
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, Position, RelationVersion};

/// What a table's state is made of: a base, and the changes since.
#[derive(Debug, Clone)]
pub struct StateParts {
    /// The columns that the table has in this state.
    pub relation: RelationVersion,
    /// The columns by which rows are told apart.
    pub key: Vec<Column>,
    /// Whether at most one row stands under a key.
    pub unique: bool,
    pub base: BaseParts,
    pub changes: ChangeParts,
}

/// Where the rows come from that no change has touched.
#[derive(Debug, Clone)]
pub enum BaseParts {
    Nothing,
    Image(ImagePart),
    /// The state before rows were told apart by other columns.
    State(Box<StateParts>),
    /// The leaves of a partitioned table; columns go by their names.
    Leaves(Vec<StateParts>),
}

/// A base image.
#[derive(Debug, Clone)]
pub struct ImagePart {
    pub lsn: Lsn,
    pub part: Part,
}

/// Some of a table's changes.
#[derive(Debug, Clone)]
pub struct ChangeParts {
    pub between: Between<Position>,
    /// By the file: each with those that were written under one relation version.
    pub by_file: Vec<Part>,
    /// By their place: what was written under one relation version.
    pub by_place: Vec<(Between<Position>, Part)>,
    /// The greatest order inside a transaction that any of them has; `None` where the Delta log does not say.
    pub greatest_seq: Option<i64>,
    /// Whether an update left out a TOASTed value that did not change.
    pub leave_out: bool,
}

/// Files of one table of the archive, all of one relation version.
#[derive(Debug, Clone)]
pub struct Part {
    /// The Delta table, relative to the archive's root.
    pub directory: String,
    /// The files, relative to the archive's root.
    pub files: Vec<String>,
    pub relation: RelationVersion,
}

impl TableAt {
    /// What this state is made of.
    ///
    /// # Errors
    /// Refused where a row took another key while a value of it was left out: only who follows each row finds it.
    pub async fn parts(&self) -> Result<StateParts> {
        let base = match &self.base {
            Base::Nothing => BaseParts::Nothing,
            Base::Image(image) => BaseParts::Image(self.image_part(image).await?),
            Base::State(state) => BaseParts::State(Box::new(Box::pin(state.parts()).await?)),
            Base::Leaves(leaves) => {
                BaseParts::Leaves(stream::iter(leaves).then(|leaf| Box::pin(leaf.parts())).try_collect().await?)
            }
        };
        let range = self.range();
        let changes = self.change_parts(&range).await?;
        let unique = self.unique_key().is_some();
        if unique && changes.leave_out {
            self.refuse_moved(&range).await?;
        }
        Ok(StateParts { relation: self.relation.clone(), key: self.key.clone(), unique, base, changes })
    }

    /// The changes of this table, or of each of its leaves, from another cut up to this state's; with the columns that it
    /// has in the end, in the order of this table's.
    pub async fn changes_since(&self, from: &Cut) -> Result<Vec<(Vec<Column>, ChangeParts)>> {
        if let Base::Leaves(leaves) = &self.base {
            let mut each = Vec::new();
            for leaf in leaves {
                let named = self.relation.columns.iter().filter_map(|column| leaf.relation.column(&column.name));
                let named: Vec<Column> = named.cloned().collect();
                let found = Box::pin(leaf.changes_since(from)).await?;
                each.extend(found.into_iter().map(|(_, parts)| (named.clone(), parts)));
            }
            return Ok(each);
        }
        let range = Range { from: Position::before(from.lsn), ..self.range() };
        Ok(vec![(self.relation.columns.clone(), self.change_parts(&range).await?)])
    }

    async fn image_part(&self, image: &Image) -> Result<ImagePart> {
        let first = image.files.first().ok_or_else(|| Failure::failed("a base image has no file"))?;
        let relation = self.archive.read(first, None).await?.relation()?;
        // Below the table's directory is one for each image.
        let directory = first.path.rsplitn(3, '/').nth(2).unwrap_or_default().to_owned();
        let files = image.files.iter().map(|file| file.path.clone()).collect();
        Ok(ImagePart { lsn: image.lsn, part: Part { directory, files, relation } })
    }

    async fn change_parts(&self, range: &Range<'_>) -> Result<ChangeParts> {
        let mut parts = ChangeParts {
            between: range.from..range.to,
            by_file: Vec::new(),
            by_place: Vec::new(),
            greatest_seq: Some(0),
            leave_out: false,
        };
        if range.from >= range.to || self.relation.partitioned {
            return Ok(parts);
        }
        let (files, opening) = range.parts(Vec::new()).await?;
        let opened = stream::iter(opening).map(|part| async move { part.open().await }).buffered(PARALLEL_FILES);
        let opened: Vec<_> = opened.try_collect().await?;
        for (file, opened) in files.iter().zip(opened) {
            let Some((reader, relation)) = opened else { continue };
            parts.leave_out |= reader.has_values(names::MISSING);
            parts.greatest_seq = parts.greatest_seq.zip(greatest_seq(file)).map(|(one, other)| one.max(other));
            let directory = TablePath::Changes(relation.name.clone()).directory();
            match parts.by_file.iter_mut().find(|known| known.relation == relation) {
                Some(known) => known.files.push(file.path.clone()),
                None => parts.by_file.push(Part { directory, files: vec![file.path.clone()], relation }),
            }
        }
        parts.by_place = self.by_place(range, &parts.by_file).await?;
        Ok(parts)
    }

    /// The relation versions of a range, each with its place, as far as there are changes under their names.
    async fn by_place(&self, range: &Range<'_>, found: &[Part]) -> Result<Vec<(Between<Position>, Part)>> {
        let records = overlay::records_of(&self.archive, self.relation.oid, range.to).await?;
        let mut places: Vec<(Between<Position>, Part)> = Vec::new();
        for (at, record) in records.iter().enumerate() {
            let end = records.get(at + 1).map_or(range.to, |next| next.position).min(range.to);
            // The archive's first versions hold from its beginning on.
            let start = if at == 0 { range.from } else { record.position.max(range.from) };
            let directory = TablePath::Changes(record.relation.name.clone()).directory();
            if start >= end || !found.iter().any(|part| part.directory == directory) {
                continue;
            }
            match places.last_mut() {
                Some((between, part)) if between.end == start && reads_alike(&part.relation, &record.relation) => {
                    between.end = end;
                }
                _ => {
                    let part = Part { directory, files: Vec::new(), relation: record.relation.clone() };
                    places.push((start..end, part));
                }
            }
        }
        Ok(places)
    }

    async fn refuse_moved(&self, range: &Range<'_>) -> Result<()> {
        let entries = range.entries(Select::KeyChanges).await?.entries;
        match entries.iter().find(|entry| entry.changes_key() && entry.incomplete) {
            None => Ok(()),
            Some(entry) => Err(Failure::refused(format!(
                "transaction {} gave a row of {} another key and left a large value as it was: one statement cannot \
                 follow the row to that value",
                entry.position.lsn, self.relation.name
            ))
            .remedy("write the rows with: afterimage export TABLE --at POINT --format parquet")),
        }
    }
}

/// Whether changes of both versions are read by the same expressions.
fn reads_alike(one: &RelationVersion, other: &RelationVersion) -> bool {
    one.name == other.name && one.columns == other.columns && one.identity == other.identity
}

fn greatest_seq(file: &DataFile) -> Option<i64> {
    file.numbers.iter().find(|(column, ..)| column == names::SEQ).map(|(_, _, greatest)| *greatest)
}
