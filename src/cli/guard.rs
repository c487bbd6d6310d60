//! `afterimage guard`.

use std::collections::BTreeMap;
use std::io::stdout;

use chrono::Utc;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::context::{Context, parse_point};
use super::output::{print_document, print_text};
use crate::archive::note_alerts;
use crate::failure::{Failure, Result};
use crate::guard::{Rule, Trial, try_rule};
use crate::history::shown_time;
use crate::model::{AlertEvent, AlertRecord, Lsn, Point, Severity, Xid};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage guard alerts
  afterimage guard ack 3f2a --note 'the migration of release 7'
  afterimage guard test memberships --from '7d ago'
The rules are in the configuration, [[rule]] and packs; afterimage run applies them, and reads
the file again when it changes.")]
pub(super) struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum GuardCommand {
    /// List alerts that nobody has acknowledged, newest first; exit code 3 if there are any
    Alerts {
        /// Those that were acknowledged too
        #[arg(long)]
        all: bool,
    },
    /// Acknowledge alerts, so that they are told no more
    Ack {
        /// Their ids, or the beginnings of them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Why
        #[arg(long)]
        note: Option<String>,
    },
    /// List the rules in force
    Rules,
    /// How often would a rule have raised an alert?
    Test {
        /// The rule's name
        #[arg(value_name = "RULE")]
        rule: String,
        /// From here on; the archive's beginning without it
        #[arg(long, value_name = "POINT", value_parser = parse_point)]
        from: Option<Point>,
        /// Up to here; all that is archived without it
        #[arg(long, value_name = "POINT", value_parser = parse_point)]
        to: Option<Point>,
    },
}

pub(super) async fn run(context: &Context, args: GuardArgs) -> Result<()> {
    match args.command {
        GuardCommand::Alerts { all } => list(context, all).await,
        GuardCommand::Ack { ids, note } => acknowledge(context, &ids, note).await,
        GuardCommand::Rules => rules(context),
        GuardCommand::Test { rule, from, to } => test(context, &rule, from, to).await,
    }
}

/// An alert with what became of it.
#[derive(Debug, Clone, Serialize)]
struct Alert {
    id: String,
    time: String,
    rule: String,
    severity: Severity,
    xid: Option<Xid>,
    lsn: Option<Lsn>,
    table: String,
    rows: u64,
    message: String,
    command: Option<String>,
    events: Vec<Event>,
    acknowledged: bool,
    tenants: serde_json::Value,
    samples: serde_json::Value,
    context: serde_json::Value,
}

#[derive(Debug, Clone, Serialize)]
struct Event {
    time: String,
    event: AlertEvent,
    message: String,
    user: Option<String>,
}

/// Each alert with its later events, newest first.
fn gathered(records: Vec<AlertRecord>) -> Vec<Alert> {
    let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
    let mut order = Vec::new();
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_default();
    for record in records {
        let alert = alerts.entry(record.id.clone()).or_insert_with(|| {
            order.push(record.id.clone());
            Alert {
                id: record.id.clone(),
                time: shown_time(record.time),
                rule: record.rule.clone(),
                severity: record.severity,
                xid: record.xid,
                lsn: None,
                table: record.table.clone(),
                rows: record.rows,
                message: record.message.clone(),
                command: None,
                events: Vec::new(),
                acknowledged: false,
                tenants: parse(&record.tenants),
                samples: parse(&record.samples),
                context: record.context.as_deref().map(parse).unwrap_or_default(),
            }
        });
        alert.lsn = record.lsn.or(alert.lsn);
        alert.command = record.command.or(alert.command.take());
        alert.acknowledged |= record.event == AlertEvent::Acknowledged;
        if record.event == AlertEvent::RolledBack {
            alert.command = None;
        }
        if record.event != AlertEvent::Raised {
            let (time, event, message) = (shown_time(record.time), record.event, record.message);
            alert.events.push(Event { time, event, message, user: record.user });
        }
    }
    order.iter().rev().filter_map(|id| alerts.remove(id)).collect()
}

async fn list(context: &Context, all: bool) -> Result<()> {
    let mut alerts = gathered(context.archive().await?.alerts().await?);
    let open = alerts.iter().filter(|alert| !alert.acknowledged).count();
    if !all {
        alerts.retain(|alert| !alert.acknowledged);
    }
    match context.json {
        true => print_document(stdout(), &alerts)?,
        false => print_text(stdout(), &alerts.iter().map(text).collect::<String>())?,
    }
    match open {
        0 => Ok(()),
        many => Err(Failure::check_failed(format!("{many} alerts are not acknowledged"))
            .remedy("afterimage guard ack ID says that somebody has seen them")),
    }
}

fn text(alert: &Alert) -> String {
    let mut text =
        format!("{}  {:<9} {}  {}\n", &alert.id[..8.min(alert.id.len())], alert.severity, alert.time, alert.message);
    for event in &alert.events {
        let user = event.user.as_ref().map_or(String::new(), |user| format!(" by {user}"));
        text.push_str(&format!(
            "          {} {}{user}: {}\n",
            event.time,
            event.event.as_str().replace('_', " "),
            event.message
        ));
    }
    if let Some(tenants) = alert.tenants.as_object().filter(|tenants| !tenants.is_empty()) {
        let shown: Vec<String> = tenants.iter().take(5).map(|(tenant, rows)| format!("{tenant}: {rows}")).collect();
        let more = if tenants.len() > 5 { format!(" and {} more", tenants.len() - 5) } else { String::new() };
        text.push_str(&format!("          tenants {}{more}\n", shown.join(", ")));
    }
    for name in ["user", "application", "statement"] {
        if let Some(said) = alert.context[name].as_str().filter(|said| !said.is_empty()) {
            let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
            text.push_str(&format!("          {name} {}\n", said.replace(char::is_control, "\u{b7}")));
        }
    }
    if let Some(command) = &alert.command {
        text.push_str(&format!("          to take it back: {command}\n"));
    }
    text
}

async fn acknowledge(context: &Context, ids: &[String], note: Option<String>) -> Result<()> {
    let archive = context.archive().await?;
    let records = archive.alerts().await?;
    let mut acknowledged = Vec::new();
    for id in ids {
        let found: Vec<&AlertRecord> = records
            .iter()
            .filter(|record| record.event == AlertEvent::Raised && record.id.starts_with(id.as_str()))
            .collect();
        match found.as_slice() {
            [alert] => acknowledged.push((*alert).clone()),
            [] => return Err(Failure::usage(format!("there is no alert {id}")).remedy("afterimage guard alerts --all")),
            _ => {
                return Err(
                    Failure::usage(format!("{} alerts begin with {id}", found.len())).remedy("write more of it")
                );
            }
        }
    }
    let user = whoami::username().ok();
    let note = note.unwrap_or_else(|| "seen".to_owned());
    let events: Vec<AlertRecord> = acknowledged
        .iter()
        .map(|alert| AlertRecord {
            time: Utc::now(),
            event: AlertEvent::Acknowledged,
            message: note.clone(),
            user: user.clone(),
            ..alert.clone()
        })
        .collect();
    note_alerts(archive.store(), &events, None).await?;
    match context.json {
        true => {
            print_document(stdout(), &json!({ "acknowledged": events.iter().map(|one| &one.id).collect::<Vec<_>>() }))
        }
        false => print_text(stdout(), &format!("{} acknowledged\n", events.len())),
    }
}

fn rules(context: &Context) -> Result<()> {
    let settings = context.config.guard()?;
    if context.json {
        let shown = |rule: &Rule| json!({ "name": rule.name, "severity": rule.severity, "action": rule.action, "asks": rule.summary() });
        return print_document(stdout(), &settings.rules.iter().map(shown).collect::<Vec<_>>());
    }
    let mut text = String::new();
    for rule in &settings.rules {
        text.push_str(&format!(
            "{:<28} {:<9} {:<9} {}\n",
            rule.name,
            rule.severity,
            rule.action.to_string(),
            rule.summary()
        ));
    }
    for check in &settings.health {
        text.push_str(&format!("{:<28} {:<9} {:<9} at most {}\n", check.name, check.severity, "health", check.limit));
    }
    print_text(stdout(), &text)
}

async fn test(context: &Context, name: &str, from: Option<Point>, to: Option<Point>) -> Result<()> {
    let settings = context.config.guard()?;
    let rule = settings.rules.iter().find(|rule| rule.name == name).ok_or_else(|| {
        Failure::usage(format!("the configuration has no rule {name:?}")).remedy("afterimage guard rules lists them")
    })?;
    let archive = context.archive().await?;
    let bound = async |point: Option<Point>, otherwise: Lsn| match point {
        Some(point) => context.resolve(&archive, &point).await.map(|cut| cut.lsn),
        None => Ok(otherwise),
    };
    let range = (bound(from, Lsn::ZERO).await?, bound(to, Lsn::MAX).await?);
    let source = context.source_if_named()?;
    let (transactions, found) =
        try_rule(&archive, source.as_ref(), settings.tenant_columns.clone(), rule, range).await?;
    if context.json {
        return print_document(stdout(), &json!({ "rule": name, "transactions": transactions, "alerts": found }));
    }
    let line = |one: &Trial| format!("{}  {}\n", one.time.map(shown_time).unwrap_or_default(), one.message);
    let head = format!("{name} would have raised {} alerts over {transactions} transactions\n", found.len());
    print_text(stdout(), &(head + &found.iter().map(line).collect::<String>()))
}
