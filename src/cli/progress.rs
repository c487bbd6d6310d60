//! What long work shows while it goes on: a bar on a terminal, plain lines elsewhere.

use std::io::{Write as _, stdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinHandle;

use super::output::{human, print_text};
use super::probes::Counters;
use crate::capture::source_check::SourceFacts;
use crate::capture::{Chosen, ImageProgress, InitSteps, RunEvents};
use crate::failure::Failure;
use crate::guard::Entrance;
use crate::maintenance::Published;
use crate::model::{Freshness, Lsn};

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
        if chosen.context {
            say(&format!("  put triggers that tell who wrote on tables, with functions in the schema {publication}"));
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

    fn copying(&self, progress: &Arc<ImageProgress>) {
        let progress = Arc::clone(progress);
        let shown = tokio::spawn(async move {
            if super::watched() { show_bar(&progress).await } else { show_lines(&progress).await }
        });
        *self.copying.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    fn copied(&self) {
        if let Some(shown) = self.copying.lock().unwrap_or_else(PoisonError::into_inner).take() {
            shown.abort();
        }
    }
}

async fn show_bar(progress: &ImageProgress) {
    let started = Instant::now();
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("base image {bar:30} {percent}%: {msg}") {
        bar.set_style(style);
    }
    loop {
        let look = Look::at(progress, started.elapsed());
        bar.set_length(look.disk_bytes.max(1));
        bar.set_position(look.disk_bytes_done);
        bar.set_message(look.text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn show_lines(progress: &ImageProgress) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(PLAIN_INTERVAL).await;
        let look = Look::at(progress, started.elapsed());
        say(&format!("base image: {}%: {}", look.percent(), look.text()));
    }
}

/// How far a base image is.
struct Look {
    rows: u64,
    disk_bytes_done: u64,
    disk_bytes: u64,
    elapsed: Duration,
}

impl Look {
    fn at(progress: &ImageProgress, elapsed: Duration) -> Look {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (rows, disk_bytes) = (of(&progress.rows), of(&progress.disk_bytes));
        Look { rows, disk_bytes_done: of(&progress.disk_bytes_done), disk_bytes, elapsed }
    }

    fn percent(&self) -> u64 {
        self.disk_bytes_done * 100 / self.disk_bytes.max(1)
    }

    /// Rows, their rate, and the time that the rest takes at the pace so far.
    fn text(&self) -> String {
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        let rate = human::count((self.rows as f64 / seconds) as u64);
        let said = format!("{}, {rate} rows/s", human::rows(self.rows));
        if self.disk_bytes_done == 0 {
            return said;
        }
        let rest = self.disk_bytes.saturating_sub(self.disk_bytes_done) as f64 / self.disk_bytes_done as f64;
        format!("{said}, {} left", human::duration(Duration::from_secs((seconds * rest).ceil() as u64)))
    }
}

/// What `run --json` writes to stdout, one object each.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    /// Of the last minutes, once a minute; the last one is of the whole run.
    Freshness(Freshness),
}

/// Logs what happens while the archiver runs.
pub(super) struct RunShown {
    pub(super) json: bool,
    /// For maintenance.
    pub(super) published: Published,
    /// For the guard, where there is one.
    pub(super) entrance: Option<Entrance>,
    /// For whoever asks over HTTP.
    pub(super) counters: Option<Arc<Counters>>,
}

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
        self.published.note(publication);
        if let Some(entrance) = &self.entrance {
            entrance.published(publication);
        }
        if let Some(counters) = &self.counters {
            counters.note(publication);
        }
        tracing::debug!("published {} transactions up to {}", publication.transactions.len(), publication.end);
    }

    fn measured(&self, freshness: Freshness) {
        tracing::info!("fresh within {}", human::freshness(&freshness));
        if self.json {
            let event = serde_json::to_string(&Event::Freshness(freshness)).unwrap_or_default();
            // Whoever reads the events may stop doing so; archiving goes on.
            let _ = print_text(stdout(), &format!("{event}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_share_that_is_done() {
        let look = |done| Look { rows: 3000, disk_bytes_done: done, disk_bytes: 400, elapsed: Duration::from_secs(30) };
        assert_eq!(look(100).text(), "3,000 rows, 100 rows/s, 1 min 30 s left");
        assert_eq!((look(100).percent(), look(400).percent()), (25, 100));
        assert_eq!(look(400).text(), "3,000 rows, 100 rows/s, 0 ms left");
        assert_eq!(look(0).text(), "3,000 rows, 100 rows/s");
    }
}
