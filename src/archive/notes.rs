//! `log/alerts` and `log/health`: what a guard notes beside the archiver, from any process.
//!
//! Their rows have a time of their own and are visible as soon as they are durable: they are no part of history, so the
//! watermark does not bound them. Everybody only appends, so a commit that collides is tried again as it is.

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::delta::{Appended, DeltaTable};
use super::file::{FileContent, stage};
use super::layout::{LogTable, TablePath};
use super::log::{self, LogRow, RareRow};
use super::reader::Archive;
use super::store::Store;
use crate::failure::{Failure, Result};
use crate::model::{AlertEvent, AlertRecord, HealthRecord, HealthStatus, Lsn, Severity, Xid};

/// Up to where the guard has judged what was committed, in `log/alerts`.
const JUDGED: &str = "afterimage.judged";

#[derive(Serialize, Deserialize)]
pub(super) struct AlertRow {
    id: String,
    ts: DateTime<Utc>,
    event: AlertEvent,
    rule: String,
    severity: Severity,
    lsn: Option<i64>,
    xid: Option<i64>,
    table: String,
    rows: i64,
    tenants: String,
    samples: String,
    context: Option<String>,
    message: String,
    command: Option<String>,
    user: Option<String>,
}

impl LogRow for AlertRow {
    const TABLE: LogTable = LogTable::Alerts;
    type Value = AlertRecord;

    fn value(self) -> Result<AlertRecord> {
        let xid = |xid: i64| {
            Xid::try_from(xid).map_err(|_| Failure::failed(format!("log/alerts has the impossible xid {xid}")))
        };
        Ok(AlertRecord {
            id: self.id,
            time: self.ts,
            event: self.event,
            rule: self.rule,
            severity: self.severity,
            lsn: self.lsn.map(Lsn::from_i64),
            xid: self.xid.map(xid).transpose()?,
            table: self.table,
            rows: self.rows.max(0) as u64,
            tenants: self.tenants,
            samples: self.samples,
            context: self.context,
            message: self.message,
            command: self.command,
            user: self.user,
        })
    }
}

impl RareRow for AlertRow {
    fn lsn(alert: &AlertRecord) -> Lsn {
        alert.lsn.unwrap_or(Lsn::ZERO)
    }

    fn of(alert: &AlertRecord) -> Self {
        let AlertRecord { id, time, event, rule, severity, lsn, xid, table, rows, .. } = alert.clone();
        let AlertRecord { tenants, samples, context, message, command, user, .. } = alert.clone();
        AlertRow {
            id,
            ts: time,
            event,
            rule,
            severity,
            lsn: lsn.map(Lsn::as_i64),
            xid: xid.map(i64::from),
            table,
            rows: rows as i64,
            tenants,
            samples,
            context,
            message,
            command,
            user,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct HealthRow {
    ts: DateTime<Utc>,
    check: String,
    status: HealthStatus,
    severity: Severity,
    value: Option<i64>,
    limit: i64,
    details: String,
    resolution: Option<String>,
}

impl LogRow for HealthRow {
    const TABLE: LogTable = LogTable::Health;
    type Value = HealthRecord;

    fn value(self) -> Result<HealthRecord> {
        let HealthRow { ts, check, status, severity, value, limit, details, resolution } = self;
        Ok(HealthRecord { time: ts, check, status, severity, value, limit, details, resolution })
    }
}

impl RareRow for HealthRow {
    fn lsn(_: &HealthRecord) -> Lsn {
        Lsn::ZERO
    }

    fn of(health: &HealthRecord) -> Self {
        let HealthRecord { time, check, status, severity, value, limit, details, resolution } = health.clone();
        HealthRow { ts: time, check, status, severity, value, limit, details, resolution }
    }
}

/// Makes events of alerts durable, and with them how far the guard has judged.
///
/// # Errors
/// As the store says; then none of them is in the archive, unless the store lost the answer.
pub async fn note_alerts(store: &Store, alerts: &[AlertRecord], judged: Option<Lsn>) -> Result<()> {
    let batch = if alerts.is_empty() { None } else { Some(log::encode::<AlertRow>(alerts)?) };
    let judged: Vec<(&str, i64)> = judged.map(|lsn| (JUDGED, lsn.as_i64())).into_iter().collect();
    append(store, LogTable::Alerts, batch, &judged).await
}

/// Makes outcomes of health checks durable.
///
/// # Errors
/// As [`note_alerts`].
pub async fn note_health(store: &Store, health: &[HealthRecord]) -> Result<()> {
    append(store, LogTable::Health, Some(log::encode::<HealthRow>(health)?), &[]).await
}

async fn append(store: &Store, table: LogTable, batch: Option<RecordBatch>, progress: &[(&str, i64)]) -> Result<()> {
    let path = TablePath::Log(table);
    let schema = log::schema(table);
    let mut files = Vec::new();
    if let Some(batch) = batch {
        let content = FileContent { batches: vec![batch], metadata: Vec::new(), image_lsn: None };
        files.push(stage(store, &path, content).await?);
    }
    let mut delta = DeltaTable::open_or_create(store, &path, &schema).await?;
    while delta.append(&files, progress).await? == Appended::Conflicted {}
    Ok(())
}

impl Archive {
    /// Every event of every alert, oldest first.
    pub async fn alerts(&self) -> Result<Vec<AlertRecord>> {
        let mut found = self.log_rows::<AlertRow>().await?;
        found.sort_by_key(|alert| alert.time);
        Ok(found)
    }

    /// Every outcome of a health check, oldest first.
    pub async fn health(&self) -> Result<Vec<HealthRecord>> {
        let mut found = self.log_rows::<HealthRow>().await?;
        found.sort_by_key(|health| health.time);
        Ok(found)
    }

    /// Up to where a guard has judged what was committed; `None` where none has.
    pub async fn judged(&self) -> Result<Option<Lsn>> {
        match DeltaTable::open(self.store(), &TablePath::Log(LogTable::Alerts)).await? {
            Some(table) => Ok(table.progress(JUDGED).await?.map(Lsn::from_i64)),
            None => Ok(None),
        }
    }
}
