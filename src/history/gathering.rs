//! Rows made ready by several threads, and handed on many at once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::changes::{Condition, PARALLEL_FILES, bounds_in, joined, stored_name, wanted_in};
use super::row_set::RowSet;
use crate::archive::{Archive, DataFile, DataReader};
use crate::columnar::{RowReader, RowText, Wanted, names};
use crate::failure::{Failure, Result};
use crate::model::{Column, RelationVersion};

/// Takes rows up, on whichever thread reads them, until they are handed on.
pub trait Gather: Clone + Send + 'static {
    /// Takes up one more row.
    fn add(&mut self, row: &RowText);

    /// Takes up all rows of a batch at once, from these columns of it; false where they must come one by one.
    fn add_batch(&mut self, _batch: &RecordBatch, _columns: &[Wanted<'_>]) -> Result<bool> {
        Ok(false)
    }

    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// What gathered rows are given to.
pub type Take<'a, G> = dyn FnMut(G) -> Result<()> + Send + 'a;

/// Bytes of rows that are handed on at once.
const GATHERED_BYTES: usize = 256 << 10;

/// Row groups read at the same time.
pub(super) const PARALLEL_GROUPS: usize = 8;

/// Rows as they are, one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// The lengths of the fields; `None` for NULL.
    fields: Vec<Option<usize>>,
    /// How many fields each row has.
    widths: Vec<usize>,
}

impl Gather for Texts {
    fn add(&mut self, row: &RowText) {
        for field in row.fields() {
            self.bytes.extend_from_slice(field.unwrap_or_default());
            self.fields.push(field.map(<[u8]>::len));
        }
        self.widths.push(row.len());
    }

    fn bytes(&self) -> usize {
        self.bytes.len() + self.fields.len() * size_of::<Option<usize>>() + self.widths.len() * size_of::<usize>()
    }
}

impl Texts {
    /// Gives the rows, one by one.
    pub(super) fn for_each(&self, sink: &mut dyn FnMut(&RowText) -> Result<()>) -> Result<()> {
        let (mut bytes, mut fields, mut text) = (self.bytes.as_slice(), self.fields.iter(), RowText::default());
        for width in &self.widths {
            text.clear();
            for length in fields.by_ref().take(*width) {
                let (field, rest) = bytes.split_at(length.unwrap_or(0));
                bytes = rest;
                text.push_with(|out| {
                    out.extend_from_slice(field);
                    length.is_some()
                });
            }
            sink(&text)?;
        }
        Ok(())
    }
}

/// Hands what was gathered on as soon as there is enough of it.
pub(super) struct Gathering<'a, G> {
    empty: G,
    rows: G,
    take: &'a mut Take<'a, G>,
}

impl<'a, G: Gather> Gathering<'a, G> {
    pub(super) fn new(empty: G, take: &'a mut Take<'a, G>) -> Self {
        Gathering { rows: empty.clone(), empty, take }
    }

    pub(super) fn add(&mut self, row: &RowText) -> Result<()> {
        self.rows.add(row);
        if self.rows.bytes() >= GATHERED_BYTES { self.hand_on() } else { Ok(()) }
    }

    pub(super) fn hand_on(&mut self) -> Result<()> {
        (self.take)(std::mem::replace(&mut self.rows, self.empty.clone()))
    }
}

/// The columns of rows, and those by which they are told apart.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) columns: Vec<Column>,
    pub(super) key: Vec<Column>,
    /// Rows in which a column cannot have one of its values may be left out.
    pub(super) conditions: Vec<Condition>,
}

/// Rows of a file.
#[derive(Debug)]
pub(super) struct FileRows {
    pub(super) archive: Archive,
    pub(super) shape: Arc<Shape>,
    pub(super) file: DataFile,
    pub(super) rows: Chosen,
}

/// Which rows of a file are wanted.
#[derive(Debug)]
pub(super) enum Chosen {
    Only(RowSet),
    AllBut(RowSet),
}

impl FileRows {
    /// The parts of the file that can be read beside each other.
    pub(super) async fn open(self) -> Result<Vec<Part>> {
        let reader = self.archive.read_some(&self.file).await?;
        let relation = Arc::new(reader.relation()?);
        let wanted = |group: std::ops::Range<u64>| match &self.rows {
            Chosen::Only(rows) => rows.ranges(true, group),
            Chosen::AllBut(rows) => rows.ranges(false, group),
        };
        let bounds = bounds_in(&self.shape.conditions, &relation);
        let possible = (!bounds.is_empty()).then(|| reader.rows_of_values(&bounds));
        let groups = reader.row_groups().into_iter().map(wanted).filter(|rows| !rows.is_empty());
        let parts = groups.map(|rows| {
            let chosen = reader.copy().select(rows);
            let reader = match &possible {
                Some(possible) => chosen.within(possible),
                None => chosen,
            };
            Part { shape: Arc::clone(&self.shape), reader, relation: Arc::clone(&relation) }
        });
        Ok(parts.filter(|part| part.reader.selected_rows() > 0).collect())
    }
}

/// Rows of a row group.
pub(super) struct Part {
    shape: Arc<Shape>,
    reader: DataReader,
    relation: Arc<RelationVersion>,
}

impl Part {
    /// Bytes that are read, in MiB and not more than may be in memory.
    fn weight(&self, most: u32) -> u32 {
        let rows = self.reader.selected_rows();
        u32::try_from(rows.saturating_mul(self.reader.row_bytes()) >> 20).unwrap_or(u32::MAX).clamp(1, most)
    }

    async fn gather<G: Gather>(self, memory: Arc<Memory>, empty: G, out: mpsc::Sender<G>) -> Result<()> {
        let stopped = |_| Failure::failed("nobody takes the rows any more");
        let _held = memory.acquire(&self).await?;
        let Part { shape, reader, relation } = self;
        let columns: Vec<Wanted<'_>> = shape.columns.iter().map(|column| wanted_in(column, &relation)).collect();
        let mut batches = only(&reader, &columns).stream()?;
        let (mut rows, mut text) = (empty.clone(), RowText::default());
        while let Some(batch) = batches.try_next().await? {
            if rows.add_batch(&batch, &columns)? {
                if rows.bytes() >= GATHERED_BYTES {
                    out.send(std::mem::replace(&mut rows, empty.clone())).await.map_err(stopped)?;
                }
                continue;
            }
            let values = RowReader::new(&batch, &columns)?;
            for row in 0..batch.num_rows() {
                values.read(row, &mut text);
                rows.add(&text);
                if rows.bytes() >= GATHERED_BYTES {
                    out.send(std::mem::replace(&mut rows, empty.clone())).await.map_err(stopped)?;
                }
            }
        }
        if rows.bytes() > 0 { out.send(rows).await.map_err(stopped) } else { Ok(()) }
    }

    /// Gives the number of each row in its file, and its key.
    pub(super) async fn for_each_key(self, mut visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        let Part { shape, reader, relation } = self;
        let keys: Vec<Wanted<'_>> = shape.key.iter().map(|column| wanted_in(column, &relation)).collect();
        let (mut numbers, mut batches) = (reader.row_numbers(), only(&reader, &keys).stream()?);
        let mut key = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let rows = RowReader::new(&batch, &keys)?;
            for (row, number) in (0..batch.num_rows()).zip(numbers.by_ref()) {
                rows.read_key(row, &mut key);
                visit(number as u32, &key)?;
            }
        }
        Ok(())
    }
}

/// Memory for the parts that are read at the same time, in MiB of their files.
struct Memory {
    room: Arc<Semaphore>,
    most: u32,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let most = u32::try_from(bytes >> 20).unwrap_or(u32::MAX).clamp(1, MOST_MIB);
        Memory { room: Arc::new(Semaphore::new(most as usize)), most }
    }

    async fn acquire(&self, part: &Part) -> Result<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room).acquire_many_owned(part.weight(self.most)).await;
        room.map_err(|_| Failure::failed("reading has ended"))
    }
}

/// Of more memory reading gets no faster.
const MOST_MIB: u32 = 256;

/// A file with these columns only.
fn only(reader: &DataReader, columns: &[Wanted<'_>]) -> DataReader {
    let stored: Vec<&str> = columns.iter().filter_map(stored_name).collect();
    reader.parts(&[names::EXACT], |path| {
        path.first().is_some_and(|name| name == names::EXACT || stored.contains(&name.as_str()))
    })
}

/// Reads files beside each other and hands on what was gathered of them, in any order. So many bytes of them are in memory
/// at once, or one row group.
pub(super) async fn in_parallel<G: Gather>(
    files: Vec<FileRows>,
    memory: usize,
    empty: G,
    take: &mut Take<'_, G>,
) -> Result<()> {
    let memory = Arc::new(Memory::new(memory));
    let (sender, mut receiver) = mpsc::channel(PARALLEL_GROUPS);
    let reading =
        move |part: Part| joined(tokio::spawn(part.gather(Arc::clone(&memory), empty.clone(), sender.clone())));
    let parts = stream::iter(files).map(FileRows::open).buffered(PARALLEL_FILES);
    let parts = parts.map_ok(|parts| stream::iter(parts.into_iter().map(Ok))).try_flatten();
    let working = parts.map_ok(reading).try_buffer_unordered(PARALLEL_GROUPS).try_collect::<Vec<()>>();
    let taking = async {
        while let Some(rows) = receiver.recv().await {
            take(rows)?;
        }
        Ok(())
    };
    futures::future::try_join(working, taking).await.map(drop)
}
