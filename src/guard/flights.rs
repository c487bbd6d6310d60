//! Transactions that have not ended.
//!
//! Counts tell at once whether a rule without a condition is met; the transaction is stopped before anything else is done.
//! For the others the rows are judged as they come, more at a time the longer it takes, so that looking into the archive
//! does not become the work. What was left out because the guard was behind is judged when it has committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::finding::{Finding, later};
use super::judge::{Judge, Judged, Left};
use super::ledger::Entry;
use super::raised::RaisedInFlight;
use super::rows::{ChangedRow, FlightReader, FlightRows};
use super::rule::{Action, Rule};
use super::settings::Settings;
use super::sizes::Sizes;
use super::stopping::{Stopped, Stopper};
use super::window::is_enough;
use crate::failure::Result;
use crate::history::{Key, KeySet};
use crate::model::{AlertEvent, AlertRecord, OperationCounts, Partitions, RelationVersion, TableName, Xid};
use crate::postgres::Source;
use crate::transaction::{Glimpse, GlimpseReceiver, Running};

/// Rows of one table that wait to be judged, at most.
const MOST_ROWS: usize = 50_000;
/// Rows that are kept to be shown where no rule judges them.
const SHOWN_ROWS: usize = 1000;
/// How often what waits is looked at though nothing comes.
const LOOKS: Duration = Duration::from_millis(250);
/// How long the first rows of a transaction may take to come after its counts.
const ROWS_ARRIVE: Duration = Duration::from_millis(200);
/// How long after one attempt a transaction is told to stop again.
const STOP_AGAIN: Duration = Duration::from_millis(250);

/// See the module's documentation.
pub(super) struct Flights {
    pub(super) judge: Judge,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    partitions: watch::Receiver<Arc<Partitions>>,
    pub(super) stopper: Option<Stopper>,
    pub(super) sizes: Sizes,
    pub(super) raised: RaisedInFlight,
    pub(super) ledger: mpsc::Sender<Entry>,
    /// Bytes that rows of all may take which wait to be judged, and as many the keys of those that were deleted.
    memory: usize,
    flights: HashMap<Xid, Flight>,
    known: HashMap<u32, RelationVersion>,
}

/// One transaction in progress.
struct Flight {
    seen: Instant,
    tables: Vec<(TableName, OperationCounts)>,
    reader: FlightReader,
    /// Rows that could not be judged yet, with the bytes that they take.
    unjudged: Vec<(RelationVersion, Vec<ChangedRow>, usize)>,
    /// What rules that judge rows have found so far.
    judged: HashMap<String, Judged>,
    /// Rows that were judged, of all tables.
    looked_at: usize,
    /// Keys that were deleted, for rules that ask what is left, with the bytes that they take. Beyond their memory such a
    /// rule waits for the commit.
    gone: KeySet,
    gone_bytes: usize,
    fired: HashSet<String>,
    stopping: Option<(Rule, AlertRecord, Instant)>,
}

impl Flight {
    /// One about which an earlier guard may have raised alerts: those are not raised again, but it is stopped again.
    fn new(raised: Vec<AlertRecord>, rules: &[Rule]) -> Flight {
        let stopping = raised.iter().find_map(|alert| {
            let rule = rules.iter().find(|rule| rule.name == alert.rule && rule.action != Action::Alert)?;
            Some((rule.clone(), alert.clone(), Instant::now()))
        });
        Flight {
            seen: Instant::now(),
            tables: Vec::new(),
            reader: FlightReader::default(),
            unjudged: Vec::new(),
            judged: HashMap::new(),
            looked_at: 0,
            gone: KeySet::new(),
            gone_bytes: 0,
            fired: raised.into_iter().map(|alert| alert.rule).collect(),
            stopping,
        }
    }

    /// Whether it has been seen just now, and none of its rows yet.
    fn awaits_rows(&self) -> bool {
        let none = self.looked_at == 0 && self.unjudged.is_empty();
        none && self.reader.tables.values().all(|rows| rows.len() == 0) && self.seen.elapsed() < ROWS_ARRIVE
    }

    /// Bytes of rows that wait to be judged.
    fn memory(&self) -> usize {
        let unread: usize = self.reader.tables.values().map(FlightRows::memory).sum();
        unread + self.unjudged.iter().map(|(.., bytes)| bytes).sum::<usize>()
    }
}

impl Flights {
    pub(super) fn new(
        judge: Judge,
        settings: watch::Receiver<Arc<Settings>>,
        partitions: watch::Receiver<Arc<Partitions>>,
        source: &Source,
        raised: RaisedInFlight,
        ledger: mpsc::Sender<Entry>,
        memory: usize,
    ) -> Flights {
        let (flights, known) = (HashMap::new(), HashMap::new());
        let (stopper, sizes) = (Some(Stopper::new(source)), Sizes::new(Some(source)));
        Flights { judge, settings, partitions, stopper, sizes, raised, ledger, memory, flights, known }
    }

    /// Works until nothing is shown any more.
    pub(super) async fn run(mut self, mut glimpses: GlimpseReceiver, mut running: watch::Receiver<Running>) {
        let mut looks = tokio::time::interval(LOOKS);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            let idle = tokio::select! {
                // Counts come first: they are enough to stop most of what must be stopped.
                biased;
                changed = running.changed() => {
                    if changed.is_err() { return }
                    false
                }
                received = glimpses.next(16) => {
                    if received.is_empty() { return }
                    batch = received;
                    false
                }
                _ = looks.tick() => true,
            };
            batch.extend(glimpses.waiting(16 - batch.len()));
            let now = Running::clone(&running.borrow_and_update());
            self.note(&now);
            self.judge_counts(|action| action != Action::Alert).await;
            for glimpse in batch {
                self.glimpse(glimpse).await;
            }
            self.judge_counts(|_| true).await;
            self.judge_rows(idle).await;
            self.stop_again().await;
        }
    }

    fn note(&mut self, running: &Running) {
        let runs = |xid: Xid| running.iter().any(|one| one.xid == xid);
        self.flights.retain(|xid, _| runs(*xid));
        self.raised.forget_ended(runs);
        for one in running.iter() {
            let settings = &self.settings;
            let raised = &self.raised;
            let flight = self
                .flights
                .entry(one.xid)
                .or_insert_with(|| Flight::new(raised.about(one.xid), &settings.borrow().rules));
            flight.tables.clone_from(&one.tables);
        }
    }

    /// Raises what counts alone tell, by rules whose action is among these. An alarm that stops nothing waits a moment for
    /// the first rows, which are on their way: they say whom it concerns.
    async fn judge_counts(&mut self, among: impl Fn(Action) -> bool) {
        let settings = Arc::clone(&self.settings.borrow());
        let xids: Vec<Xid> = self.flights.keys().copied().collect();
        for xid in xids {
            for rule in settings.rules.iter().filter(|rule| !rule.needs_rows() && among(rule.action)) {
                let awaited = self.flights.get(&xid).is_some_and(Flight::awaits_rows);
                if awaited && rule.action == Action::Alert {
                    continue;
                }
                let Some(met) = self.counted(xid, rule).await else { continue };
                self.fire(xid, rule, met, None).await;
            }
        }
    }

    /// What a transaction did that a rule counts, where that is enough for it.
    async fn counted(&mut self, xid: Xid, rule: &Rule) -> Option<Met> {
        let flight = self.flights.get(&xid).filter(|flight| !flight.fired.contains(&rule.name))?;
        let partitions = Arc::clone(&self.partitions.borrow());
        let mut met = Met::default();
        for (table, counts) in flight.tables.iter().filter(|(table, _)| rule.watches(table, &partitions)) {
            let rows = rule.candidates(counts);
            met.truncated |= rule.is_met_by_truncation(counts);
            if rows > 0 {
                met.rows += rows;
                met.tables.push(table.clone());
            }
        }
        let mut size = None;
        if rule.share.is_some() {
            for table in &met.tables {
                size = Some(size.unwrap_or(0.0) + self.sizes.of(table).await?);
            }
        }
        (met.truncated || is_enough(rule, met.rows, size)).then_some(met)
    }

    async fn glimpse(&mut self, glimpse: Glimpse) {
        match glimpse {
            Glimpse::RolledBack { xid } => {
                self.flights.remove(&xid);
                for alert in self.raised.end(xid) {
                    let message = format!("transaction {xid} was rolled back: {}", alert.message);
                    self.tell(later(&alert, AlertEvent::RolledBack, message)).await;
                }
            }
            Glimpse::Rows { xid, records } => {
                if let Err(failure) = self.read(xid, records).await {
                    tracing::warn!("rows of transaction {xid} are judged when it has committed: {failure}");
                }
            }
        }
    }

    async fn read(&mut self, xid: Xid, records: bytes::Bytes) -> Result<()> {
        let settings = Arc::clone(&self.settings.borrow());
        if self.flights.get(&xid).is_some_and(|flight| flight.reader.tables.is_empty()) {
            let mut known = HashMap::new();
            for record in self.judge.archive.relations().await?.iter() {
                known.insert(record.relation.oid, record.relation.clone());
            }
            self.known = known;
        }
        let partitions = Arc::clone(&self.partitions.borrow());
        let full = self.flights.values().map(Flight::memory).sum::<usize>() >= self.memory;
        let Some(flight) = self.flights.get_mut(&xid) else { return Ok(()) };
        let fired = &flight.fired;
        let wanted = |relation: &RelationVersion, rows: usize| {
            let mut watching =
                settings.rules.iter().filter(|rule| rule.watches(&relation.name, &partitions)).peekable();
            let judged = watching.peek().is_some();
            let waiting = watching.any(|rule| rule.needs_rows() && !fired.contains(&rule.name));
            judged && !full && rows < if waiting { MOST_ROWS } else { SHOWN_ROWS }
        };
        flight.reader.read(records, &self.known, wanted)
    }

    /// Judges rows that wait, where they are many enough, or nothing else is to do.
    async fn judge_rows(&mut self, idle: bool) {
        let settings = Arc::clone(&self.settings.borrow());
        let rules: Vec<&Rule> = settings.rules.iter().filter(|rule| rule.needs_rows()).collect();
        if rules.is_empty() {
            return;
        }
        let xids: Vec<Xid> = self.flights.keys().copied().collect();
        for xid in xids {
            let mut due = false;
            for rule in &rules {
                due |= self.counted(xid, rule).await.is_some();
            }
            let Some(flight) = self.flights.get(&xid).filter(|_| due) else { continue };
            let unread: usize = flight.reader.tables.values().map(FlightRows::len).sum();
            let waiting = unread + flight.unjudged.iter().map(|(_, rows, _)| rows.len()).sum::<usize>();
            if waiting == 0 || !idle && waiting < flight.looked_at / 2 {
                continue;
            }
            if let Err(failure) = self.judge_waiting(xid, &settings).await {
                tracing::warn!("rows of transaction {xid} are judged later: {failure}");
                continue;
            }
            for rule in &rules {
                let Some(mut met) = self.counted(xid, rule).await else { continue };
                let Some(judged) = self.flights.get(&xid).and_then(|flight| flight.judged.get(&rule.name)) else {
                    continue;
                };
                let tenants = rule.tenants.is_none_or(|least| judged.tenants.len() as u64 >= least);
                // What share of the table it is, is known of a whole transaction only.
                let enough = rule.share.is_none() && is_enough(rule, judged.matched, None);
                if met.truncated || enough && tenants {
                    let judged = judged.clone();
                    met.rows = judged.matched;
                    self.fire(xid, rule, met, Some(judged)).await;
                }
            }
        }
    }

    /// Judges the rows of a transaction that wait, by all rules that watch their tables.
    async fn judge_waiting(&mut self, xid: Xid, settings: &Settings) -> Result<()> {
        let partitions = Arc::clone(&self.partitions.borrow());
        let Some(flight) = self.flights.get_mut(&xid) else { return Ok(()) };
        let mut waiting = std::mem::take(&mut flight.unjudged);
        for table in flight.reader.tables.values_mut().filter(|table| table.len() > 0) {
            let rows = table.take()?;
            let bytes = rows.iter().map(ChangedRow::memory).sum();
            waiting.push((table.relation.clone(), rows, bytes));
        }
        while let Some((relation, rows, bytes)) = waiting.pop() {
            let watches = |rule: &&Rule| rule.watches(&relation.name, &partitions);
            let mut watching: Vec<&Rule> = settings.rules.iter().filter(watches).collect();
            if watching.iter().any(|rule| !rule.last_of.is_empty()) {
                for row in rows.iter().filter(|row| row.new.is_none()) {
                    if flight.gone_bytes < self.memory {
                        flight.gone_bytes += size_of::<Key>() + row.key.len();
                        flight.gone.insert(row.key.clone());
                    }
                }
                watching.retain(|rule| rule.last_of.is_empty() || flight.gone_bytes < self.memory);
            }
            match judge_all(&self.judge, &watching, &relation, &rows, &flight.gone).await {
                Ok(found) => {
                    flight.looked_at += rows.len();
                    for (rule, judged) in watching.iter().zip(found) {
                        flight.judged.entry(rule.name.clone()).or_default().add(judged);
                    }
                }
                Err(failure) => {
                    // The archive may answer the next time.
                    waiting.push((relation, rows, bytes));
                    flight.unjudged = waiting;
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Stops the transaction where the rule says so, then raises the alert.
    async fn fire(&mut self, xid: Xid, rule: &Rule, met: Met, judged: Option<Judged>) {
        let (backend, stopped) = match &mut self.stopper {
            Some(stopper) if rule.action != Action::Alert => {
                let (backend, stopped) = stopper.stop(xid, rule).await;
                (backend, Some(stopped))
            }
            Some(stopper) => (stopper.find(xid).await.ok().flatten(), None),
            None => (None, None),
        };
        let settings = Arc::clone(&self.settings.borrow());
        if judged.is_none()
            && let Err(failure) = self.judge_waiting(xid, &settings).await
        {
            tracing::debug!("rows of transaction {xid} are not shown: {failure}");
        }
        let Some(flight) = self.flights.get_mut(&xid) else { return };
        flight.fired.insert(rule.name.clone());
        let judged = judged.or_else(|| flight.judged.get(&rule.name).cloned()).unwrap_or_default();
        let tables: Vec<String> = met.tables.iter().map(ToString::to_string).collect();
        let finding = Finding {
            table: tables.join(", "),
            xid: Some(xid),
            lsn: None,
            since: None,
            transactions: 1,
            rows: met.rows,
            judged,
            context: backend.map(|backend| backend.said),
            note: Some(format!("{} ms after its first rows were seen", flight.seen.elapsed().as_millis())),
        };
        let alert = finding.alert(rule);
        if matches!(stopped, Some(Stopped::Told(_) | Stopped::Idle(_))) {
            flight.stopping = Some((rule.clone(), alert.clone(), Instant::now()));
        }
        if !self.raised.add(xid, &alert) {
            // It has committed meanwhile, and is judged as a whole.
            return;
        }
        self.tell(alert.clone()).await;
        match stopped {
            Some(Stopped::Told(how)) => self.tell(later(&alert, AlertEvent::Stopped, how)).await,
            Some(Stopped::Idle(why) | Stopped::No(why)) => {
                self.tell(later(&alert, AlertEvent::NotStopped, why)).await;
            }
            None => {}
        }
    }

    /// Stops what still runs although it was told to stop: between two statements there is nothing to cancel.
    async fn stop_again(&mut self) {
        let Some(stopper) = &mut self.stopper else { return };
        for (xid, flight) in &mut self.flights {
            if let Some((rule, alert, last)) = &mut flight.stopping
                && last.elapsed() >= STOP_AGAIN
            {
                *last = Instant::now();
                if let (_, Stopped::Told(how)) = stopper.stop(*xid, rule).await {
                    tracing::info!(rule = rule.name, xid, "again: {how}, alert {}", alert.id);
                }
            }
        }
    }

    async fn tell(&self, alert: AlertRecord) {
        // The ledger ends last.
        let _ = self.ledger.send(Entry::Alert(Box::new(alert))).await;
    }
}

/// What each rule finds of rows of one table.
async fn judge_all(
    judge: &Judge,
    rules: &[&Rule],
    relation: &RelationVersion,
    rows: &[ChangedRow],
    gone: &KeySet,
) -> Result<Vec<Judged>> {
    let cut = judge.archive.watermark().await?.lsn;
    let mut found = Vec::with_capacity(rules.len());
    for rule in rules {
        found.push(judge.rows(rule, relation, rows.to_vec(), cut, Left { cut, without: gone }).await?);
    }
    Ok(found)
}

/// What of a transaction a rule counts.
#[derive(Debug, Default)]
struct Met {
    rows: u64,
    truncated: bool,
    tables: Vec<TableName>,
}
