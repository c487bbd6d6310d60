//! Named questions to the source whose answer is a number, and from which number on it is ill.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::ledger::Entry;
use super::settings::Settings;
use crate::archive::{Store, note_health};
use crate::failure::{Failure, Result};
use crate::model::{AlertEvent, AlertRecord, HealthRecord, HealthStatus, Severity};
use crate::postgres::{Session, Source};

/// How long a question may take.
const PATIENCE_MS: u64 = 60_000;

/// A named SQL question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub name: String,
    /// A query whose first column of its first row is a number; without rows it is 0.
    pub sql: String,
    /// It is healthy up to this.
    pub limit: i64,
    pub severity: Severity,
    pub interval: Duration,
    /// What to do about it.
    pub resolution: Option<String>,
}

/// Asks every check once.
///
/// # Errors
/// Only where the source cannot be reached; a check that fails is an outcome.
pub async fn examine(source: &Source, checks: &[HealthCheck]) -> Result<Vec<HealthRecord>> {
    let session = open(source).await?;
    let mut found = Vec::new();
    for check in checks {
        found.push(ask(&session, check).await);
    }
    Ok(found)
}

async fn open(source: &Source) -> Result<Session> {
    let session = source.without_waiting().connect("afterimage health").await?;
    // The application's own names must be found, and nothing may be changed.
    let settings = format!(
        "SET default_transaction_read_only = on; SET statement_timeout = {PATIENCE_MS}; SET search_path = \"$user\", public"
    );
    session.batch_execute(&settings).await?;
    Ok(session)
}

async fn ask(session: &Session, check: &HealthCheck) -> HealthRecord {
    let (value, problem) = match number(session, &check.sql).await {
        Ok(value) => (Some(value), None),
        Err(failure) => (None, Some(failure.to_string())),
    };
    let status = match value {
        None => HealthStatus::Failed,
        Some(value) if value > check.limit => HealthStatus::Unhealthy,
        Some(_) => HealthStatus::Healthy,
    };
    let details = problem.unwrap_or_else(|| {
        format!("{} is {}, at most {} is healthy", check.name, value.unwrap_or_default(), check.limit)
    });
    HealthRecord {
        time: Utc::now(),
        check: check.name.clone(),
        status,
        severity: if status == HealthStatus::Healthy { Severity::Info } else { check.severity },
        value,
        limit: check.limit,
        details,
        resolution: check.resolution.clone(),
    }
}

async fn number(session: &Session, sql: &str) -> Result<i64> {
    let messages = session.simple_query(sql.trim().trim_end_matches(';')).await?;
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("0").to_owned()),
        _ => None,
    });
    let text = row.unwrap_or_else(|| "0".to_owned());
    let number = text.parse::<f64>().map_err(|_| Failure::failed(format!("its answer {text:?} is no number")))?;
    Ok(number as i64)
}

/// Asks the checks again and again, each at its interval, notes what they come to, and raises an alert where one falls ill.
pub(super) async fn watch(
    source: Source,
    store: Store,
    mut settings: watch::Receiver<Arc<Settings>>,
    ledger: mpsc::Sender<Entry>,
) {
    let mut due: Vec<(HealthCheck, Instant, HealthStatus)> = Vec::new();
    loop {
        let checks = settings.borrow_and_update().health.clone();
        due.retain(|(check, ..)| checks.contains(check));
        for check in checks {
            if !due.iter().any(|(known, ..)| *known == check) {
                due.push((check, Instant::now(), HealthStatus::Healthy));
            }
        }
        let next = due.iter().map(|(_, at, _)| *at).min();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return } else { continue },
            () = ledger.closed() => return,
            () = wait => {}
        }
        let now = Instant::now();
        let asked: Vec<HealthCheck> =
            due.iter().filter(|(_, at, _)| *at <= now).map(|(check, ..)| check.clone()).collect();
        let found = match examine(&source, &asked).await {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!("the source's health is not known: {failure}");
                due.iter_mut().for_each(|(_, at, _)| *at = (*at).max(now + Duration::from_secs(10)));
                continue;
            }
        };
        if let Err(failure) = note_health(&store, &found).await {
            tracing::warn!("the source's health could not be noted: {failure}");
        }
        for record in found {
            for (check, at, status) in due.iter_mut().filter(|(check, ..)| check.name == record.check) {
                *at = now + check.interval;
                if record.status != HealthStatus::Healthy && *status == HealthStatus::Healthy {
                    // The ledger ends last.
                    let _ = ledger.send(Entry::Alert(Box::new(alert(&record)))).await;
                }
                *status = record.status;
            }
        }
    }
}

fn alert(record: &HealthRecord) -> AlertRecord {
    let resolution = record.resolution.as_ref().map_or(String::new(), |text| format!("; {text}"));
    AlertRecord {
        id: Uuid::new_v4().to_string(),
        time: record.time,
        event: AlertEvent::Raised,
        rule: format!("health:{}", record.check),
        severity: record.severity,
        lsn: None,
        xid: None,
        table: String::new(),
        rows: record.value.unwrap_or(0).max(0) as u64,
        tenants: "{}".to_owned(),
        samples: "[]".to_owned(),
        context: None,
        message: format!("the source is not healthy: {}{resolution}", record.details),
        command: None,
        user: None,
    }
}
