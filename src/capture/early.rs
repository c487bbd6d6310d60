//! Encodes the rows of large transactions while they run, so that little is left to do when they commit.
//!
//! What is encoded is used only where the transaction was committed whole and its tables are still what they were taken
//! for. In all other cases it is thrown away, and the transaction's records are read once more: so nothing here can lose or
//! invent a row, and no failure here is one of the archive.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::assembler::{relation_version, same_source_relation};
use super::known::KnownRelations;
use super::open_file::{BATCH_BYTES, ENCODED_BYTES, FILE_BYTES, PARALLEL_FILES};
use crate::archive::{SpilledPages, Store, UnplacedEncoder, UnplacedFile, blocking, log};
use crate::columnar::ChangeBuilder;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Operation, OperationCounts, RelationVersion, Xid};
use crate::pgoutput::{self, Message, OldTuple, Tuple};
use crate::transaction::{DDL_PREFIX, OpenTransaction, ROW_PREFIX, Records};

/// Transactions whose rows are encoded at the same time, at most: those that have begun first.
pub(super) const TRANSACTIONS: usize = 4;

/// What is asked of the [`EarlyEncoder`], for each transaction in order.
pub(super) enum EarlyWork {
    /// The next records.
    Piece { xid: Xid, piece: Bytes },
    /// The transaction is of no more interest.
    Drop { xid: Xid },
    /// The transaction has committed. The answer is `None` where its records must be read once more.
    End { xid: Xid, reply: oneshot::Sender<Option<EncodedTransaction>> },
}

/// A transaction that is encoded but for its place.
pub(super) struct EncodedTransaction {
    pub(super) transaction: OpenTransaction,
    pub(super) tables: Vec<EncodedTable>,
}

impl EncodedTransaction {
    /// Whether it changed so much, by relation, and no more.
    pub(super) fn has_all(&self, counts: impl Iterator<Item = (u32, OperationCounts)>) -> bool {
        let encoded = self.tables.iter().map(|table| (table.relation.oid, table.counts));
        let encoded: HashMap<u32, OperationCounts> = encoded.filter(|(_, counts)| counts.total() > 0).collect();
        encoded == counts.collect()
    }
}

pub(super) struct EncodedTable {
    pub(super) relation: Arc<RelationVersion>,
    counts: OperationCounts,
    /// The message with which the source described it.
    pub(super) described: Bytes,
    pub(super) files: Vec<UnplacedFile>,
}

/// See the module's documentation.
pub(super) struct EarlyEncoder {
    pub(super) store: Store,
    pub(super) known: KnownRelations,
    /// Bytes of rows that are not encoded yet, at most.
    pub(super) memory: usize,
    /// For what is encoded.
    pub(super) directory: PathBuf,
    /// `None` for those that must be read once more.
    pub(super) transactions: BTreeMap<Xid, Option<Early>>,
}

impl EarlyEncoder {
    /// Works until nobody asks any more.
    pub(super) async fn run(mut self, mut work: mpsc::Receiver<EarlyWork>) -> Result<()> {
        while let Some(work) = work.recv().await {
            match work {
                EarlyWork::Piece { xid, piece } => self.take(xid, piece).await,
                EarlyWork::Drop { xid } => drop(self.transactions.remove(&xid)),
                EarlyWork::End { xid, reply } => {
                    let early = self.transactions.remove(&xid).flatten();
                    let encoded = match early {
                        Some(early) => {
                            early.finish(&self.store).await.inspect_err(|failure| given_up(xid, failure)).ok()
                        }
                        None => None,
                    };
                    // Whoever asked may be gone, with the session.
                    let _ = reply.send(encoded);
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, xid: Xid, piece: Bytes) {
        let early = match self.transactions.entry(xid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let begun = Early::begin(xid, &self.directory).inspect_err(|failure| given_up(xid, failure));
                new.insert(begun.ok())
            }
        };
        if let Some(rows) = early
            && let Err(failure) = rows.take(piece, &self.known)
        {
            given_up(xid, &failure);
            *early = None;
        }
        self.encode_when_full().await;
    }

    /// Encodes the rows of the tables that have the most, until the rest fits.
    async fn encode_when_full(&mut self) {
        loop {
            let open = self.transactions.iter().filter_map(|(xid, early)| Some((*xid, early.as_ref()?)));
            let tables = open.flat_map(|(xid, early)| early.tables.iter().map(move |(oid, table)| (xid, *oid, table)));
            let sizes: Vec<_> = tables.map(|(xid, oid, table)| (table.builder.memory(), xid, oid)).collect();
            let held: usize = sizes.iter().map(|(bytes, ..)| bytes).sum();
            let Some(&(most, xid, oid)) = sizes.iter().max() else { return };
            if most < BATCH_BYTES && held <= self.memory {
                return;
            }
            let Some(early) = self.transactions.get_mut(&xid) else { return };
            let Some(rows) = early else { return };
            if let Err(failure) = rows.encode(oid, &self.store).await {
                given_up(xid, &failure);
                *early = None;
            }
        }
    }
}

fn given_up(xid: Xid, failure: &Failure) {
    tracing::debug!("transaction {xid} is encoded when it has committed: {failure}");
}

/// A transaction in progress.
pub(super) struct Early {
    transaction: OpenTransaction,
    records: Records,
    tables: BTreeMap<u32, EarlyTable>,
    pages: SpilledPages,
}

struct EarlyTable {
    relation: Arc<RelationVersion>,
    described: Bytes,
    counts: OperationCounts,
    builder: ChangeBuilder,
    open: Option<OpenEncoder>,
    files: Vec<UnplacedFile>,
}

struct OpenEncoder {
    encoder: UnplacedEncoder,
    bytes: usize,
    /// Where the pages ended when it began.
    began: u64,
}

impl Early {
    fn begin(xid: Xid, directory: &Path) -> Result<Early> {
        let pages = tempfile::tempfile_in(directory);
        let pages = pages.map_err(|error| Failure::failed(format!("no file in {}: {error}", directory.display())))?;
        Ok(Early {
            transaction: OpenTransaction::new(Lsn::ZERO, xid, 0),
            records: Records::default(),
            tables: BTreeMap::new(),
            pages: SpilledPages::new(pages),
        })
    }

    /// # Errors
    /// Where a record is none that can be encoded before its transaction's place is known.
    fn take(&mut self, piece: Bytes, known: &KnownRelations) -> Result<()> {
        self.records.add(piece);
        while let Some((_, message)) = self.records.next() {
            let decoded = pgoutput::decode(&message).map_err(|error| Failure::failed(error.to_string()))?;
            match decoded {
                Message::Relation(relation) => self.describe(&relation, &message, known)?,
                Message::Insert { relation, new } => self.push(relation, Operation::Insert, None, Some(&new))?,
                Message::Update { relation, old, new } => {
                    self.push(relation, Operation::Update, old.as_ref(), Some(&new))?;
                }
                Message::Delete { relation, old } => self.push(relation, Operation::Delete, Some(&old), None)?,
                Message::Truncate { relations, .. } => {
                    for relation in relations {
                        self.push(relation, Operation::Truncate, None, None)?;
                    }
                }
                Message::Logical { transactional: true, prefix, content, .. }
                    if prefix != DDL_PREFIX && prefix != ROW_PREFIX =>
                {
                    self.transaction.message(prefix, content);
                }
                Message::Origin { .. } | Message::Type { .. } => {}
                _ => return Err(Failure::failed("it changes definitions")),
            }
        }
        Ok(())
    }

    fn describe(&mut self, said: &pgoutput::Relation<'_>, message: &Bytes, known: &KnownRelations) -> Result<()> {
        let version = relation_version(said);
        let relation = known.get(version.oid).filter(|known| same_source_relation(known, &version));
        let relation = relation.ok_or_else(|| Failure::failed("a table is not known yet"))?;
        match self.tables.entry(version.oid) {
            Entry::Occupied(table) if table.get().relation == relation => Ok(()),
            Entry::Occupied(_) => Err(Failure::failed("a table was changed")),
            Entry::Vacant(new) => {
                let builder = ChangeBuilder::new(&relation);
                let described = Bytes::copy_from_slice(message);
                let counts = OperationCounts::default();
                new.insert(EarlyTable { relation, described, counts, builder, open: None, files: Vec::new() });
                Ok(())
            }
        }
    }

    fn push(
        &mut self,
        oid: u32,
        operation: Operation,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<()> {
        // The source describes a relation once a session, perhaps in another transaction.
        let table = self.tables.get_mut(&oid).ok_or_else(|| Failure::failed("a table was described elsewhere"))?;
        let place = self.transaction.next_place(&table.relation.name, operation);
        table.counts.add(operation);
        table.builder.push(place, operation, old, new)
    }

    /// Encodes the rows of one table so far.
    async fn encode(&mut self, oid: u32, store: &Store) -> Result<()> {
        let others = self.tables.iter_mut().filter(|(other, table)| **other != oid && table.open.is_some());
        let mut others: Vec<&mut EarlyTable> = others.map(|(_, table)| table).collect();
        if others.len() >= PARALLEL_FILES {
            others.sort_by_key(|table| table.open.as_ref().map_or(0, |open| open.bytes));
            if let Some(largest) = others.pop() {
                largest.end_file().await?;
            }
        }
        match self.tables.get_mut(&oid) {
            Some(table) => table.encode(store, &self.pages).await,
            None => Ok(()),
        }
    }

    async fn finish(self, store: &Store) -> Result<EncodedTransaction> {
        let Early { transaction, records, tables, pages } = self;
        if !records.is_empty() {
            return Err(Failure::failed("its records are not whole"));
        }
        let mut encoded = Vec::with_capacity(tables.len());
        for mut table in tables.into_values() {
            if table.builder.rows() > 0 {
                table.encode(store, &pages).await?;
            }
            table.end_file().await?;
            let EarlyTable { relation, counts, described, files, .. } = table;
            encoded.push(EncodedTable { relation, counts, described, files });
        }
        Ok(EncodedTransaction { transaction, tables: encoded })
    }
}

impl EarlyTable {
    async fn encode(&mut self, store: &Store, pages: &SpilledPages) -> Result<()> {
        let bytes = self.builder.memory();
        let batch = self.builder.finish()?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => OpenEncoder { encoder: self.begin(store, &batch, pages)?, bytes: 0, began: pages.bytes() },
        };
        open.bytes += bytes;
        let open = blocking(move || open.encoder.write(&batch).map(|()| open)).await?;
        let full = open.bytes >= FILE_BYTES || pages.bytes() - open.began >= ENCODED_BYTES;
        self.open = Some(open);
        if full { self.end_file().await } else { Ok(()) }
    }

    fn begin(&self, store: &Store, batch: &RecordBatch, pages: &SpilledPages) -> Result<UnplacedEncoder> {
        UnplacedEncoder::new(store, batch.schema(), log::relation_metadata(&self.relation), pages)
    }

    async fn end_file(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.files.push(blocking(move || open.encoder.finish()).await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::archive::TablePath;
    use crate::archive::faults::Faulty;
    use crate::model::{Column, Identity, TableName};
    use crate::pgoutput::testing::{description, logical, message};
    use crate::transaction::InProgress;

    const XID: Xid = 7;

    /// What becomes of a transaction of these messages where the table has the columns `id` and `v`.
    async fn encoded(messages: &[Vec<u8>]) -> Option<(EncodedTransaction, InProgress)> {
        let mut columns = vec![Column::new("id", 25, -1, true), Column::new("v", 25, -1, false)];
        columns.iter_mut().for_each(|column| column.stored.clone_from(&column.name));
        let relation = RelationVersion::new(1, TableName::new("public", "t"), Identity::Default, columns);
        let encoder = EarlyEncoder {
            store: Faulty::over(&Arc::new(InMemory::new()), None).store(),
            known: KnownRelations::new(HashMap::from([(1, relation)])),
            memory: 1 << 20,
            directory: std::env::temp_dir(),
            transactions: BTreeMap::new(),
        };
        let (asking, asked) = mpsc::channel(1);
        let running = tokio::spawn(encoder.run(asked));
        let mut content = InProgress::default();
        for (at, message) in messages.iter().enumerate() {
            content.push(XID, message[0], &message[1..]);
            // Pieces of any size.
            if at % 3 == 0 {
                let piece = content.complete().unwrap();
                asking.send(EarlyWork::Piece { xid: XID, piece }).await.ok().unwrap();
            }
        }
        if let Some(piece) = content.complete() {
            asking.send(EarlyWork::Piece { xid: XID, piece }).await.ok().unwrap();
        }
        let (reply, answer) = oneshot::channel();
        asking.send(EarlyWork::End { xid: XID, reply }).await.ok().unwrap();
        let answer = answer.await.unwrap();
        drop(asking);
        running.await.unwrap().unwrap();
        answer.map(|transaction| (transaction, content))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_row_of_a_known_table_is_encoded() {
        let mut messages = vec![description(&["id", "v"])];
        messages.extend((0..1000).map(|id| message(&[id.to_string(), "x".repeat(5000)])));
        messages.push(logical("mine", "said"));
        let (transaction, mut content) = encoded(&messages).await.unwrap();
        assert!(transaction.has_all(content.counts()));
        assert_eq!(transaction.tables.len(), 1);
        let file = transaction.tables.into_iter().next().unwrap().files.pop().unwrap();
        let store = Faulty::over(&Arc::new(InMemory::new()), None).store();
        let path = TablePath::Changes(TableName::new("public", "t"));
        let staged = file.place(Lsn(77), 5).unwrap().stage(&store, &path).await.unwrap();
        assert_eq!(staged.rows(), 1000);
        assert!(staged.size() > 1000);
        // What came later is missed.
        let (transaction, _) = encoded(&messages).await.unwrap();
        content.push(XID, b'I', &message(&["1001", "late"])[1..]);
        assert!(!transaction.has_all(content.counts()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_may_mean_something_else_by_then_is_read_once_more() {
        let row = || message(&["1", "x"]);
        let known = || description(&["id", "v"]);
        assert!(encoded(&[known(), row()]).await.is_some());
        assert!(encoded(&[row()]).await.is_none(), "never described");
        assert!(encoded(&[description(&["id", "w"]), row()]).await.is_none(), "not as it is known");
        assert!(encoded(&[known(), row(), description(&["id"]), row()]).await.is_none(), "changed on the way");
        assert!(encoded(&[known(), row(), logical(DDL_PREFIX, "{}"), row()]).await.is_none(), "changes definitions");
        assert!(encoded(&[known(), message(&["1"])]).await.is_none(), "of another width");
    }
}
