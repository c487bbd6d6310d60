//! The hash chain over what was published.
//!
//! A *link* says what one publication was: a hash of its rows in the list of transactions, and for each table *segments*, each
//! a range of changes by their place in history, with their number and a hash of them. It names the SHA-256 of the link
//! before, and its own is that of its text as it lies in the archive. So whoever keeps the newest hash elsewhere, the *head*,
//! can prove later that nothing that was published by then has been changed, left out or added.
//!
//! Rows are hashed by what they say ([`RowDigests`]), not by where they lie: maintenance puts them into other files, and the
//! chain still holds.
//!
//! A link is the text in the column `chain` of its publication's last transaction. What a table has of a publication that
//! was interrupted is read back, when the next one completes it.

use std::ops::Range;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;
use parquet::file::metadata::PageIndexPolicy;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::delta::DataFile;
use super::log;
use super::reader::open_file;
use super::store::Store;
use crate::columnar::{Digest, RowDigests, digest, finish, hexadecimal, names};
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Position, TableName, Transaction};

/// A part of a table's changes, in the order of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The place of the first change.
    pub first: Position,
    /// The place of the last change.
    pub last: Position,
    pub rows: u64,
    /// Of each transaction the commit LSN, as 8 bytes, big-endian, and the SHA-256 of its changes' hashes; of all this the
    /// SHA-256, in hexadecimal.
    pub hash: String,
}

/// What one publication was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The end of the link before; of the first link, where the archive stood.
    pub from: Lsn,
    /// The new watermark.
    pub end: Lsn,
    /// The hash of the link before.
    pub before: Option<String>,
    /// The SHA-256 of its transactions' hashes, which are those of their rows in the list, without the column `chain`.
    pub transactions: String,
    pub tables: Vec<(TableName, Vec<Segment>)>,
}

/// A link as it lies in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    pub link: Link,
    /// The SHA-256 of its text.
    pub hash: String,
}

impl Linked {
    /// # Errors
    /// Failed where it is none.
    pub fn read(text: &str) -> Result<Linked> {
        let link =
            serde_json::from_str(text).map_err(|error| Failure::failed(format!("a link of the chain: {error}")))?;
        Ok(Linked { link, hash: hash_of(text) })
    }

    pub fn head(&self) -> Head {
        Head { lsn: self.link.end, hash: self.hash.clone() }
    }
}

/// The newest link's hash, and what it reaches to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub lsn: Lsn,
    pub hash: String,
}

impl Head {
    /// That of a link's text.
    pub(super) fn of(lsn: Lsn, text: &str) -> Head {
        Head { lsn, hash: hash_of(text) }
    }
}

fn hash_of(text: &str) -> String {
    hexadecimal(&digest(text.as_bytes()))
}

impl Link {
    /// That of transactions, which are of one publication.
    pub(super) fn new(
        from: Lsn,
        end: Lsn,
        before: Option<&Head>,
        transactions: &[Transaction],
        tables: Vec<(TableName, Vec<Segment>)>,
    ) -> Result<Link> {
        let listed = log::encode_transactions(transactions, None)?;
        let transactions = hexadecimal(&digest(&transaction_digests(&listed)?.concat()));
        Ok(Link { from, end, before: before.map(|head| head.hash.clone()), transactions, tables })
    }

    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Failure::failed(format!("a link of the chain: {error}")))
    }
}

/// The hashes of rows of the list of transactions.
///
/// # Errors
/// Failed where it is no such list.
pub fn transaction_digests(listed: &RecordBatch) -> Result<Vec<Digest>> {
    let said: Vec<usize> =
        (0..listed.num_columns()).filter(|at| listed.schema_ref().field(*at).name() != log::CHAIN).collect();
    let said = listed.project(&said).map_err(|error| Failure::failed(format!("log/transactions: {error}")))?;
    let mut rows = RowDigests::new(&said);
    (0..said.num_rows()).map(|row| rows.of(row)).collect()
}

/// Makes segments of changes as they come, in the order of history.
#[derive(Debug, Default)]
pub struct SegmentBuilder {
    range: Option<(Position, Position)>,
    rows: u64,
    transactions: Option<Hash>,
    changes: Option<Hash>,
    /// Something came out of order.
    broken: bool,
}

/// A hash that grows.
#[derive(Clone)]
struct Hash(Box<Context>);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash")
    }
}

impl Hash {
    fn add(this: &mut Option<Hash>, bytes: &[u8]) {
        this.get_or_insert_with(|| Hash(Box::new(Context::new(&SHA256)))).0.update(bytes);
    }

    fn end(this: Option<Hash>) -> Digest {
        finish(this.map_or_else(|| Context::new(&SHA256), |hash| *hash.0))
    }
}

impl SegmentBuilder {
    /// Adds a batch of changes.
    ///
    /// # Errors
    /// Failed where it is none.
    pub fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let places = places_of(batch)?;
        let mut rows = RowDigests::new(batch);
        places.into_iter().enumerate().try_for_each(|(row, place)| {
            self.add(place, &rows.of(row)?);
            Ok(())
        })
    }

    pub fn add(&mut self, place: Position, row: &Digest) {
        match self.range {
            None => self.range = Some((place, place)),
            Some((first, last)) => {
                self.broken |= place <= last;
                if place.lsn != last.lsn {
                    self.end_transaction(last.lsn);
                }
                self.range = Some((first, place));
            }
        }
        self.rows += 1;
        Hash::add(&mut self.changes, row);
    }

    fn end_transaction(&mut self, lsn: Lsn) {
        let changes = Hash::end(self.changes.take());
        Hash::add(&mut self.transactions, &lsn.0.to_be_bytes());
        Hash::add(&mut self.transactions, &changes);
    }

    /// `None` where there was nothing, or not in order.
    pub fn finish(mut self) -> Option<Segment> {
        let (first, last) = self.range.filter(|_| !self.broken)?;
        self.end_transaction(last.lsn);
        let hash = hexadecimal(&Hash::end(self.transactions));
        Some(Segment { first, last, rows: self.rows, hash })
    }

    /// The same of changes of one transaction that were added without their place.
    pub(super) fn finish_at(self, lsn: Lsn) -> Option<Segment> {
        let range = self.range.map(|(first, last)| (Position { lsn, ..first }, Position { lsn, ..last }));
        SegmentBuilder { range, ..self }.finish()
    }
}

/// The segment that changes make, in whatever order they are given; `None` of none.
pub fn segment_of(mut changes: Vec<(Position, Digest)>) -> Option<Segment> {
    changes.sort_unstable();
    let mut builder = SegmentBuilder::default();
    changes.iter().for_each(|(place, row)| builder.add(*place, row));
    builder.broken = false;
    builder.finish()
}

/// Where changes stand in history.
///
/// # Errors
/// Failed where the batch is not one of changes.
pub fn places_of(batch: &RecordBatch) -> Result<Vec<Position>> {
    let column = |name: &str| {
        let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.ok_or_else(|| Failure::failed(format!("changes without the column {name}")))
    };
    let (lsns, seqs) = (column(names::LSN)?, column(names::SEQ)?);
    let places = lsns.values().iter().zip(seqs.values());
    Ok(places.map(|(lsn, seq)| Position { lsn: Lsn::from_i64(*lsn), seq: *seq }).collect())
}

/// The newest link that files of `log/transactions` have.
pub(super) async fn head(store: &Store, files: &[DataFile]) -> Result<Option<Head>> {
    let greatest = |file: &DataFile| file.numbers.iter().find(|(column, ..)| column == "lsn").map(|(.., most)| *most);
    let mut newest_first: Vec<&DataFile> = files.iter().collect();
    newest_first.sort_by_key(|file| std::cmp::Reverse(greatest(file)));
    for file in newest_first {
        let reader =
            open_file(store, (&file.path, file.size), PageIndexPolicy::Skip).await?.columns(&["lsn", log::CHAIN]);
        let mut newest: Option<(i64, String)> = None;
        for batch in reader.batches().await? {
            let lsns = batch.column_by_name("lsn").and_then(|lsns| lsns.as_primitive_opt::<Int64Type>());
            let links = batch.column_by_name(log::CHAIN).and_then(|links| links.as_string_opt::<i32>());
            let (Some(lsns), Some(links)) = (lsns, links) else { continue };
            for (lsn, link) in lsns.values().iter().zip(links) {
                if let Some(link) = link.filter(|_| newest.as_ref().is_none_or(|(newest, _)| newest < lsn)) {
                    newest = Some((*lsn, link.to_owned()));
                }
            }
        }
        if let Some((_, text)) = newest {
            return Ok(Some(Linked::read(&text)?.head()));
        }
    }
    Ok(None)
}

/// The changes of a range in files of changes, each with its hash.
pub(super) async fn changes_of(
    store: &Store,
    files: impl Iterator<Item = (&str, u64)>,
    lsns: &Range<Lsn>,
) -> Result<Vec<(Position, Digest)>> {
    let mut changes = Vec::new();
    for file in files {
        let mut batches = open_file(store, file, PageIndexPolicy::Skip).await?.stream()?;
        while let Some(batch) = batches.try_next().await? {
            let mut rows = RowDigests::new(&batch);
            for (row, place) in places_of(&batch)?.into_iter().enumerate() {
                if lsns.contains(&place.lsn) {
                    changes.push((place, rows.of(row)?));
                }
            }
        }
    }
    Ok(changes)
}

/// Whether segments follow each other.
pub(super) fn in_order(segments: &mut [Segment]) -> bool {
    segments.sort_unstable_by_key(|segment| segment.first);
    segments.windows(2).all(|pair| pair[0].last < pair[1].first)
}
