//! Alerts by HTTP.

use std::sync::LazyLock;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value as Json, json};

use super::{Delivery, WebhookFormat};
use crate::failure::{Failure, Result};
use crate::model::Severity;

/// `None` where no client can be made, which is said at each attempt.
static CLIENT: LazyLock<Option<Client>> =
    LazyLock::new(|| Client::builder().timeout(Duration::from_secs(20)).build().ok());

pub(super) async fn deliver(url: &str, format: WebhookFormat, delivery: &Delivery) -> Result<()> {
    post_json(url, body(format, delivery).to_string()).await
}

/// Sends a JSON document.
///
/// # Errors
/// Transient where it is not taken, without the address, which often is the secret itself.
pub async fn post_json(url: &str, body: String) -> Result<()> {
    let client = CLIENT.as_ref().ok_or_else(|| Failure::failed("no HTTP client can be made"))?;
    let request = client.post(url).header("content-type", "application/json").body(body);
    let answer = request.send().await.map_err(|error| Failure::transient(error.without_url().to_string()))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(Failure::transient(format!("the webhook answers {status}"))) }
}

fn body(format: WebhookFormat, delivery: &Delivery) -> Json {
    let alert = &delivery.alert;
    match format {
        WebhookFormat::Json => delivery.json(),
        WebhookFormat::Slack => {
            let field = |title: &str, value: String| json!({ "title": title, "value": value, "short": true });
            let mut fields = vec![field("table", alert.table.clone()), field("rows", alert.rows.to_string())];
            fields.extend(alert.xid.map(|xid| field("transaction", xid.to_string())));
            json!({
                "text": delivery.text(),
                "attachments": [{ "color": color(alert.severity), "fields": fields, "footer": alert.id }],
            })
        }
        WebhookFormat::Alertmanager => {
            let mut annotations = json!({ "summary": alert.message, "id": alert.id });
            annotations["command"] = alert.command.clone().into();
            json!([{
                "labels": {
                    "alertname": "afterimage_guard",
                    "rule": alert.rule,
                    "severity": alert.severity.as_str().to_lowercase(),
                    "table": alert.table,
                    "xid": alert.xid.map(|xid| xid.to_string()).unwrap_or_default(),
                },
                "annotations": annotations,
                "startsAt": alert.time,
            }])
        }
    }
}

fn color(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "#439fe0",
        Severity::Warning => "warning",
        Severity::Critical | Severity::Emergency => "danger",
    }
}
