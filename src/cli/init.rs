//! `afterimage init`.

use std::io::stdout;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::context::{Context, parse_pattern};
use super::output::{human, print_document, print_text};
use super::progress::InitShown;
use crate::capture::{self, ContextReport, ContextWish, InitReport};
use crate::config::{ByteRate, CaptureConfig};
use crate::failure::Result;
use crate::model::{Lsn, TableName, TablePattern};

/// Which tables, and under which names.
#[derive(Debug, Clone, Args)]
pub(super) struct InitArgs {
    /// Begin to archive these tables too, in an archive that exists
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = parse_pattern,
        conflicts_with_all = ["tables", "all_tables", "slot", "publication", "no_ddl_capture"])]
    add: Vec<TablePattern>,
    /// Archive only these tables: orders, sales.*, "Quoted"."Name"; several with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', conflicts_with = "all_tables")]
    tables: Vec<String>,
    /// Archive every ordinary table, whatever the configuration file names
    #[arg(long)]
    all_tables: bool,
    /// Set tables without a usable replica identity to FULL instead of leaving them out
    #[arg(long)]
    set_identity_full: bool,
    /// Install no event triggers; changes of definitions are then looked for in the catalogue
    #[arg(long)]
    no_ddl_capture: bool,
    /// Put triggers on tables that tell who wrote and with which statement: on all, or --context=orders,sales.*
    #[arg(long, value_name = "PATTERN", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        default_missing_value = "*.*", conflicts_with = "add")]
    context: Vec<String>,
    /// Mask this in the statements that they tell, before it leaves the source: literals, or a regular expression
    #[arg(long, value_name = "REGEX", conflicts_with = "add")]
    context_redact: Vec<String>,
    /// Remove the triggers that tell who wrote
    #[arg(long, conflicts_with_all = ["context", "context_redact", "add"])]
    no_context: bool,
    /// Name of the replication slot; afterimage_DATABASE by default
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// Name of the publication; afterimage by default
    #[arg(long, value_name = "NAME")]
    publication: Option<String>,
    /// Connections that copy the base image; 4 by default
    #[arg(long, value_name = "N")]
    copy_workers: Option<usize>,
    /// Read base images no faster than this, over all connections: 50MB/s
    #[arg(long, value_name = "RATE")]
    throttle: Option<ByteRate>,
}

impl InitArgs {
    /// Whether anything here was asked for.
    pub(super) fn is_given(&self) -> bool {
        !self.add.is_empty()
            || !self.tables.is_empty()
            || self.all_tables
            || self.set_identity_full
            || self.no_ddl_capture
            || !self.context.is_empty()
            || !self.context_redact.is_empty()
            || self.no_context
            || self.slot.is_some()
            || self.publication.is_some()
            || self.copy_workers.is_some()
            || self.throttle.is_some()
    }

    pub(super) fn config(self) -> CaptureConfig {
        let tables = if self.all_tables { vec!["*.*".to_owned()] } else { self.tables };
        CaptureConfig {
            tables,
            slot: self.slot,
            publication: self.publication,
            set_identity_full: self.set_identity_full,
            no_ddl_capture: self.no_ddl_capture,
            context: self.context,
            context_redact: self.context_redact,
            copy_workers: self.copy_workers,
            throttle: self.throttle,
            ..CaptureConfig::default()
        }
    }
}

pub(super) async fn run(context: &Context, args: InitArgs) -> Result<()> {
    if !args.add.is_empty() {
        return add(context, args).await;
    }
    let no_context = args.no_context;
    let mut settings = context.capture(args.config())?;
    if no_context {
        settings.context = ContextWish::None;
    }
    let (source, store) = (context.source()?, context.store()?);
    let started = Instant::now();
    let steps = InitShown::default();
    let report = capture::init(&source, &store, &settings, &steps, super::run::stop_requested()).await?;
    if context.json {
        return print_document(stdout(), &json(&report));
    }
    print_text(stdout(), &text(&report, started.elapsed()))
}

async fn add(context: &Context, args: InitArgs) -> Result<()> {
    let patterns = args.add.clone();
    let settings = context.capture(args.config())?;
    let (source, archive) = (context.source()?, context.archive().await?);
    let asked = capture::add(&source, &archive, &settings, &patterns).await?;
    let deadline = Instant::now() + context.wait;
    let mut begun = Vec::new();
    for table in &asked.tables {
        let lsn = loop {
            match capture::begins_at(&archive, table, asked.lsn).await? {
                Some(lsn) => break Some(lsn),
                None if Instant::now() >= deadline => break None,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        begun.push((table, lsn));
    }
    if context.json {
        let tables = begun.iter().map(|(table, lsn)| json!({ "table": table.to_string(), "start_lsn": lsn }));
        return print_document(stdout(), &tables.collect::<Vec<_>>());
    }
    let line = |(table, lsn): &(&TableName, Option<Lsn>)| match lsn {
        Some(lsn) => format!("the history of {table} begins at {lsn}\n"),
        None => {
            format!("{table} is asked for; the archiver takes its base image as soon as it can (is one running?)\n")
        }
    };
    print_text(stdout(), &begun.iter().map(line).collect::<String>())
}

fn json(report: &InitReport) -> serde_json::Value {
    json!({
        "already": report.already,
        "database": report.identity.database,
        "start_lsn": report.identity.start_lsn,
        "slot": report.identity.slot,
        "publication": report.identity.publication,
        "tables": report.tables,
        "rows": report.rows,
        "bytes": report.bytes,
        "left_out": report.left_out,
        "context": report.context.as_ref().map(|context| json!({
            "tables": context.tables,
            "refused": context.refused.iter().map(|(table, why)| json!({ "table": table, "cause": why })).collect::<Vec<_>>(),
            "first_microseconds": context.first_micros,
            "again_microseconds": context.again_micros,
        })),
    })
}

fn text(report: &InitReport, elapsed: Duration) -> String {
    let identity = &report.identity;
    if report.already {
        let said = format!(
            "the archive of {} exists since {}, with {}; ",
            identity.database,
            identity.start_lsn,
            human::counted(report.tables as u64, "table")
        );
        return match &report.context {
            Some(context) => format!("{said}nothing but context was changed\n{}", context_text(context)),
            None => format!("{said}nothing was changed\n"),
        };
    }
    format!(
        "the archive of {} begins at {}: {}, {} in {}\n{}now run the archiver: afterimage run\n",
        identity.database,
        identity.start_lsn,
        human::counted(report.tables as u64, "table"),
        human::rows(report.rows),
        human::duration(elapsed),
        report.context.as_ref().map(context_text).unwrap_or_default()
    )
}

fn context_text(context: &ContextReport) -> String {
    let mut text = format!(
        "context: {} have triggers that tell who wrote; measured here, they cost a statement {:.0} µs, and {:.0} µs where \
         its transaction ran the same before\n",
        human::counted(context.tables as u64, "table"),
        context.first_micros,
        context.again_micros
    );
    for (table, why) in &context.refused {
        text.push_str(&format!("context: not on {table}: {why}\n"));
    }
    text
}
