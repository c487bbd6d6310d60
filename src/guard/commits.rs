//! What was committed, judged as it becomes durable.
//!
//! The archiver hands over what rules may be about ([`Entrance`]) and never waits. What it could not hand over, and what was
//! committed while no guard was there, is read from the archive: how far was judged is noted there, so that nothing escapes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::counter::{Counter, of_definition};
use super::finding::{gap_alert, later, undo};
use super::ledger::Entry;
use super::raised::RaisedInFlight;
use super::settings::Settings;
use crate::archive::Publication;
use crate::failure::Result;
use crate::model::{AlertEvent, AlertRecord, DdlRecord, GapRecord, Lsn, Partitions, TableName, Transaction};

/// How often it is noted how far was judged, where there are no alerts.
const NOTED_EVERY: Duration = Duration::from_secs(300);

/// Transactions that may concern rules, and up to where there are no others.
#[derive(Debug)]
pub(super) struct Committed {
    end: Lsn,
    transactions: Vec<Transaction>,
    ddl: Vec<DdlRecord>,
    gaps: Vec<GapRecord>,
}

/// For the rules and the partitions that there are, which tables are watched.
#[derive(Debug)]
struct KnownTables {
    settings: Arc<Settings>,
    partitions: Arc<Partitions>,
    watched: HashMap<TableName, bool>,
}

/// Where the archiver hands over what became durable.
#[derive(Debug)]
pub struct Entrance {
    settings: watch::Receiver<Arc<Settings>>,
    sender: mpsc::Sender<Committed>,
    /// From where on something could not be handed over; 0 where nothing.
    missed: Arc<AtomicU64>,
    partitions: watch::Sender<Arc<Partitions>>,
    tables: Mutex<KnownTables>,
}

impl Entrance {
    pub(super) fn new(
        settings: watch::Receiver<Arc<Settings>>,
        sender: mpsc::Sender<Committed>,
        missed: Arc<AtomicU64>,
        partitions: watch::Sender<Arc<Partitions>>,
    ) -> Entrance {
        let known = (Arc::clone(&settings.borrow()), Arc::clone(&partitions.borrow()));
        let tables = Mutex::new(KnownTables { settings: known.0, partitions: known.1, watched: HashMap::new() });
        Entrance { settings, sender, missed, partitions, tables }
    }

    /// Takes note of what has become durable. Never waits.
    pub fn published(&self, publication: &Publication) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !publication.relations.is_empty() {
            Arc::make_mut(&mut tables.partitions).note(publication.relations.iter().map(|record| &record.relation));
            self.partitions.send_replace(Arc::clone(&tables.partitions));
            tables.watched.clear();
        }
        let settings = Arc::clone(&self.settings.borrow());
        if !Arc::ptr_eq(&tables.settings, &settings) {
            tables.settings = settings;
            tables.watched.clear();
        }
        let KnownTables { settings, partitions, watched } = &mut *tables;
        let mut is_watched = |table: &TableName| match watched.get(table) {
            Some(known) => *known,
            None => {
                let found = settings.rules.iter().any(|rule| rule.watches(table, partitions));
                watched.insert(table.clone(), found);
                found
            }
        };
        let mut concern = |transaction: &&Transaction| transaction.tables.keys().any(&mut is_watched);
        let committed = Committed {
            end: publication.end,
            transactions: publication.transactions.iter().filter(&mut concern).cloned().collect(),
            ddl: publication.ddl.clone(),
            gaps: publication.gaps.clone(),
        };
        let first = publication.transactions.first().map_or(publication.end, |first| first.commit.lsn);
        if self.sender.try_send(committed).is_err() {
            let _ = self.missed.compare_exchange(0, first.0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// See the module's documentation.
pub(super) struct Commits {
    pub(super) counter: Counter,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) partitions: watch::Receiver<Arc<Partitions>>,
    pub(super) raised: RaisedInFlight,
    pub(super) ledger: mpsc::Sender<Entry>,
    pub(super) missed: Arc<AtomicU64>,
    /// Everything below was judged.
    pub(super) judged: Lsn,
}

impl Commits {
    /// Works until the archiver hangs up.
    pub(super) async fn run(mut self, mut published: mpsc::Receiver<Committed>) {
        let mut noted = Instant::now();
        if let Ok(watermark) = self.counter.judge.archive.watermark().await {
            self.catch_up(watermark.lsn).await;
        }
        while let Some(committed) = published.recv().await {
            if self.missed.swap(0, Ordering::SeqCst) != 0 {
                self.catch_up(committed.end).await;
            } else {
                self.judge(committed).await;
            }
            if noted.elapsed() >= NOTED_EVERY {
                noted = Instant::now();
                self.tell(Entry::Judged(self.judged)).await;
            }
        }
        self.tell(Entry::Judged(self.judged)).await;
    }

    /// Judges what the archive has beyond what was judged.
    async fn catch_up(&mut self, end: Lsn) {
        let from = self.judged;
        if from >= end {
            return;
        }
        let read = async |archive: &crate::archive::Archive| -> Result<Committed> {
            let mut transactions = archive.transactions(end).await?;
            transactions.retain(|one| one.commit.lsn >= from);
            let mut ddl = archive.ddl(end).await?;
            ddl.retain(|record| record.position.lsn >= from);
            let mut gaps = archive.gaps(end).await?;
            gaps.retain(|gap| gap.commit_lsn() >= from);
            Ok(Committed { end, transactions, ddl, gaps })
        };
        loop {
            match read(&self.counter.judge.archive).await {
                Ok(committed) => return self.judge(committed).await,
                Err(failure) => tracing::warn!("what was committed since {from} is judged later: {failure}"),
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    async fn judge(&mut self, mut committed: Committed) {
        committed.transactions.retain(|one| one.commit.lsn >= self.judged);
        committed.ddl.retain(|record| record.position.lsn >= self.judged);
        committed.gaps.retain(|gap| gap.commit_lsn() >= self.judged);
        let settings = Arc::clone(&self.settings.borrow_and_update());
        self.counter.keep_only(&settings.rules);
        self.counter.partitions = Arc::clone(&self.partitions.borrow());
        // From here on nothing is raised about them as if they were running.
        let raised: Vec<Vec<AlertRecord>> =
            committed.transactions.iter().map(|one| self.raised.end(one.commit.xid)).collect();
        let mut any = !committed.gaps.is_empty();
        for gap in &committed.gaps {
            self.tell(Entry::Alert(Box::new(gap_alert(gap)))).await;
        }
        for rule in &settings.rules {
            let untold = |alerts: &[AlertRecord]| alerts.iter().all(|alert| alert.rule != rule.name);
            let all = committed.transactions.iter().zip(&raised);
            let transactions: Vec<&Transaction> =
                all.filter(|(_, alerts)| untold(alerts)).map(|(transaction, _)| transaction).collect();
            let mut found = loop {
                match self.counter.count(rule, &transactions).await {
                    Ok(found) => break found,
                    Err(failure) => tracing::warn!("the rule {} is judged later: {failure}", rule.name),
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            };
            found.extend(
                committed.ddl.iter().filter_map(|record| of_definition(rule, record, &self.counter.partitions)),
            );
            any |= !found.is_empty();
            for finding in found {
                self.tell(Entry::Alert(Box::new(finding.alert(rule)))).await;
            }
        }
        for (transaction, alerts) in committed.transactions.iter().zip(&raised) {
            for alert in alerts {
                any = true;
                self.tell(Entry::Alert(Box::new(committed_after_all(alert, transaction)))).await;
            }
        }
        self.judged = self.judged.max(committed.end);
        if any {
            self.tell(Entry::Judged(self.judged)).await;
        }
    }

    async fn tell(&self, entry: Entry) {
        // The ledger ends last.
        let _ = self.ledger.send(entry).await;
    }
}

/// An alert about a transaction in progress that was not stopped.
fn committed_after_all(alert: &AlertRecord, transaction: &Transaction) -> AlertRecord {
    let commit = &transaction.commit;
    let rows =
        transaction.tables.iter().filter(|(table, _)| alert.table.split(", ").any(|one| one == table.to_string()));
    let rows: u64 = rows.map(|(_, counts)| counts.total()).sum();
    let message =
        format!("transaction {} has committed at {}, with {rows} changes of {}", commit.xid, commit.lsn, alert.table);
    AlertRecord {
        lsn: Some(commit.lsn),
        rows,
        command: Some(undo(commit.lsn)),
        context: transaction.context.clone().or_else(|| alert.context.clone()),
        ..later(alert, AlertEvent::Committed, message)
    }
}
