//! Alerts become durable here, and only then are told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};

use super::finding::later;
use super::settings::Settings;
use super::sinks::{Delivery, Sink};
use crate::archive::{Archive, note_alerts};
use crate::failure::Result;
use crate::model::{AlertEvent, AlertRecord, Lsn, Severity};
use crate::postgres::Source;

/// How often it is looked whether somebody should have acknowledged an alert by now.
const LOOKS: Duration = Duration::from_secs(1);
/// How long sinks may go on when the guard ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the ledger is told.
pub(super) enum Entry {
    Alert(Box<AlertRecord>),
    /// Everything that was committed below is judged.
    Judged(Lsn),
}

/// See the module's documentation.
pub(super) struct Ledger {
    archive: Archive,
    source: Option<Source>,
    settings: watch::Receiver<Arc<Settings>>,
    sinks: Vec<Sink>,
    /// Alerts that nobody has acknowledged, and since when.
    open: HashMap<String, AlertRecord>,
    /// What was raised before the guard began, by rule and commit LSN: after a crash it may be judged again.
    raised: HashSet<(String, Lsn)>,
    /// When alerts of each rule were told, and how many were held back since.
    told: HashMap<String, (VecDeque<DateTime<Utc>>, u64)>,
}

impl Ledger {
    pub(super) async fn begin(
        archive: Archive,
        source: Option<Source>,
        settings: watch::Receiver<Arc<Settings>>,
    ) -> Result<Ledger> {
        let mut ledger = Ledger {
            archive,
            source,
            settings,
            sinks: Vec::new(),
            open: HashMap::new(),
            raised: HashSet::new(),
            told: HashMap::new(),
        };
        let alerts = ledger.archive.alerts().await?;
        let raised = alerts.iter().filter(|alert| alert.event == AlertEvent::Raised);
        ledger.raised = raised.filter_map(|alert| Some((alert.rule.clone(), alert.lsn?))).collect();
        let answered = answered(&alerts);
        let severe = alerts.into_iter().filter(|alert| alert.event == AlertEvent::Raised && is_escalated(alert));
        ledger.open = severe.filter(|alert| !answered.contains(&alert.id)).map(|one| (one.id.clone(), one)).collect();
        ledger.start_sinks();
        Ok(ledger)
    }

    fn start_sinks(&mut self) {
        let settings = Arc::clone(&self.settings.borrow_and_update());
        let start = |sink: &super::sinks::SinkSettings| Sink::start(sink.clone(), self.source.clone());
        self.sinks = settings.sinks.iter().map(start).collect();
    }

    /// Works until nobody adds entries any more.
    pub(super) async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        let mut looks = tokio::time::interval(LOOKS);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                received = entries.recv_many(&mut batch, 256) => if received == 0 { break },
                _ = looks.tick() => self.escalate().await,
                Ok(()) = self.settings.changed() => self.start_sinks(),
            }
            if !batch.is_empty() {
                self.add(batch).await;
            }
        }
        for sink in self.sinks {
            sink.finish(LAST_WORDS).await;
        }
    }

    async fn add(&mut self, batch: Vec<Entry>) {
        let (mut alerts, mut judged) = (Vec::new(), None);
        for entry in batch {
            match entry {
                Entry::Alert(alert) if self.was_raised(&alert) => {}
                Entry::Alert(alert) => alerts.push(*alert),
                Entry::Judged(lsn) => judged = judged.max(Some(lsn)),
            }
        }
        self.make_durable(&alerts, judged).await;
        alerts.into_iter().for_each(|alert| self.tell(alert));
    }

    fn was_raised(&self, alert: &AlertRecord) -> bool {
        let lsn = alert.lsn.filter(|_| alert.event == AlertEvent::Raised);
        lsn.is_some_and(|lsn| self.raised.contains(&(alert.rule.clone(), lsn)))
    }

    /// Tries until the store takes them: what is not durable is not told, so that nothing that was told is missing.
    async fn make_durable(&self, alerts: &[AlertRecord], judged: Option<Lsn>) {
        let mut pause = Duration::from_millis(100);
        while let Err(failure) = note_alerts(self.archive.store(), alerts, judged).await {
            tracing::error!("alerts cannot be noted, tried again until it works: {failure}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    fn tell(&mut self, alert: AlertRecord) {
        let (rule, xid, message) = (&alert.rule, alert.xid, &alert.message);
        match alert.event {
            AlertEvent::Raised | AlertEvent::Escalated => {
                tracing::warn!(severity = %alert.severity, rule, xid, "ALERT {message}");
            }
            _ => tracing::info!(severity = %alert.severity, rule, xid, "alert {}: {message}", alert.event.as_str()),
        }
        if alert.event == AlertEvent::Raised && is_escalated(&alert) {
            self.open.insert(alert.id.clone(), alert.clone());
        }
        let escalated = alert.event == AlertEvent::Escalated;
        let Some(held_back) = self.may_tell(&alert) else { return };
        let delivery = Arc::new(Delivery { alert, held_back });
        self.sinks.iter().for_each(|sink| sink.tell(&delivery, escalated));
    }

    /// How many were held back before this one; `None` where it is to be held back too.
    fn may_tell(&mut self, alert: &AlertRecord) -> Option<u64> {
        if alert.event != AlertEvent::Raised {
            return Some(0);
        }
        let most = self.settings.borrow().alerts_per_hour as usize;
        let (times, held_back) = self.told.entry(alert.rule.clone()).or_default();
        let hour_ago = alert.time - chrono::Duration::hours(1);
        times.retain(|time| *time > hour_ago);
        if times.len() >= most {
            *held_back += 1;
            return None;
        }
        times.push_back(alert.time);
        Some(std::mem::take(held_back))
    }

    /// Tells again what nobody has acknowledged in time.
    async fn escalate(&mut self) {
        let after = self.settings.borrow().escalate_after.and_then(|after| chrono::Duration::from_std(after).ok());
        let Some(after) = after else { return };
        let late = |alert: &&AlertRecord| alert.time + after < Utc::now();
        if !self.open.values().any(|alert| late(&alert)) {
            return;
        }
        // Whoever acknowledges does so in the archive.
        let answered = match self.archive.alerts().await {
            Ok(alerts) => answered(&alerts),
            Err(failure) => return tracing::warn!("it is not known what was acknowledged: {failure}"),
        };
        self.open.retain(|id, _| !answered.contains(id));
        let due: Vec<AlertRecord> = self.open.values().filter(late).cloned().collect();
        for alert in due {
            self.open.remove(&alert.id);
            let minutes = after.num_seconds() as f64 / 60.0;
            let message = format!("nobody acknowledged within {minutes:.1} min: {}", alert.message);
            let escalated = later(&alert, AlertEvent::Escalated, message);
            self.make_durable(std::slice::from_ref(&escalated), None).await;
            self.tell(escalated);
        }
    }
}

fn is_escalated(alert: &AlertRecord) -> bool {
    alert.severity >= Severity::Critical
}

/// Alerts that were acknowledged, or told again because they were not.
fn answered(alerts: &[AlertRecord]) -> HashSet<String> {
    let answers = alerts.iter().filter(|alert| matches!(alert.event, AlertEvent::Acknowledged | AlertEvent::Escalated));
    answers.map(|alert| alert.id.clone()).collect()
}
