//! Where alerts are told. Each sink has a queue and a task of its own, so a dead one holds nothing up but itself.

mod email;
mod exec;
mod table;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::failure::Result;
use crate::model::{AlertRecord, Severity, TableName};
use crate::postgres::Source;

pub use webhook::post_json;

/// Alerts that may wait for one sink.
const QUEUED: usize = 256;
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// An alert that could not be told for so long stays in the archive only.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Where alerts go, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSettings {
    pub name: String,
    pub kind: SinkKind,
    /// Milder ones are not told here.
    pub severity: Severity,
    /// Only what nobody acknowledged is told here.
    pub escalation_only: bool,
}

/// What kind of place it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// One JSON object per line on standard output.
    Stdout,
    Webhook {
        url: String,
        format: WebhookFormat,
    },
    /// `smtp://` or `smtps://`, with user and password where the server asks for them.
    Email {
        server: String,
        from: String,
        to: Vec<String>,
    },
    /// A program and its arguments; the alert is a JSON object on its standard input.
    Exec(Vec<String>),
    /// A table of the source with the columns `alert_type`, `severity`, `message` and `metadata`.
    Table(TableName),
}

/// What a webhook is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The alert as one JSON object.
    Json,
    /// What Slack's incoming webhooks take, and Mattermost's and Discord's (`/slack`) too.
    Slack,
    /// What Alertmanager's `/api/v2/alerts` takes.
    Alertmanager,
}

/// An alert on its way.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) alert: AlertRecord,
    /// Others of the same rule that were not told, since there were too many.
    pub(super) held_back: u64,
}

impl Delivery {
    /// What is told, as people read it.
    fn text(&self) -> String {
        let alert = &self.alert;
        let event = match alert.event.as_str() {
            "raised" => String::new(),
            other => format!(" {}", other.replace('_', " ")),
        };
        let mut text = format!("[{}]{event} {}", alert.severity, alert.message);
        if let Some(command) = &alert.command {
            text.push_str(&format!("\nto take it back: {command}"));
        }
        if self.held_back > 0 {
            text.push_str(&format!("\n{} more alerts of this rule were not told", self.held_back));
        }
        text
    }

    fn json(&self) -> Json {
        let alert = &self.alert;
        let inner = |text: &str| serde_json::from_str::<Json>(text).unwrap_or(Json::Null);
        json!({
            "id": alert.id, "time": alert.time, "event": alert.event, "rule": alert.rule, "severity": alert.severity,
            "lsn": alert.lsn, "xid": alert.xid, "table": alert.table, "rows": alert.rows,
            "tenants": inner(&alert.tenants), "samples": inner(&alert.samples),
            "context": alert.context.as_deref().map(inner), "message": alert.message, "command": alert.command,
            "held_back": self.held_back,
        })
    }
}

/// A sink at work. Dropped, it ends, and what it has not told by then stays in the archive only.
pub(super) struct Sink {
    settings: SinkSettings,
    queue: mpsc::Sender<Arc<Delivery>>,
    task: JoinHandle<()>,
}

impl Sink {
    pub(super) fn start(settings: SinkSettings, source: Option<Source>) -> Sink {
        let (queue, waiting) = mpsc::channel(QUEUED);
        let task = tokio::spawn(work(settings.clone(), source, waiting));
        Sink { settings, queue, task }
    }

    /// Queues an alert where the sink is for such.
    pub(super) fn tell(&self, delivery: &Arc<Delivery>, escalated: bool) {
        let severe = delivery.alert.severity >= self.settings.severity;
        if severe && (escalated || !self.settings.escalation_only) && self.queue.try_send(Arc::clone(delivery)).is_err()
        {
            tracing::error!(
                "the sink {} is too far behind: alert {} is not told",
                self.settings.name,
                delivery.alert.id
            );
        }
    }

    /// Gives what is queued a moment to be told.
    pub(super) async fn finish(self, patience: Duration) {
        let Sink { queue, mut task, settings } = self;
        drop(queue);
        if tokio::time::timeout(patience, &mut task).await.is_err() {
            tracing::warn!("the sink {} has not told every alert; afterimage.alerts has them", settings.name);
            task.abort();
        }
    }
}

async fn work(settings: SinkSettings, source: Option<Source>, mut waiting: mpsc::Receiver<Arc<Delivery>>) {
    while let Some(delivery) = waiting.recv().await {
        let (started, mut pause) = (tokio::time::Instant::now(), Duration::from_secs(1));
        loop {
            let attempt = tokio::time::timeout(ATTEMPT, deliver(&settings.kind, source.as_ref(), &delivery)).await;
            let failed = match attempt {
                Ok(Ok(())) => break,
                Ok(Err(failure)) => failure.to_string(),
                Err(_) => format!("no answer within {} s", ATTEMPT.as_secs()),
            };
            let last = started.elapsed() > GIVEN_UP_AFTER;
            let then = if last { "given up" } else { "tried again until it works" };
            tracing::warn!("the sink {} does not take alert {}, {then}: {failed}", settings.name, delivery.alert.id);
            if last {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    }
}

async fn deliver(kind: &SinkKind, source: Option<&Source>, delivery: &Delivery) -> Result<()> {
    match kind {
        SinkKind::Stdout => {
            use std::io::Write as _;
            let line = format!("{}\n", delivery.json());
            // Whoever reads the alerts may stop doing so; they are in the archive.
            let _ = std::io::stdout().write_all(line.as_bytes());
            Ok(())
        }
        SinkKind::Webhook { url, format } => webhook::deliver(url, *format, delivery).await,
        SinkKind::Email { server, from, to } => email::deliver(server, from, to, delivery).await,
        SinkKind::Exec(command) => exec::deliver(command, delivery).await,
        SinkKind::Table(table) => table::deliver(source, table, delivery).await,
    }
}
