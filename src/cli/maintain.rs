//! `afterimage maintain`.

use std::io::stdout;

use clap::Args;
use serde::Serialize;
use tokio::sync::watch;

use super::context::Context;
use super::output::{human, print_document, print_text};
use super::run::stop_requested;
use crate::config::{ByteSize, MaintenanceConfig, Span};
use crate::failure::Result;
use crate::maintenance::{Policy, TablePlan, TableReport, maintain, plan};

#[derive(Debug, Clone, Args)]
pub(super) struct MaintainArgs {
    /// How long a file stays after it was replaced, for readers of older versions of its table; 24h by default
    #[arg(long, value_name = "DURATION")]
    retention: Option<Span>,
    /// Memory for sorting, and as much for the keys of changed rows; what is more waits in the system's temporary directory
    #[arg(long, value_name = "SIZE", default_value = "256MB")]
    memory: ByteSize,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    archive: String,
    tables: Vec<TableReport>,
}

#[derive(Debug, Serialize)]
struct Plan {
    archive: String,
    planned: Vec<TablePlan>,
}

pub(super) async fn run(context: &Context, args: MaintainArgs) -> Result<()> {
    let archive = context.archive().await?;
    let file = context.config.maintenance.clone();
    let policy = MaintenanceConfig { retention: args.retention.or(file.retention), ..file }.policy();
    let policy = Policy { memory_bytes: args.memory.0 as usize, ..policy };
    if args.dry_run {
        let report = Plan { archive: archive.store().to_string(), planned: plan(&archive, &policy).await? };
        return if context.json {
            print_document(stdout(), &report)
        } else {
            print_text(stdout(), &planned_text(&report))
        };
    }
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(async move {
        stop_requested().await;
        tracing::info!("stopping after the table at hand");
        stopper.send_replace(true);
        stopper.closed().await;
    });
    let tables = maintain(&archive, &policy, &stop).await?;
    let report = Report { archive: archive.store().to_string(), tables };
    if context.json { print_document(stdout(), &report) } else { print_text(stdout(), &text(&report)) }
}

fn planned_text(plan: &Plan) -> String {
    let tables: Vec<&TablePlan> = plan.planned.iter().filter(|table| !table.is_empty()).collect();
    if tables.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let width = tables.iter().map(|table| table.table.len()).max().unwrap_or(0);
    tables.iter().map(|table| format!("{:width$}  {}\n", table.table, planned(table))).collect()
}

fn planned(table: &TablePlan) -> String {
    let (merge, delete) = (table.merge, table.delete);
    let mut parts = Vec::new();
    if merge.files > 0 {
        let files = human::counted(merge.files as u64, "file");
        parts.push(format!("merge {files} ({}) into about {}", human::bytes(merge.bytes), merge.into));
    }
    if table.image {
        parts.push("write a base image".to_owned());
    }
    if delete.files > 0 {
        let files = human::counted(delete.files as u64, "file");
        parts.push(format!("delete {files} ({})", human::bytes(delete.bytes)));
    }
    if delete.log_files > 0 {
        parts.push(format!("delete {} of the Delta log", human::counted(delete.log_files as u64, "file")));
    }
    parts.join(", ")
}

fn text(report: &Report) -> String {
    let tables = report.tables.iter();
    let width = tables.map(|table| table.table.len()).max().unwrap_or(0);
    let mut lines: Vec<String> = report.tables.iter().map(|table| line(table, width)).collect();
    let deleted: usize = report.tables.iter().map(|table| table.deleted.files).sum();
    let bytes = report.tables.iter().map(|table| table.deleted.bytes).sum();
    lines.push(format!("deleted {} ({})", human::counted(deleted as u64, "file"), human::bytes(bytes)));
    lines.join("\n") + "\n"
}

fn line(table: &TableReport, width: usize) -> String {
    let image = table.image.map(|lsn| format!(", base image at {lsn}")).unwrap_or_default();
    let alone = if table.left_alone { ", left to who else maintains it" } else { "" };
    format!(
        "{:width$}  {} -> {} files, {} -> {}{image}{alone}",
        table.table,
        table.files_before,
        table.files_after,
        human::bytes(table.bytes_before),
        human::bytes(table.bytes_after)
    )
}
