//! What is drawn on the timeline beside changes: marks and deployments, alerts, DDL, restores, gaps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{AlertEvent, Lsn, MarkKind, Severity, one_line};

/// How old what is shown may be.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// Characters of a text that is shown.
const SHOWN: usize = 200;

/// Something that happened at a time.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Event {
    /// `mark`, `deployment`, `alert`, `ddl`, `restore`, `gap`.
    pub(super) kind: &'static str,
    /// Milliseconds since 1970.
    pub(super) time: i64,
    /// The end of what lasts.
    pub(super) end: Option<i64>,
    pub(super) label: String,
    pub(super) severity: Option<Severity>,
    /// The transaction that it belongs to.
    pub(super) lsn: Option<Lsn>,
}

/// The archive's events as they were a moment ago.
#[derive(Default)]
pub(super) struct Events(Mutex<Option<(Instant, Arc<[Event]>)>>);

impl Events {
    /// All of them, oldest first.
    pub(super) async fn all(&self, archive: &Archive) -> Result<Arc<[Event]>> {
        let mut seen = self.0.lock().await;
        if let Some((_, events)) = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Ok(Arc::clone(events));
        }
        let events: Arc<[Event]> = read(archive).await?.into();
        *seen = Some((Instant::now(), Arc::clone(&events)));
        Ok(events)
    }
}

/// The rule and what it says, which often begins with the rule.
fn said_once(rule: &str, message: &str) -> String {
    if message.starts_with(rule) { message.to_owned() } else { format!("{rule}: {message}") }
}

fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

async fn read(archive: &Archive) -> Result<Vec<Event>> {
    let watermark = archive.watermark().await?.lsn;
    let event = |kind, time, label: &str, lsn| Event {
        kind,
        time: millis(time),
        end: None,
        label: one_line(label, SHOWN),
        severity: None,
        lsn,
    };
    let mut all: Vec<Event> = Vec::new();
    for mark in archive.marks(watermark).await? {
        let kind = match mark.kind {
            MarkKind::Mark => "mark",
            MarkKind::Deployment => "deployment",
        };
        let label = mark.user.map_or_else(|| mark.name.clone(), |user| format!("{} by {user}", mark.name));
        all.push(event(kind, mark.time, &label, Some(mark.lsn)));
    }
    let alerts = archive.alerts().await?;
    // What was raised while in progress has its transaction since it committed.
    let committed: HashMap<&str, Lsn> =
        alerts.iter().filter_map(|alert| Some((alert.id.as_str(), alert.lsn?))).collect();
    for alert in alerts.iter().filter(|alert| alert.event == AlertEvent::Raised) {
        let (label, lsn) = (said_once(&alert.rule, &alert.message), committed.get(alert.id.as_str()).copied());
        all.push(Event { severity: Some(alert.severity), ..event("alert", alert.time, &label, lsn) });
    }
    // One statement can be told in two parts.
    let mut statements = archive.ddl(watermark).await?;
    statements.dedup_by(|next, kept| next.position.lsn == kept.position.lsn && next.statement == kept.statement);
    for record in statements {
        let label = format!("{} {}", record.tag, record.concerns().join(", "));
        all.push(event("ddl", record.time, &label, Some(record.position.lsn)));
    }
    for restore in archive.restores(watermark).await? {
        let report: serde_json::Value = serde_json::from_str(&restore.report).unwrap_or_default();
        let count = |name: &str| -> u64 {
            let tables = report["tables"].as_array().into_iter().flatten();
            tables.filter_map(|table| table[name].as_u64()).sum()
        };
        let rows = count("inserted") + count("updated") + count("deleted");
        all.push(event("restore", restore.time, &format!("restore of {rows} rows"), Some(restore.lsn)));
    }
    for gap in archive.gaps(watermark).await? {
        all.push(Event { end: Some(millis(gap.end_time)), ..event("gap", gap.time, &gap.reason, None) });
    }
    all.sort_by_key(|event| event.time);
    Ok(all)
}
