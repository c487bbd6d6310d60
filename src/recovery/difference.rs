//! What happened to the rows of a table that nobody saw: those on one side against those on the other.
//!
//! Rows are known by hashes of 128 bits, of their keys and of all they have, and only as many at a time as fit into memory:
//! of more, both sides are read several times.

use std::collections::HashMap;

use futures::TryStreamExt as _;

use crate::archive::log::relation_metadata;
use crate::archive::{Archive, FileContent, Image, StagedFile, TablePath, stage};
use crate::columnar::{ChangeBuilder, Place, RowReader, RowText, Wanted};
use crate::failure::Result;
use crate::history::{TableAt, identity_kind, places_in, rearrange};
use crate::model::{GapRecord, Operation, OperationCounts, RelationVersion};
use crate::verification::RowKey;

/// What is asked.
pub(super) struct Changes<'a> {
    pub(super) archive: &'a Archive,
    pub(super) gap: &'a GapRecord,
    /// The table as it is after the gap.
    pub(super) relation: &'a RelationVersion,
    /// Bytes that it may take.
    pub(super) memory: usize,
}

/// Bytes that a row's two hashes take in a map.
const BYTES_PER_ROW: usize = 64;
/// Bytes of changes from which on they go into a file of their own.
const FILE_BYTES: usize = 16 << 20;

/// The changes that make the rows of before (none, where there was no such table) those of the image, staged, numbered from
/// `seq` on.
pub(super) async fn changes(
    asked: &Changes<'_>,
    before: Option<&TableAt>,
    image: &Image,
    seq: &mut i64,
) -> Result<(Vec<StagedFile>, OperationCounts)> {
    let mut out = Out::new(asked, *seq);
    let alike = before.is_none_or(|before| tells_apart_alike(before.relation(), asked.relation));
    if !alike {
        // Which row is which cannot be told: all are new.
        out.add(Operation::Truncate, &RowText::default())?;
    }
    let before = before.filter(|_| alike);
    let rows: u64 = rows_of(asked, image).await?;
    let parts = (rows as usize * BYTES_PER_ROW).div_ceil(asked.memory.max(1)).max(1) as u128;
    let key = RowKey::of(asked.relation);
    for part in 0..parts {
        let mut known = Sides::new(key.unique);
        if let Some(before) = before {
            for_each_before(before, asked.relation, &mut |row| {
                let (key, content) = key.hashes(row.fields());
                if key % parts == part {
                    known.add(key, content);
                }
                Ok(())
            })
            .await?;
        }
        for file in &image.files {
            let reader = asked.archive.read(file, None).await?;
            let mut batches = reader.stream()?;
            let mut text = RowText::default();
            while let Some(batch) = batches.try_next().await? {
                let wanted: Vec<Wanted<'_>> = asked.relation.columns.iter().map(Wanted::Stored).collect();
                let rows = RowReader::new(&batch, &wanted)?;
                for row in 0..batch.num_rows() {
                    rows.read(row, &mut text);
                    let (key, content) = key.hashes(text.fields());
                    if key % parts != part {
                        continue;
                    }
                    match known.take(key, content) {
                        Found::Same => {}
                        Found::Other => out.add(Operation::Update, &text)?,
                        Found::None => out.add(Operation::Insert, &text)?,
                    }
                    out.write_when_full().await?;
                }
            }
        }
        // What is left was deleted.
        while let Some(before) = before.filter(|_| known.is_some()) {
            for_each_before(before, asked.relation, &mut |row| {
                let (key, content) = key.hashes(row.fields());
                match key % parts == part && !out.is_full() && known.take_left(key, content) {
                    true => out.add(Operation::Delete, row),
                    false => Ok(()),
                }
            })
            .await?;
            out.write().await?;
        }
    }
    out.write().await?;
    *seq = out.seq;
    Ok((out.files, out.counts))
}

/// Whether rows of both versions are told apart by the same columns, and there are such.
fn tells_apart_alike(before: &RelationVersion, after: &RelationVersion) -> bool {
    before.oid == after.oid && !after.key_positions().is_empty() && identity_kind(before) == identity_kind(after)
}

async fn rows_of(asked: &Changes<'_>, image: &Image) -> Result<u64> {
    let mut rows = 0;
    for file in &image.files {
        rows += asked.archive.read(file, None).await?.rows();
    }
    Ok(rows)
}

/// Gives every row of before in the columns of after.
async fn for_each_before(
    before: &TableAt,
    after: &RelationVersion,
    take: &mut (dyn FnMut(&RowText) -> Result<()> + Send),
) -> Result<()> {
    let places = places_in(&after.columns, before.relation());
    let mut text = RowText::default();
    let mut each = |row: &RowText| {
        rearrange(row, &places, &mut text);
        take(&text)
    };
    before.for_each_row(None, &mut each).await
}

enum Found {
    Same,
    Other,
    None,
}

/// Rows of before that were not found after yet.
enum Sides {
    /// By the key.
    Unique(HashMap<u128, u128>),
    /// How many there are of each.
    Copies(HashMap<u128, u64>),
}

impl Sides {
    fn new(unique: bool) -> Sides {
        if unique { Sides::Unique(HashMap::new()) } else { Sides::Copies(HashMap::new()) }
    }

    fn add(&mut self, key: u128, content: u128) {
        match self {
            Sides::Unique(rows) => drop(rows.insert(key, content)),
            Sides::Copies(rows) => *rows.entry(content).or_default() += 1,
        }
    }

    /// Finds a row of after, which is then accounted for.
    fn take(&mut self, key: u128, content: u128) -> Found {
        if let Sides::Unique(rows) = self {
            return match rows.remove(&key) {
                Some(known) if known == content => Found::Same,
                Some(_) => Found::Other,
                None => Found::None,
            };
        }
        if self.take_left(key, content) { Found::Same } else { Found::None }
    }

    /// Whether a row of before is left, which is then accounted for.
    fn take_left(&mut self, key: u128, content: u128) -> bool {
        match self {
            Sides::Unique(rows) => rows.remove(&key).is_some(),
            Sides::Copies(rows) => match rows.get_mut(&content) {
                Some(copies) if *copies > 0 => {
                    *copies -= 1;
                    true
                }
                _ => false,
            },
        }
    }

    fn is_some(&self) -> bool {
        match self {
            Sides::Unique(rows) => !rows.is_empty(),
            Sides::Copies(rows) => rows.values().any(|copies| *copies > 0),
        }
    }
}

/// Changes on their way into files.
struct Out<'a> {
    asked: &'a Changes<'a>,
    builder: ChangeBuilder,
    seq: i64,
    counts: OperationCounts,
    files: Vec<StagedFile>,
}

impl<'a> Out<'a> {
    fn new(asked: &'a Changes<'a>, seq: i64) -> Out<'a> {
        let builder = ChangeBuilder::new(asked.relation);
        Out { asked, builder, seq, counts: OperationCounts::default(), files: Vec::new() }
    }

    fn add(&mut self, operation: Operation, row: &RowText) -> Result<()> {
        let gap = self.asked.gap;
        let place = Place { lsn: gap.commit_lsn(), seq: self.seq, xid: 0, time: gap.end_time.timestamp_micros() };
        let fields: Vec<Option<&[u8]>> = row.fields().collect();
        match operation {
            Operation::Truncate => self.builder.push(place, operation, None, None)?,
            Operation::Delete => self.builder.push_gone(place, fields.into_iter())?,
            _ => self.builder.push_row(place, operation, fields.into_iter())?,
        }
        self.seq += 1;
        self.counts.add(operation);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.builder.memory() >= FILE_BYTES
    }

    async fn write_when_full(&mut self) -> Result<()> {
        if self.is_full() { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<()> {
        if self.builder.rows() == 0 {
            return Ok(());
        }
        let path = TablePath::Changes(self.asked.relation.name.clone());
        let batches = vec![self.builder.finish()?];
        let content = FileContent { batches, metadata: relation_metadata(self.asked.relation), image_lsn: None };
        self.files.push(stage(self.asked.archive.store(), &path, content).await?);
        Ok(())
    }
}
