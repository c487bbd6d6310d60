//! Rules over transactions, those that run and those that have committed; alerts; the source's health.
//!
//! ```text
//!   the archiver ──► in progress: counts, rows ──► flights ──► stop the backend
//!        │                                            │
//!        └─────────► published transactions ──► commits, windows
//!                                                     │
//!                        health checks ──────────► ledger ──► log/alerts, and only then ──► sinks
//! ```
//!
//! The archiver waits for none of it: what is shown of transactions in progress is left out where the guard is behind, and
//! is judged when it has committed; what was published and not taken is read from the archive. What a row was before is in
//! the archive too, so the source is only asked who runs a transaction.

mod check;
mod commits;
mod condition;
mod counter;
mod finding;
mod flights;
mod gate;
mod health;
mod judge;
mod ledger;
mod raised;
mod rows;
mod rule;
mod settings;
mod sinks;
mod sizes;
mod stopping;
mod trial;
mod window;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::archive::{Archive, note_alerts};
use crate::failure::Result;
use crate::model::Partitions;
use crate::postgres::Source;
use crate::transaction::{GlimpseReceiver, Running};

pub use check::{CheckRequest, Impact, Level, Migration, Proposal, Violations, check, try_migration};
pub use commits::Entrance;
pub use condition::Condition;
pub use finding::{gap_alert, proof_alert};
pub use gate::{
    Changed, Drift, Expectation, Finding, GateSettings, Operations, Verdict, after as gate_after,
    before as gate_before, drift, drift_since, finding as gate_finding, schema_version,
};
pub use health::{HealthCheck, examine};
pub use rule::{Action, Rule, Watched};
pub use settings::{GuardMemory, Settings};
pub use sinks::{SinkKind, SinkSettings, WebhookFormat, post_json};
pub use trial::{Trial, try_rule};

use commits::Commits;
use counter::Counter;
use flights::Flights;
use judge::Judge;
use ledger::Ledger;
use raised::RaisedInFlight;
use sizes::Sizes;

/// Publications that may wait to be judged.
const QUEUED_PUBLICATIONS: usize = 64;
/// Alerts that may wait to be noted.
const QUEUED_ALERTS: usize = 1024;

/// How long a guard may take to judge what is left when the archiver ends.
const LAST_JUDGEMENTS: Duration = Duration::from_secs(20);

/// A guard at work.
pub struct Guard {
    watching: Vec<JoinHandle<()>>,
    commits: JoinHandle<()>,
    ledger: JoinHandle<()>,
}

impl Guard {
    /// Begins to guard. What it sees comes by the entrance and the two channels; settings may change at any time.
    ///
    /// # Errors
    /// As the archive says.
    pub async fn start(
        source: &Source,
        archive: &Archive,
        settings: watch::Receiver<Arc<Settings>>,
        running: watch::Receiver<Running>,
        glimpses: GlimpseReceiver,
        memory: GuardMemory,
    ) -> Result<(Guard, Entrance)> {
        let judged = match archive.judged().await? {
            Some(lsn) => lsn,
            // Nothing from before the first guard raises an alarm, and everything since does, whoever guards then.
            None => {
                let now = archive.watermark().await?.lsn;
                note_alerts(archive.store(), &[], Some(now)).await?;
                now
            }
        };
        let tenant_columns = settings.borrow().tenant_columns.clone();
        let judge = Judge { archive: archive.clone(), tenant_columns, memory: memory.judged };
        let partitions = Arc::new(Partitions::of(archive.tables_ever().await?.values()));
        let known = watch::Sender::new(Arc::clone(&partitions));
        let (raised, missed) = (RaisedInFlight::of_before(archive.alerts().await?), Arc::new(AtomicU64::new(0)));
        let (entries, noted) = mpsc::channel(QUEUED_ALERTS);
        let (sender, published) = mpsc::channel(QUEUED_PUBLICATIONS);
        let ledger = Ledger::begin(archive.clone(), Some(source.clone()), settings.clone()).await?;
        let flights = Flights::new(
            judge.clone(),
            settings.clone(),
            known.subscribe(),
            source,
            raised.clone(),
            entries.clone(),
            memory.in_flight,
        );
        let commits = Commits {
            counter: Counter::new(judge, Sizes::new(Some(source)), partitions),
            settings: settings.clone(),
            partitions: known.subscribe(),
            raised,
            ledger: entries.clone(),
            missed: Arc::clone(&missed),
            judged,
        };
        let health = health::watch(source.clone(), archive.store().clone(), settings.clone(), entries);
        let guard = Guard {
            watching: vec![tokio::spawn(flights.run(glimpses, running)), tokio::spawn(health)],
            commits: tokio::spawn(commits.run(published)),
            ledger: tokio::spawn(ledger.run(noted)),
        };
        Ok((guard, Entrance::new(settings, sender, missed, known)))
    }

    /// Ends when everything that was handed over is judged and noted. The entrance must be gone.
    pub async fn finish(self) {
        self.watching.iter().for_each(JoinHandle::abort);
        let (mut commits, mut ledger) = (self.commits, self.ledger);
        let ending = async {
            let _ = (&mut commits).await;
            let _ = (&mut ledger).await;
        };
        if tokio::time::timeout(LAST_JUDGEMENTS, ending).await.is_err() {
            tracing::warn!("the guard ends before it has judged everything; the next one goes on from there");
        }
        commits.abort();
        ledger.abort();
    }
}
