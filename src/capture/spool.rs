//! Keeps transactions that are sent before they have ended, and hands them on whole, at their place in commit order.
//!
//! The next stage sees what a server without in-progress transactions would have sent (PostgreSQL manual, 55.5,
//! "Streaming Replication Protocol", versions 2 to 4): a transaction begins with where it was committed, and nothing of it
//! was rolled back. What does not fit into the memory for it goes into files without a name, which are gone with the
//! process.
//!
//! Where that cannot be told, the session ends and the next one asks for whole transactions only, until that one is
//! durable: see [`Terms`].
//!
//! A transaction that was prepared is sent again after a restart only from before its PREPARE on, so while its fate is open
//! nothing behind that may be acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot, watch};

use super::early::{self, EarlyWork, EncodedTransaction};
use super::receiver::EventBatch;
use super::resent::Resent;
use super::settings::CaptureSettings;
use super::terms::Terms;
use crate::archive::DurableLsn;
use crate::failure::{Failure, Result};
use crate::machine::spawn_blocking;
use crate::model::{Lsn, TableName, Xid};
use crate::pgoutput::{self, Control, DecodeError, End, Message};
use crate::postgres::StreamEvent;
use crate::transaction::{Glimpse, InProgress, Onlooker, Records, Running, RunningTransaction};

/// Bytes that are read from a file at once.
const PIECE: usize = 1 << 20;

/// Messages handed on at once when a transaction is complete.
const BATCH_EVENTS: usize = 2048;

/// What the next stage sees, in commit order.
pub(super) enum Ordered {
    /// As in a whole transaction, or outside of any.
    Message(Bytes),
    /// The transaction that has begun, in place of its messages, where that can be taken for them: the answer tells.
    Encoded {
        transaction: EncodedTransaction,
        taken: oneshot::Sender<bool>,
    },
    /// The source has nothing up to here, at a time as PostgreSQL sends it.
    Idle {
        end: Lsn,
        sent: i64,
    },
    Notice(String),
}

pub(super) type OrderedBatch = Vec<Ordered>;

/// Where an acknowledgement must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    xid: Xid,
    /// Where the transaction was prepared.
    from: Lsn,
    /// It is over when this is durable.
    until: Option<Lsn>,
}

impl Hold {
    /// The hold of a session that begins where the slot stands: what was prepared since may have to come again.
    pub(super) fn first(from: Lsn) -> Hold {
        Hold { xid: 0, from, until: None }
    }

    fn is_first(&self) -> bool {
        self.xid == 0
    }
}

/// How far `durable` may be acknowledged.
pub(super) fn acknowledgeable(durable: DurableLsn, holds: &[Hold]) -> DurableLsn {
    let open = holds.iter().filter(|hold| hold.until.is_none_or(|until| durable.lsn() < until));
    open.map(|hold| hold.from).min().map_or(durable, |from| durable.at_most(from))
}

/// Whom the spool tells what.
pub(super) struct Outlets {
    pub(super) whole: mpsc::Sender<OrderedBatch>,
    /// Who encodes rows of what has not ended.
    pub(super) early: mpsc::Sender<EarlyWork>,
    pub(super) holds: watch::Sender<Vec<Hold>>,
    /// Who looks at what has not ended.
    pub(super) onlooker: Onlooker,
}

/// See the module's documentation.
pub(super) struct Spool {
    outlets: Outlets,
    /// Everything below is in the archive.
    resume: Lsn,
    /// What of that comes again.
    resent: Resent,
    /// The source has sent everything below.
    arrived: bool,
    /// Bytes of unfinished transactions in memory, at most.
    memory: usize,
    directory: PathBuf,
    terms: Terms,
    /// This session has whole transactions only, up to here.
    whole_up_to: Option<Lsn>,
    durable: watch::Receiver<DurableLsn>,
    transactions: BTreeMap<Xid, Spooled>,
    /// The transaction whose messages come now.
    open: Option<Open>,
    /// Where the transaction that comes now was committed, and its number, if it is in the archive.
    skipping: Option<(Lsn, Xid)>,
    /// Names of relations that unfinished transactions changed.
    names: HashMap<u32, TableName>,
    /// What the source said of relations, and the next stage has not been told: it may never have to, since what was said
    /// may have been rolled back, or not hold any more.
    untold: HashMap<u32, Bytes>,
    batch: OrderedBatch,
}

/// How the messages of the transaction that comes now look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// With the number of the subtransaction.
    Streamed(Xid),
    /// As in a whole transaction.
    Preparing(Xid),
}

#[derive(Debug, Default)]
struct Spooled {
    content: InProgress,
    file: Option<Arc<File>>,
    prepared: bool,
    early: Early,
}

/// Whether a transaction's rows are being encoded while it runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Early {
    #[default]
    No,
    /// As soon as there is a piece of it.
    Wanted,
    Begun,
}

impl Spool {
    pub(super) fn new(
        outlets: Outlets,
        settings: &CaptureSettings,
        terms: Terms,
        resume: Lsn,
        resent: Resent,
        durable: watch::Receiver<DurableLsn>,
    ) -> Spool {
        Spool {
            outlets,
            resume,
            resent,
            arrived: false,
            memory: settings.memory_in_progress(),
            directory: settings.spill_directory.clone(),
            whole_up_to: Some(terms.whole_up_to()).filter(|lsn| *lsn > resume),
            terms,
            durable,
            transactions: BTreeMap::new(),
            open: None,
            skipping: None,
            names: HashMap::new(),
            untold: HashMap::new(),
            batch: OrderedBatch::new(),
        }
    }

    /// Works until the source's stream ends or the next stage hangs up.
    ///
    /// # Errors
    /// Transient where there is no room for what does not fit into memory; refused where what comes again is not what the
    /// archive has.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<EventBatch>) -> Result<()> {
        loop {
            let batch = tokio::select! {
                biased;
                () = self.outlets.whole.closed() => None,
                batch = events.recv() => batch,
            };
            let Some(batch) = batch else { break };
            for event in batch {
                match event {
                    StreamEvent::WalData { start, body, .. } => {
                        self.arrived_at(start);
                        self.message(body).await?;
                    }
                    StreamEvent::Keepalive { end, sent, .. } => {
                        self.arrived_at(end);
                        self.batch.push(Ordered::Idle { end, sent });
                    }
                    StreamEvent::Notice(text) => self.batch.push(Ordered::Notice(text)),
                }
            }
            self.show();
            self.show_rows();
            self.spill().await?;
            if self.whole_up_to.is_some_and(|lsn| self.durable.borrow().lsn() >= lsn) {
                return Err(self.terms.want_whole_up_to(Lsn::ZERO, "transactions can come in parts again"));
            }
            if !self.hand_on().await {
                break;
            }
        }
        // Nobody is in progress any more for whoever looks.
        self.outlets.onlooker.running.send_replace(Running::default());
        Ok(())
    }

    /// False where nobody wants more.
    async fn hand_on(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.outlets.whole.send(batch).await.is_ok()
    }

    async fn message(&mut self, body: Bytes) -> Result<()> {
        if let Some(control) = pgoutput::control(&body).map_err(malformed)? {
            return self.control(control).await;
        }
        match self.open {
            None => self.whole(body)?,
            Some(Open::Streamed(xid)) => {
                let (subxid, kind, rest) = pgoutput::streamed(&body).map_err(malformed)?;
                self.keep(xid, subxid, kind, rest).await;
            }
            Some(Open::Preparing(xid)) => {
                // The source takes it for told to this session, whatever becomes of the transaction.
                self.note_relation(&body);
                if let Some((kind, rest)) = body.split_first() {
                    self.keep(xid, xid, *kind, rest).await;
                }
            }
        }
        Ok(())
    }

    /// A message of a transaction that comes whole, or of none.
    fn whole(&mut self, body: Bytes) -> Result<()> {
        match body.first() {
            Some(b'B') => {
                self.skipping = match pgoutput::decode(&body) {
                    Ok(Message::Begin { commit_lsn, xid, .. }) if commit_lsn < self.resume => Some((commit_lsn, xid)),
                    _ => None,
                };
            }
            Some(b'C') if self.skipping.is_some() => {
                self.skipping = None;
                return Ok(());
            }
            _ => {}
        }
        if let Some((commit, xid)) = self.skipping {
            // One without rows comes in parts or not at all.
            if matches!(body.first(), Some(b'I' | b'U' | b'D' | b'T')) {
                self.resent.require(commit, xid)?;
            }
            self.note_relation(&body);
        } else {
            self.pass(body);
        }
        Ok(())
    }

    /// Keeps a description, which the source takes for told, until it is needed. False where it is another message.
    fn note_relation(&mut self, message: &[u8]) -> bool {
        let Some(oid) = pgoutput::described(message) else { return false };
        // A copy, since a message shares the memory of all that arrived with it.
        self.untold.insert(oid, Bytes::copy_from_slice(message));
        true
    }

    async fn keep(&mut self, xid: Xid, subxid: Xid, kind: u8, rest: &[u8]) {
        if kind == b'R' {
            self.name(rest);
        }
        let transaction = self.transactions.entry(xid).or_default();
        if let Some(piece) = transaction.content.push(subxid, kind, rest) {
            transaction.completed(xid, piece, &self.outlets).await;
        }
    }

    /// Shows the records that came last to whoever wants to see rows, however few they are.
    fn show_rows(&mut self) {
        if !self.outlets.onlooker.wants_rows() {
            return;
        }
        for (xid, transaction) in &mut self.transactions {
            for records in transaction.content.look() {
                self.outlets.onlooker.show(Glimpse::Rows { xid: *xid, records });
            }
        }
    }

    /// Has a transaction's records read once more when it commits, if it does.
    async fn drop_early(&mut self, xid: Xid) {
        let early = self.transactions.get_mut(&xid).map(|transaction| std::mem::take(&mut transaction.early));
        if early == Some(Early::Begun) {
            ask(&self.outlets.early, EarlyWork::Drop { xid }).await;
        }
    }

    fn name(&mut self, rest: &[u8]) {
        let message = [b"R", rest].concat();
        if let Ok(Message::Relation(relation)) = pgoutput::decode(&message) {
            self.names.insert(relation.oid, TableName::new(relation.schema, relation.name));
        }
    }

    /// Hands a message on. What it needs to be understood goes before it.
    fn pass(&mut self, body: Bytes) {
        if let Some((kind, rest)) = body.split_first()
            && !self.untold.is_empty()
        {
            if let Some(oid) = pgoutput::described(&body) {
                self.untold.remove(&oid);
            }
            let (untold, batch) = (&mut self.untold, &mut self.batch);
            pgoutput::changed(*kind, rest, |oid, _| batch.extend(untold.remove(&oid).map(Ordered::Message)));
        }
        self.batch.push(Ordered::Message(body));
    }

    async fn control(&mut self, control: Control<'_>) -> Result<()> {
        match control {
            Control::StreamStart { xid } => {
                self.open = Some(Open::Streamed(xid));
                if !self.transactions.contains_key(&xid) {
                    let others = self.transactions.values().filter(|other| other.early != Early::No).count();
                    let early = if others < early::TRANSACTIONS { Early::Wanted } else { Early::No };
                    let mut transaction = Spooled { early, ..Spooled::default() };
                    if self.outlets.onlooker.wants_rows() {
                        transaction.content.watch();
                    }
                    self.transactions.insert(xid, transaction);
                }
            }
            Control::StreamStop | Control::Prepare { .. } => {
                if let Some(Open::Preparing(xid)) = self.open.take()
                    && let Some(transaction) = self.transactions.get_mut(&xid)
                {
                    transaction.prepared = true;
                }
            }
            Control::StreamAbort { xid, subxid } if xid == subxid => {
                self.drop_early(xid).await;
                self.transactions.remove(&xid);
                self.outlets.onlooker.show(Glimpse::RolledBack { xid });
            }
            Control::StreamAbort { xid, subxid } => {
                if let Some(transaction) = self.transactions.get_mut(&xid)
                    && transaction.content.abort(subxid)
                {
                    self.drop_early(xid).await;
                }
            }
            Control::BeginPrepare { prepare_lsn, xid } => {
                self.hold(xid, prepare_lsn);
                self.drop_early(xid).await;
                self.open = Some(Open::Preparing(xid));
                // What came of it in parts before is what it was then.
                self.transactions.insert(xid, Spooled::default());
            }
            Control::StreamPrepare { prepare_lsn, xid } => {
                self.hold(xid, prepare_lsn);
                self.transactions.entry(xid).or_default().prepared = true;
                // It may stay so for days, in which others have more use for what it takes.
                self.drop_early(xid).await;
            }
            Control::StreamCommit(end) => self.commit(end).await?,
            Control::CommitPrepared { end, gid } => {
                if !self.transactions.contains_key(&end.xid) && end.commit_lsn >= self.resume {
                    return Err(Failure::failed(format!(
                        "the source committed the prepared transaction {gid:?} without having sent it"
                    )));
                }
                self.commit(end).await?;
                self.release(end);
            }
            Control::RollbackPrepared { xid } => {
                self.drop_early(xid).await;
                self.transactions.remove(&xid);
                self.outlets.onlooker.show(Glimpse::RolledBack { xid });
                self.outlets.holds.send_modify(|holds| holds.retain(|hold| hold.xid != xid || hold.until.is_some()));
            }
        }
        Ok(())
    }

    /// Ends the first hold when the source has sent everything that is in the archive, and so all that was prepared before.
    fn arrived_at(&mut self, lsn: Lsn) {
        if !self.arrived && lsn >= self.resume {
            self.arrived = true;
            self.outlets.holds.send_modify(|holds| holds.retain(|hold| !hold.is_first()));
        }
    }

    fn hold(&mut self, xid: Xid, from: Lsn) {
        let durable = self.durable.borrow().lsn();
        self.outlets.holds.send_modify(|holds| {
            holds.retain(|hold| hold.until.is_none_or(|until| durable < until));
            holds.push(Hold { xid, from, until: None });
        });
    }

    fn release(&mut self, end: End) {
        self.outlets.holds.send_modify(|holds| {
            for hold in holds.iter_mut().filter(|hold| hold.xid == end.xid && hold.until.is_none()) {
                hold.until = Some(end.end_lsn);
            }
        });
    }

    /// Hands a whole transaction on, without what was rolled back.
    async fn commit(&mut self, end: End) -> Result<()> {
        let Some(mut transaction) = self.transactions.remove(&end.xid) else { return Ok(()) };
        if transaction.content.is_doubtful() && end.commit_lsn >= self.resume {
            let why = "what of a transaction was rolled back is known only to the source";
            return Err(self.terms.want_whole_up_to(end.end_lsn, why));
        }
        let (begin, commit) = pgoutput::bounds(&end);
        self.whole(Bytes::copy_from_slice(&begin))?;
        if transaction.early == Early::Begun && self.pass_encoded(end, &mut transaction.content).await {
            return self.whole(Bytes::copy_from_slice(&commit));
        }
        transaction.content.complete();
        let memory = transaction.content.take();
        let mut records = Records::default();
        if let Some(file) = &transaction.file {
            rewind(file).map_err(|error| self.unreadable(&error))?;
            while let Some(piece) = read(file).await.map_err(|error| self.unreadable(&error))? {
                records.add(piece);
                if !self.pass_records(&mut records, &transaction.content).await? {
                    return Ok(());
                }
            }
        }
        for piece in memory {
            records.add(piece);
            if !self.pass_records(&mut records, &transaction.content).await? {
                return Ok(());
            }
        }
        if !records.is_empty() {
            return Err(Failure::failed(format!("what was kept of transaction {} is not whole", end.xid)));
        }
        self.whole(Bytes::copy_from_slice(&commit))
    }

    /// Hands a transaction on as it was encoded while it ran. False where it was not, or is not taken so.
    async fn pass_encoded(&mut self, end: End, content: &mut InProgress) -> bool {
        let xid = end.xid;
        if end.commit_lsn < self.resume {
            ask(&self.outlets.early, EarlyWork::Drop { xid }).await;
            return false;
        }
        if let Some(piece) = content.complete() {
            ask(&self.outlets.early, EarlyWork::Piece { xid, piece }).await;
        }
        let (reply, encoded) = oneshot::channel();
        ask(&self.outlets.early, EarlyWork::End { xid, reply }).await;
        let Ok(Some(transaction)) = encoded.await else { return false };
        if !transaction.has_all(content.counts()) {
            tracing::warn!("transaction {xid} is read once more: not all of it was encoded");
            return false;
        }
        for table in &transaction.tables {
            self.pass(table.described.clone());
        }
        let (taken, answer) = oneshot::channel();
        self.batch.push(Ordered::Encoded { transaction, taken });
        self.hand_on().await && answer.await.unwrap_or(false)
    }

    /// False where nobody wants more.
    async fn pass_records(&mut self, records: &mut Records, transaction: &InProgress) -> Result<bool> {
        for (subxid, message) in records {
            // A description counts even if the subtransaction that needed it was rolled back.
            if !self.note_relation(&message) && !transaction.is_void(subxid) {
                self.whole(message)?;
            }
            if self.batch.len() >= BATCH_EVENTS && !self.hand_on().await {
                return Ok(false);
            }
        }
        Ok(self.hand_on().await)
    }

    /// Moves the largest transactions into files until the rest fits.
    async fn spill(&mut self) -> Result<()> {
        let mut held: usize = self.transactions.values().map(|transaction| transaction.content.memory()).sum();
        while held > self.memory {
            let largest = self.transactions.iter_mut().max_by_key(|(_, transaction)| transaction.content.memory());
            let Some((xid, largest)) = largest else { break };
            held -= largest.content.memory();
            if let Some(piece) = largest.content.complete() {
                largest.completed(*xid, piece, &self.outlets).await;
            }
            let written = largest.write(&self.directory).await;
            written.map_err(|error| self.no_room(&error))?;
        }
        Ok(())
    }

    fn no_room(&self, error: &std::io::Error) -> Failure {
        let spilled: u64 = self.transactions.values().map(|transaction| transaction.content.taken()).sum();
        Failure::transient(format!(
            "unfinished transactions do not fit into {}, which holds {spilled} bytes of them: {error}",
            self.directory.display()
        ))
        .remedy(
            "make room there, or name another directory with --spill-directory; it is tried again from the watermark",
        )
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::transient(format!("reading from {}: {error}", self.directory.display()))
            .remedy("the source sends the transaction again")
    }

    /// Shows what is in progress to whoever looks.
    fn show(&self) {
        if self.transactions.is_empty() && self.outlets.onlooker.running.borrow().is_empty() {
            return;
        }
        let shown = self.transactions.iter().map(|(xid, transaction)| {
            let named = |(oid, counts)| self.names.get(&oid).map(|name| (name.clone(), counts));
            RunningTransaction {
                xid: *xid,
                tables: transaction.content.counts().filter_map(named).collect(),
                prepared: transaction.prepared,
                spilled: transaction.content.taken(),
            }
        });
        self.outlets.onlooker.running.send_replace(shown.collect());
    }
}

impl Spooled {
    /// Hands a look at a complete piece of the records to whoever encodes them early.
    async fn completed(&mut self, xid: Xid, piece: Bytes, outlets: &Outlets) {
        if self.early != Early::No {
            self.early = Early::Begun;
            ask(&outlets.early, EarlyWork::Piece { xid, piece }).await;
        }
    }

    async fn write(&mut self, directory: &Path) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(tempfile::tempfile_in(directory)?))),
        };
        let pieces = self.content.take();
        spawn_blocking(move || pieces.iter().try_for_each(|piece| (&*file).write_all(piece))).await?
    }
}

async fn ask(early: &mpsc::Sender<EarlyWork>, work: EarlyWork) {
    // Whoever encodes ends only with the session.
    let _ = early.send(work).await;
}

fn rewind(file: &Arc<File>) -> std::io::Result<()> {
    (&**file).rewind()
}

/// The next piece of a file; `None` at its end.
async fn read(file: &Arc<File>) -> std::io::Result<Option<Bytes>> {
    let file = Arc::clone(file);
    spawn_blocking(move || {
        let mut piece = BytesMut::zeroed(PIECE);
        let read = (&*file).read(&mut piece)?;
        piece.truncate(read);
        Ok((read > 0).then(|| piece.freeze()))
    })
    .await?
}

fn malformed(error: DecodeError) -> Failure {
    Failure::failed(format!("the source's stream: {error}"))
}
