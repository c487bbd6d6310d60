//! What a rule found, and the alert that says so.

use chrono::Utc;
use serde_json::Value as Json;
use uuid::Uuid;

use super::judge::Judged;
use super::rule::Rule;
use crate::model::{AlertEvent, AlertRecord, GapRecord, HealthRecord, Lsn, Severity, Xid};

/// A rule that is met.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    /// The tables, for people.
    pub(super) table: String,
    pub(super) xid: Option<Xid>,
    /// Commit LSN, where it has committed.
    pub(super) lsn: Option<Lsn>,
    /// The first of several transactions, where there are several.
    pub(super) since: Option<Lsn>,
    /// How many transactions together.
    pub(super) transactions: u64,
    /// Changes that count.
    pub(super) rows: u64,
    pub(super) judged: Judged,
    /// What the transaction said of itself, and who runs it.
    pub(super) context: Option<Json>,
    /// What else is to be said.
    pub(super) note: Option<String>,
}

impl Finding {
    pub(super) fn alert(&self, rule: &Rule) -> AlertRecord {
        AlertRecord {
            id: Uuid::new_v4().to_string(),
            time: Utc::now(),
            event: AlertEvent::Raised,
            rule: rule.name.clone(),
            severity: rule.severity,
            lsn: self.lsn,
            xid: self.xid,
            table: self.table.clone(),
            rows: self.rows,
            tenants: serde_json::to_string(&self.judged.tenants).unwrap_or_default(),
            samples: serde_json::to_string(&self.judged.samples).unwrap_or_default(),
            context: self.context.as_ref().map(Json::to_string),
            message: self.message(rule),
            command: self.command(),
            user: None,
        }
    }

    fn message(&self, rule: &Rule) -> String {
        let operations: Vec<&str> = rule.operations.iter().map(|watched| watched.as_str()).collect();
        let what = format!("{} changes ({}) of {}", self.rows, operations.join(", "), self.table);
        let who = match (self.xid, self.transactions) {
            (Some(xid), 0 | 1) => format!("by transaction {xid}"),
            (_, many) => format!("by {many} transactions"),
        };
        let when = match self.lsn {
            Some(lsn) => format!("committed at {lsn}"),
            None => "which has not committed yet".to_owned(),
        };
        let mut text = format!("{}: {what} {who}, {when}", rule.name);
        let tenants = self.judged.tenants.len();
        if tenants > 0 {
            let of = if tenants == 1 { "tenant" } else { "tenants" };
            text.push_str(&format!("; of {tenants} {of}"));
            if self.judged.examined < self.rows {
                text.push_str(&format!(" among the first {} rows", self.judged.examined));
            }
        }
        for more in [&self.note, &rule.resolution].into_iter().flatten() {
            text.push_str(&format!("; {more}"));
        }
        text
    }

    /// The command that takes it back.
    fn command(&self) -> Option<String> {
        match (self.transactions, self.lsn, self.since, self.xid) {
            (2.., _, Some(since), _) => Some(format!("afterimage log --from before:{since}")),
            (_, Some(lsn), _, _) => Some(undo(lsn)),
            (_, None, _, Some(xid)) => Some(format!("afterimage restore --undo {xid} --apply")),
            _ => None,
        }
    }
}

/// What is said where the archive could not see a part of history.
pub fn gap_alert(gap: &GapRecord) -> AlertRecord {
    let lsn = gap.commit_lsn();
    let message = format!(
        "gap: nobody saw what was committed between {} and {}: {}; what it did to rows is archived as the transaction at {lsn}",
        gap.lsn, gap.end_lsn, gap.reason
    );
    AlertRecord {
        lsn: Some(lsn),
        command: Some(format!("afterimage show {lsn}")),
        ..of_the_archive("gap", Severity::Emergency, message)
    }
}

/// What is said where the archive could not be proven, by the check that found it.
pub fn proof_alert(record: &HealthRecord) -> AlertRecord {
    let details = record.details.lines().last().unwrap_or_default();
    let message = format!("{} has failed: {details}", record.check);
    AlertRecord { command: record.resolution.clone(), ..of_the_archive(&record.check, record.severity, message) }
}

/// An alert that is not about a rule.
fn of_the_archive(rule: &str, severity: Severity, message: String) -> AlertRecord {
    AlertRecord {
        id: Uuid::new_v4().to_string(),
        time: Utc::now(),
        event: AlertEvent::Raised,
        rule: rule.to_owned(),
        severity,
        lsn: None,
        xid: None,
        table: "*".to_owned(),
        rows: 0,
        tenants: "{}".to_owned(),
        samples: "[]".to_owned(),
        context: None,
        message,
        command: None,
        user: None,
    }
}

/// The command that takes a transaction back.
pub(super) fn undo(lsn: Lsn) -> String {
    format!("afterimage restore --undo {lsn} --apply")
}

/// A later event of an alert's life.
pub(super) fn later(alert: &AlertRecord, event: AlertEvent, message: String) -> AlertRecord {
    AlertRecord { event, time: Utc::now(), message, ..alert.clone() }
}
