//! What long work shows while it goes on: a bar on a terminal, plain lines elsewhere.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::output::human;
use crate::capture::source_check::SourceFacts;
use crate::capture::{Chosen, ImageProgress, InitSteps, RunEvents};
use crate::failure::Failure;
use crate::model::Lsn;

/// How often a plain line says how far a base image is.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// A line on stderr.
pub(super) fn say(line: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Shows `init` on stderr.
#[derive(Default)]
pub(super) struct InitShown {
    copying: Mutex<Option<JoinHandle<()>>>,
}

impl InitSteps for InitShown {
    fn will_do(&self, chosen: &Chosen, facts: &SourceFacts, slot: &str, publication: &str) {
        say(&format!("init will change the database {} (PostgreSQL {}):", facts.database, facts.version));
        for table in &chosen.set_full {
            let identity = table.identity_to_set.as_deref().unwrap_or_default();
            say(&format!("  set REPLICA IDENTITY {identity} on {}", table.name));
        }
        let count = chosen.archived.len() + chosen.set_full.len();
        match chosen.all_tables {
            true => {
                say(&format!("  create the publication {publication} for all tables, {count} now and those to come"))
            }
            false => say(&format!("  create the publication {publication} for {count} tables")),
        }
        if chosen.capture_ddl {
            let if_it_may = if facts.superuser { "" } else { ", if the role may" };
            say(&format!(
                "  install event triggers that capture DDL, with functions in the schema {publication}{if_it_may}"
            ));
        }
        say(&format!("  create the replication slot {slot}"));
        say("  read every table once, for the first base image");
        for table in &chosen.left_out {
            say(&format!(
                "left out: {} has no usable replica identity, publishing it would make its UPDATEs fail \
                 (give it a primary key, or pass --set-identity-full)",
                table.name
            ));
        }
        for table in &chosen.unlogged {
            say(&format!("left out: {} is UNLOGGED, its changes are not in the log", table.name));
        }
        for outside in chosen.outside.iter().filter(|outside| !outside.starts_with("UNLOGGED")) {
            say(&format!("not covered, since the log does not show it: {outside}"));
        }
        facts.warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
    }

    fn captures_ddl(&self, captured: bool) {
        if !captured {
            say(
                "warning: no event triggers were installed (a superuser may): changes of definitions are looked for in the \
                 catalogue, and a new table is covered from a base image on, not from its first row",
            );
        }
    }

    fn waiting_for_transactions(&self) {
        say("waiting for transactions that are running to end; new ones are not held up");
    }

    fn copying(&self, progress: &Arc<ImageProgress>, estimated_rows: u64, tables: usize) {
        let progress = Arc::clone(progress);
        let shown = tokio::spawn(async move {
            if super::watched() {
                show_bar(&progress, estimated_rows).await
            } else {
                show_lines(&progress, tables).await
            }
        });
        *self.copying.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    fn copied(&self) {
        if let Some(shown) = self.copying.lock().unwrap_or_else(PoisonError::into_inner).take() {
            shown.abort();
        }
    }
}

async fn show_bar(progress: &ImageProgress, estimated_rows: u64) {
    let bar = ProgressBar::new(estimated_rows.max(1));
    let template = "base image {bar:30} {human_pos} of about {human_len} rows, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    loop {
        let rows = progress.rows.load(Ordering::Relaxed);
        // The planner's estimate can be too small.
        if rows > bar.length().unwrap_or(0) {
            bar.set_length(rows);
        }
        bar.set_position(rows);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn show_lines(progress: &ImageProgress, tables: usize) {
    loop {
        tokio::time::sleep(PLAIN_INTERVAL).await;
        say(&format!(
            "base image: {}, {} of {tables} tables",
            human::rows(progress.rows.load(Ordering::Relaxed)),
            progress.tables_done.load(Ordering::Relaxed)
        ));
    }
}

/// Logs what happens while the archiver runs.
pub(super) struct RunShown;

impl RunEvents for RunShown {
    fn streaming(&self, from: Lsn) {
        tracing::info!("archiving from {from}");
    }

    fn interrupted(&self, failure: &Failure) {
        tracing::warn!("interrupted, trying again until it works: {failure}");
    }

    fn resumed(&self) {
        tracing::info!("archiving again");
    }

    fn published(&self, publication: &crate::archive::Publication) {
        tracing::debug!("published {} transactions up to {}", publication.transactions.len(), publication.end);
    }
}
