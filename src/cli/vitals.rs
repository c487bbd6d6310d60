//! What there is to know of a source and its archive at a moment: what `status` prints, `doctor` judges and the probes tell.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::output::human;
use crate::archive::{Archive, ArchiverState, TablePath, Watermark};
use crate::capture::{SlotState, captures_ddl, catalog, require_same_source, slot_state};
use crate::failure::{Failure, Result};
use crate::history::source_position;
use crate::model::{AlertEvent, AlertRecord, Freshness, HealthRecord, Lsn, RelationEvent, Severity, TableName};
use crate::postgres::Source;

#[derive(Debug, Serialize)]
pub(super) struct Vitals {
    pub(super) archive: String,
    pub(super) database: String,
    pub(super) start_lsn: Lsn,
    pub(super) watermark: Lsn,
    pub(super) watermark_time: DateTime<Utc>,
    /// From commit to durable, in the last minutes in which the archiver published.
    pub(super) freshness: Option<Freshness>,
    /// What the archiver said of itself last.
    pub(super) archiver: Option<ArchiverState>,
    pub(super) source: Option<SourceVitals>,
    /// Why the source that is named could not be looked at.
    pub(super) source_error: Option<String>,
    /// Alerts that nobody has acknowledged, by severity.
    pub(super) alerts: BTreeMap<Severity, usize>,
    /// What each health check came to last.
    pub(super) health: Vec<HealthRecord>,
}

#[derive(Debug, Serialize)]
pub(super) struct SourceVitals {
    pub(super) position: Lsn,
    pub(super) lag_bytes: u64,
    pub(super) lag_seconds: f64,
    pub(super) slot: Option<SlotState>,
    /// Archived once, but the publication does not have them any more: changes are being missed.
    pub(super) no_longer_published: Vec<String>,
    /// In the source, never archived.
    pub(super) not_archived: Vec<String>,
    /// What else of the source is in no stream, by kind.
    pub(super) outside: Vec<String>,
    /// New tables are covered from their first row, and every change of a definition is in the history.
    pub(super) ddl_capture: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct TableVitals {
    #[serde(flatten)]
    pub(super) name: TableName,
    pub(super) change_bytes: u64,
    pub(super) change_files: usize,
    pub(super) image_bytes: u64,
    pub(super) image_files: usize,
    pub(super) left_out_columns: Vec<String>,
}

/// Looks at the archive and, where it is named, at the source. While that is down, how far the archive reaches is what
/// counts: the failure comes along.
///
/// # Errors
/// As the archive says.
pub(super) async fn gather(archive: &Archive, source: Option<&Source>) -> Result<(Vitals, Option<Failure>)> {
    let watermark = archive.watermark().await?;
    let (source, unreachable) = match source {
        None => (None, None),
        Some(source) => match ask(source, archive, watermark).await {
            Ok(found) => (Some(found), None),
            Err(failure) => (None, Some(failure)),
        },
    };
    let source_error = unreachable.as_ref().map(|failure| failure.cause().to_owned());
    let vitals = Vitals {
        archive: archive.store().to_string(),
        database: archive.identity().database.clone(),
        start_lsn: archive.identity().start_lsn,
        watermark: watermark.lsn,
        watermark_time: watermark.time,
        freshness: archive.freshness().await?,
        archiver: ArchiverState::read(archive.store()).await?,
        source,
        source_error,
        alerts: open_alerts(archive.alerts().await?),
        health: latest_health(archive).await?,
    };
    Ok((vitals, unreachable))
}

/// How much the archive has of each table.
///
/// # Errors
/// As the archive says.
pub(super) async fn tables(archive: &Archive) -> Result<Vec<TableVitals>> {
    let watermark = archive.watermark().await?;
    let mut known: Vec<_> = archive.tables_before(watermark.lsn).await?.into_iter().collect();
    known.sort_by(|a, b| a.0.cmp(&b.0));
    let mut tables = Vec::new();
    for (name, relation) in known {
        let (change_bytes, change_files) = archive.size(&TablePath::Changes(name.clone())).await?;
        let (image_bytes, image_files) = archive.size(&TablePath::Images(name.clone())).await?;
        let left_out_columns = relation.left_out;
        tables.push(TableVitals { name, change_bytes, change_files, image_bytes, image_files, left_out_columns });
    }
    Ok(tables)
}

/// Alerts that nobody has acknowledged, by severity.
fn open_alerts(records: Vec<AlertRecord>) -> BTreeMap<Severity, usize> {
    let mut open = HashMap::new();
    for alert in records {
        match alert.event {
            AlertEvent::Raised => drop(open.insert(alert.id, alert.severity)),
            AlertEvent::Acknowledged => drop(open.remove(&alert.id)),
            _ => {}
        }
    }
    let mut counted = BTreeMap::new();
    open.into_values().for_each(|severity| *counted.entry(severity).or_default() += 1);
    counted
}

async fn latest_health(archive: &Archive) -> Result<Vec<HealthRecord>> {
    let records = archive.health().await?.into_iter().map(|record| (record.check.clone(), record));
    Ok(records.collect::<BTreeMap<_, _>>().into_values().collect())
}

async fn ask(source: &Source, archive: &Archive, watermark: Watermark) -> Result<SourceVitals> {
    // What was never more than described was never archived.
    let records = archive.relations().await?;
    let archived: HashSet<u32> =
        records.iter().filter(|one| one.event != RelationEvent::Unseen).map(|one| one.relation.oid).collect();
    let identity = archive.identity();
    let session = source.connect("afterimage status").await?;
    require_same_source(&session, identity).await?;
    let position = source_position(source).await?;
    let lag_bytes = position.0.saturating_sub(watermark.lsn.0);
    // Nothing is late when there is nothing to wait for.
    let late = (Utc::now() - watermark.time).as_seconds_f64().max(0.0);
    let unpublished = catalog::unpublished(&session, &identity.publication).await?;
    let (lost, never): (Vec<_>, Vec<_>) = unpublished.into_iter().partition(|(oid, _)| archived.contains(oid));
    let names = |tables: Vec<(u32, TableName)>| tables.iter().map(|(_, name)| name.to_string()).collect();
    Ok(SourceVitals {
        position,
        lag_bytes,
        lag_seconds: if lag_bytes == 0 { 0.0 } else { late },
        slot: slot_state(source, &session, identity).await?,
        no_longer_published: names(lost),
        not_archived: names(never),
        outside: catalog::outside_the_stream(&session).await?,
        ddl_capture: captures_ddl(&session, archive).await?,
    })
}

/// The slot in a line.
pub(super) fn slot_text(slot: &SlotState) -> String {
    let user = slot.active_pid.map_or("not in use".to_owned(), |pid| format!("in use by the server process {pid}"));
    let headroom = match slot.safe_wal_size {
        Some(bytes) => format!("{} until it is cut off", human::bytes(bytes.max(0) as u64)),
        None => "no limit (max_slot_wal_keep_size)".to_owned(),
    };
    let waiting = if slot.synchronous { ", commits wait for it" } else { "" };
    format!(
        "{} is {user}{waiting}, acknowledged up to {}, holds back {}, {}, {headroom}",
        slot.name,
        slot.confirmed_flush,
        human::bytes(slot.held_bytes.max(0) as u64),
        slot.wal_status
    )
}
