//! `afterimage status`.

use std::collections::{BTreeMap, HashSet};
use std::io::stdout;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::output::{human, print_document, print_text};
use crate::archive::{Archive, ArchiverState, TablePath, Watermark};
use crate::capture::{SlotState, captures_ddl, catalog, require_same_source, slot_state};
use crate::failure::{Failure, Result};
use crate::history::{shown_time, source_position};
use crate::model::{AlertEvent, Freshness, HealthRecord, Lsn, TableName};
use crate::postgres::Source;

#[derive(Debug, Clone, Args)]
pub(super) struct StatusArgs {}

#[derive(Debug, Serialize)]
struct Status {
    archive: String,
    database: String,
    start_lsn: Lsn,
    watermark: Lsn,
    watermark_time: DateTime<Utc>,
    /// From commit to durable, in the last minutes in which the archiver published.
    freshness: Option<Freshness>,
    /// What the archiver said of itself last.
    archiver: Option<ArchiverState>,
    source: Option<SourceStatus>,
    /// Why the source that is named could not be looked at.
    source_error: Option<String>,
    tables: Vec<TableStatus>,
    transactions: usize,
    marks: usize,
    restores: usize,
    /// Alerts that nobody has acknowledged.
    alerts: usize,
    /// What each health check came to last.
    health: Vec<HealthRecord>,
}

#[derive(Debug, Serialize)]
struct SourceStatus {
    position: Lsn,
    lag_bytes: u64,
    lag_seconds: f64,
    slot: Option<SlotState>,
    /// Archived once, but the publication does not have them any more: changes are being missed.
    no_longer_published: Vec<String>,
    /// In the source, never archived.
    not_archived: Vec<String>,
    /// What else of the source is in no stream, by kind.
    outside: Vec<String>,
    /// New tables are covered from their first row, and every change of a definition is in the history.
    ddl_capture: bool,
}

#[derive(Debug, Serialize)]
struct TableStatus {
    #[serde(flatten)]
    name: TableName,
    change_bytes: u64,
    change_files: usize,
    image_bytes: u64,
    image_files: usize,
    left_out_columns: Vec<String>,
}

pub(super) async fn run(context: &Context, _: StatusArgs) -> Result<()> {
    let archive = context.archive().await?;
    let watermark = archive.watermark().await?;
    // While the source is down, how far the archive reaches is what counts.
    let (source, unreachable) = match context.source_if_named()? {
        None => (None, None),
        Some(source) => match ask(&source, &archive, watermark).await {
            Ok(found) => (Some(found), None),
            Err(failure) => (None, Some(failure)),
        },
    };
    let source_error = unreachable.as_ref().map(|failure| failure.cause().to_owned());
    let status = gather(&archive, watermark, source, source_error).await?;
    if context.json {
        print_document(stdout(), &status)?
    } else {
        print_text(stdout(), &text(&status))?
    }
    unreachable.map_or_else(|| verdict(&status), Err)
}

async fn gather(
    archive: &Archive,
    watermark: Watermark,
    source: Option<SourceStatus>,
    source_error: Option<String>,
) -> Result<Status> {
    let mut known: Vec<_> = archive.tables_before(watermark.lsn).await?.into_iter().collect();
    known.sort_by(|a, b| a.0.cmp(&b.0));
    let mut tables = Vec::new();
    for (name, relation) in known {
        let (change_bytes, change_files) = archive.size(&TablePath::Changes(name.clone())).await?;
        let (image_bytes, image_files) = archive.size(&TablePath::Images(name.clone())).await?;
        let left_out_columns = relation.left_out;
        tables.push(TableStatus { name, change_bytes, change_files, image_bytes, image_files, left_out_columns });
    }
    Ok(Status {
        archive: archive.store().to_string(),
        database: archive.identity().database.clone(),
        start_lsn: archive.identity().start_lsn,
        watermark: watermark.lsn,
        watermark_time: watermark.time,
        freshness: archive.freshness().await?,
        archiver: ArchiverState::read(archive.store()).await?,
        source,
        source_error,
        tables,
        transactions: archive.commits(watermark.lsn).await?.len(),
        marks: archive.marks(watermark.lsn).await?.len(),
        restores: archive.restores(watermark.lsn).await?.len(),
        alerts: open_alerts(archive).await?,
        health: latest_health(archive).await?,
    })
}

async fn open_alerts(archive: &Archive) -> Result<usize> {
    let mut open = HashSet::new();
    for alert in archive.alerts().await? {
        match alert.event {
            AlertEvent::Raised => drop(open.insert(alert.id)),
            AlertEvent::Acknowledged => drop(open.remove(&alert.id)),
            _ => {}
        }
    }
    Ok(open.len())
}

async fn latest_health(archive: &Archive) -> Result<Vec<HealthRecord>> {
    let records = archive.health().await?.into_iter().map(|record| (record.check.clone(), record));
    Ok(records.collect::<BTreeMap<_, _>>().into_values().collect())
}

async fn ask(source: &Source, archive: &Archive, watermark: Watermark) -> Result<SourceStatus> {
    let archived: HashSet<u32> =
        archive.tables_before(watermark.lsn).await?.values().map(|relation| relation.oid).collect();
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
    Ok(SourceStatus {
        position,
        lag_bytes,
        lag_seconds: if lag_bytes == 0 { 0.0 } else { late },
        slot: slot_state(&session, identity).await?,
        no_longer_published: names(lost),
        not_archived: names(never),
        outside: catalog::outside_the_stream(&session).await?,
        ddl_capture: captures_ddl(&session, archive).await?,
    })
}

fn text(status: &Status) -> String {
    let mut lines = vec![
        format!("archive     {} of the database {}", status.archive, status.database),
        format!(
            "history     from {} to the watermark {} ({})",
            status.start_lsn,
            status.watermark,
            shown_time(status.watermark_time)
        ),
        format!(
            "            {}, {}, {}",
            human::counted(status.transactions as u64, "transaction"),
            human::counted(status.marks as u64, "mark"),
            human::counted(status.restores as u64, "restore")
        ),
    ];
    if let Some(freshness) = &status.freshness {
        lines.push(format!("freshness   from commit to durable {}, lately", human::freshness(freshness)));
    }
    match &status.source {
        None if status.source_error.is_some() => lines.push("source      cannot be looked at".to_owned()),
        None => lines.push("source      not asked; name it with --source to see the lag and the slot".to_owned()),
        Some(source) => {
            lines.push(format!(
                "source      at {}, the archive is {} and {} behind",
                source.position,
                human::bytes(source.lag_bytes),
                human::duration(Duration::from_secs_f64(source.lag_seconds))
            ));
            lines.push(format!("slot        {}", source.slot.as_ref().map_or("does not exist".to_owned(), slot_text)));
            let said = status.archiver.as_ref();
            lines.extend(source.slot.as_ref().and_then(|slot| ladder(slot, said, status.watermark)));
            let running = said.filter(|said| said.in_progress > 0 && slot_in_use(source));
            lines.extend(running.map(in_progress));
            if !source.ddl_capture {
                lines.push(
                    "definitions are looked for in the catalogue; event triggers would capture them exactly".to_owned(),
                );
            }
            if !source.not_archived.is_empty() {
                lines.push(format!("not covered {}", source.not_archived.join(", ")));
            }
            let others = source.outside.iter().filter(|outside| !outside.starts_with("UNLOGGED"));
            lines.extend(others.map(|outside| format!("not covered {outside}")));
        }
    }
    if status.alerts > 0 {
        lines.push(format!("alerts      {}: afterimage guard alerts", human::counted(status.alerts as u64, "alert")));
    }
    let checks = status
        .health
        .iter()
        .map(|one| format!("health      {} {}, at {}", one.status.as_str(), one.details, shown_time(one.time)));
    lines.extend(checks);
    lines.push("tables".to_owned());
    for table in &status.tables {
        let left_out = match table.left_out_columns.is_empty() {
            true => String::new(),
            false => format!("  without the generated columns {}", table.left_out_columns.join(", ")),
        };
        lines.push(format!(
            "  {:<40} changes {:>9} in {}, images {:>9} in {}{left_out}",
            table.name.to_string(),
            human::bytes(table.change_bytes),
            human::counted(table.change_files as u64, "file"),
            human::bytes(table.image_bytes),
            human::counted(table.image_files as u64, "file")
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn slot_text(slot: &SlotState) -> String {
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

/// How far each step has come, so that lag has an owner: the source, the network, the archiver, the store.
fn ladder(slot: &SlotState, said: Option<&ArchiverState>, watermark: Lsn) -> Option<String> {
    let (sent, received) = (slot.sent?, slot.received?);
    // What is durable was decoded, and what was said is some seconds old.
    let decoded = said.map_or(watermark, |said| said.decoded.max(watermark));
    let acknowledged = slot.confirmed_flush;
    Some(format!(
        "steps       sent {sent}, received {received}, decoded {decoded}, durable {watermark}, acknowledged {acknowledged}"
    ))
}

fn slot_in_use(source: &SourceStatus) -> bool {
    source.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some())
}

fn in_progress(said: &ArchiverState) -> String {
    let free = said.spill_free_bytes.map_or(String::new(), |bytes| format!(", {} free there", human::bytes(bytes)));
    format!(
        "in progress {}, {} of them in files{free}, at {}",
        human::counted(said.in_progress as u64, "transaction"),
        human::bytes(said.spilled_bytes),
        shown_time(said.at)
    )
}

/// What makes the exit code say that all is not well.
fn verdict(status: &Status) -> Result<()> {
    let Some(source) = &status.source else { return Ok(()) };
    let ill = |cause: String, remedy: &str| Err(Failure::check_failed(cause).remedy(remedy));
    match &source.slot {
        None => ill(
            "the archive's replication slot does not exist".into(),
            "changes are being lost; begin a new archive with afterimage init",
        ),
        Some(slot) if slot.wal_status == "lost" => ill(
            format!("the slot {} lost log that was not archived", slot.name),
            "begin a new archive with afterimage init",
        ),
        Some(slot) if slot.active_pid.is_none() => ill("no archiver is running".into(), "start one: afterimage run"),
        Some(_) if !source.no_longer_published.is_empty() => ill(
            format!("changes of {} are not archived any more", source.no_longer_published.join(", ")),
            "the publication has lost them; add them again with ALTER PUBLICATION … ADD TABLE, what happened meanwhile is missing",
        ),
        Some(_) => Ok(()),
    }
}
