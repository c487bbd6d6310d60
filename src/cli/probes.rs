//! What `run --http` and `serve` answer to probes and scrapers: whether it lives, whether it is ready, and numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::{Mutex, OnceCell};

use super::findings::{Finding, State, of_vitals};
use super::metrics;
use super::vitals::{self, TableVitals, Vitals};
use crate::archive::{Archive, Publication, Store};
use crate::failure::Result;
use crate::http::Answer;
use crate::postgres::Source;

/// How old an answer may be: many may ask.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// The same of files, which are counted by reading every table's log.
const FILES_FRESH_FOR: Duration = Duration::from_secs(60);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// What an archiver has published since it began.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) transactions: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) publications: AtomicU64,
}

impl Counters {
    pub(super) fn note(&self, publication: &Publication) {
        let transactions = &publication.transactions;
        let changes = transactions.iter().flat_map(|one| one.tables.values()).map(|counts| counts.total()).sum();
        self.transactions.fetch_add(transactions.len() as u64, Ordering::Relaxed);
        self.changes.fetch_add(changes, Ordering::Relaxed);
        self.publications.fetch_add(1, Ordering::Relaxed);
    }
}

/// See the module's documentation.
pub(super) struct Probes {
    source: Option<Source>,
    store: Store,
    /// Opened with the first question: there may be none before. To see it again costs only what is new.
    archive: OnceCell<Archive>,
    max_lag: Duration,
    /// Of an archiver; `None` where none is in this process.
    counters: Option<Arc<Counters>>,
    seen: Seen<Vitals>,
    files: Seen<Vec<TableVitals>>,
}

/// What was found last, and when.
struct Seen<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Seen<T> {
    /// The same again where it is fresh; else looks.
    async fn or_look(&self, fresh_for: Duration, look: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut seen = self.0.lock().await;
        if let Some((_, found)) = seen.as_ref().filter(|(at, _)| at.elapsed() < fresh_for) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(look.await?);
        *seen = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }
}

/// What `/readyz` says.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    findings: Vec<Finding>,
}

impl Probes {
    pub(super) fn new(
        source: Option<&Source>,
        store: &Store,
        max_lag: Duration,
        counters: Option<Arc<Counters>>,
    ) -> Probes {
        Probes {
            source: source.map(Source::without_waiting),
            store: store.clone(),
            archive: OnceCell::new(),
            max_lag,
            counters,
            seen: Seen(Mutex::default()),
            files: Seen(Mutex::default()),
        }
    }

    async fn archive(&self) -> Result<&Archive> {
        self.archive.get_or_try_init(|| Archive::open(&self.store)).await
    }

    async fn vitals(&self) -> Result<Arc<Vitals>> {
        let look = async { Ok(vitals::gather(self.archive().await?, self.source.as_ref()).await?.0) };
        self.seen.or_look(FRESH_FOR, look).await
    }

    async fn files(&self) -> Result<Arc<Vec<TableVitals>>> {
        let look = async { vitals::tables(self.archive().await?).await };
        self.files.or_look(FILES_FRESH_FOR, look).await
    }

    async fn readiness(&self) -> Readiness {
        let findings = match tokio::time::timeout(PATIENCE, self.vitals()).await {
            Ok(Ok(vitals)) => of_vitals(&vitals, self.max_lag),
            Ok(Err(failure)) => vec![Finding::of_failure("archive", &failure)],
            Err(_) => {
                let details = format!("source and archive did not answer within {} s", PATIENCE.as_secs());
                vec![Finding::failed("connection", details, "look at both; afterimage doctor asks them one by one")]
            }
        };
        let ready = findings.iter().all(|finding| finding.state != State::Failed);
        Readiness { ready, findings }
    }

    /// What the console shows of health.
    pub(super) async fn health(&self) -> Result<Json> {
        let vitals = self.vitals().await?;
        let (findings, files) = (of_vitals(&vitals, self.max_lag), self.files().await?);
        Ok(json!({ "vitals": *vitals, "findings": findings, "tables": *files }))
    }

    async fn metrics(&self) -> Result<String> {
        let vitals = self.vitals().await?;
        Ok(metrics::text(&vitals, &of_vitals(&vitals, self.max_lag), &self.files().await?, self.counters.as_deref()))
    }
}

impl Probes {
    /// The answer to a GET of a path; `None` where it is no probe's.
    pub(super) async fn answer(&self, path: &str) -> Option<Answer> {
        match path {
            "/livez" => Some(Answer::text("200 OK", "ok\n")),
            "/readyz" => {
                let readiness = self.readiness().await;
                let body = serde_json::to_string_pretty(&readiness).unwrap_or_default() + "\n";
                Some(Answer::json(if readiness.ready { "200 OK" } else { "503 Service Unavailable" }, body))
            }
            "/metrics" => Some(match tokio::time::timeout(PATIENCE, self.metrics()).await {
                Ok(Ok(body)) => Answer::new("200 OK", metrics::CONTENT_TYPE, body.into_bytes()),
                Ok(Err(failure)) => Answer::text("503 Service Unavailable", format!("{failure}\n")),
                Err(_) => Answer::text("503 Service Unavailable", "source and archive do not answer\n"),
            }),
            _ => None,
        }
    }
}
