//! `afterimage status`.

use std::io::stdout;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::findings::{self, State};
use super::output::{human, print_document, print_text};
use super::vitals::{self, SourceVitals, TableVitals, Vitals, slot_text};
use crate::archive::ArchiverState;
use crate::capture::SlotState;
use crate::failure::Result;
use crate::history::shown_time;
use crate::model::Lsn;

#[derive(Debug, Clone, Args)]
pub(super) struct StatusArgs {}

#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    vitals: Vitals,
    tables: Vec<TableVitals>,
    transactions: usize,
    marks: usize,
    restores: usize,
    gaps: usize,
}

pub(super) async fn run(context: &Context, _: StatusArgs) -> Result<()> {
    let (archive, source) = (context.archive().await?, context.source_if_named()?);
    let (vitals, unreachable) = vitals::gather(&archive, source.as_ref()).await?;
    let status = Status {
        tables: vitals::tables(&archive).await?,
        transactions: archive.commits(vitals.watermark).await?.len(),
        marks: archive.marks(vitals.watermark).await?.len(),
        restores: archive.restores(vitals.watermark).await?.len(),
        gaps: archive.gaps(vitals.watermark).await?.len(),
        vitals,
    };
    if context.json {
        print_document(stdout(), &status)?
    } else {
        print_text(stdout(), &text(&status))?
    }
    unreachable.map_or_else(|| verdict(&status.vitals), Err)
}

/// Makes the exit code say that changes are being lost.
fn verdict(status: &Vitals) -> Result<()> {
    match findings::of_stream(status).into_iter().find(|finding| finding.state == State::Failed) {
        Some(finding) => Err(finding.failure()),
        None => Ok(()),
    }
}

fn text(status: &Status) -> String {
    let vitals = &status.vitals;
    let mut lines = vec![
        format!("archive     {} of the database {}", vitals.archive, vitals.database),
        format!(
            "history     from {} to the watermark {} ({})",
            vitals.start_lsn,
            vitals.watermark,
            shown_time(vitals.watermark_time)
        ),
        format!(
            "            {}, {}, {}",
            human::counted(status.transactions as u64, "transaction"),
            human::counted(status.marks as u64, "mark"),
            human::counted(status.restores as u64, "restore")
        ),
    ];
    if status.gaps > 0 {
        let gaps = human::counted(status.gaps as u64, "gap");
        lines.push(format!("            {gaps} in which nobody saw what was committed: SELECT * FROM afterimage.gaps"));
    }
    if let Some(freshness) = &vitals.freshness {
        lines.push(format!("freshness   from commit to durable {}, lately", human::freshness(freshness)));
    }
    match &vitals.source {
        None if vitals.source_error.is_some() => lines.push("source      cannot be looked at".to_owned()),
        None => lines.push("source      not asked; name it with --source to see the lag and the slot".to_owned()),
        Some(source) => {
            lines.push(format!(
                "source      at {}, the archive is {} and {} behind",
                source.position,
                human::bytes(source.lag_bytes),
                human::duration(Duration::from_secs_f64(source.lag_seconds))
            ));
            lines.push(format!("slot        {}", source.slot.as_ref().map_or("does not exist".to_owned(), slot_text)));
            let said = vitals.archiver.as_ref();
            lines.extend(source.slot.as_ref().and_then(|slot| ladder(slot, said, vitals.watermark)));
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
    let alerts: usize = vitals.alerts.values().sum();
    if alerts > 0 {
        lines.push(format!("alerts      {}: afterimage guard alerts", human::counted(alerts as u64, "alert")));
    }
    let checks = vitals
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

fn slot_in_use(source: &SourceVitals) -> bool {
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
