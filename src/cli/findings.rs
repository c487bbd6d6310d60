//! Whether what there is to know of a source and its archive is as it should be: findings, level by level, each with what to
//! do where it is not.

use std::time::Duration;

use serde::Serialize;

use super::output::human;
use super::vitals::{SourceVitals, Vitals, slot_text};
use crate::capture::SlotState;
use crate::failure::Failure;
use crate::history::shown_time;
use crate::model::HealthStatus;

/// What a finding says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// It works, and something else is not as it should be.
    Warning,
    Failed,
}

/// Something that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    /// `connection`, `source`, `slot`, `publication`, `definitions`, `archive`, `health`, `alerts`, `schema`, `version`,
    /// `bootstrap`.
    pub(super) level: &'static str,
    pub(super) state: State,
    pub(super) details: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(level: &'static str, details: impl Into<String>) -> Finding {
        Finding { level, state: State::Ok, details: details.into(), remedy: None }
    }

    pub(super) fn warning(level: &'static str, details: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { level, state: State::Warning, details: details.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn failed(level: &'static str, details: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { level, state: State::Failed, details: details.into(), remedy: Some(remedy.into()) }
    }

    /// The same as a failure says it.
    pub(super) fn of_failure(level: &'static str, failure: &Failure) -> Finding {
        let remedy = failure.remedy_text().map(str::to_owned);
        Finding { level, state: State::Failed, details: failure.cause().to_owned(), remedy }
    }

    pub(super) fn failure(self) -> Failure {
        let failure = Failure::check_failed(self.details);
        match self.remedy {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }
}

/// Whether changes reach the archive: the connection, the slot, the publication.
pub(super) fn of_stream(vitals: &Vitals) -> Vec<Finding> {
    match (&vitals.source, &vitals.source_error) {
        (Some(source), _) => vec![
            Finding::ok("connection", format!("the source answers, at {}", source.position)),
            slot(source.slot.as_ref()),
            publication(source),
        ],
        (None, Some(error)) => {
            let remedy = "look at the server, the address and the role; changes wait in the slot meanwhile";
            vec![Finding::failed("connection", format!("the source cannot be looked at: {error}"), remedy)]
        }
        (None, None) => {
            vec![Finding::warning("connection", "no source is named, so it was not looked at", "add --source")]
        }
    }
}

/// All that the vitals tell. The archive may be so far behind.
pub(super) fn of_vitals(vitals: &Vitals, max_lag: Duration) -> Vec<Finding> {
    let mut findings = of_stream(vitals);
    findings.extend(vitals.source.as_ref().map(definitions));
    findings.push(archive(vitals, max_lag));
    findings.extend(vitals.health.iter().map(|one| {
        let details = format!("{} at {}", one.details, shown_time(one.time));
        match one.status {
            HealthStatus::Healthy => Finding::ok("health", details),
            _ => Finding::warning("health", details, one.resolution.clone().unwrap_or_else(|| "look into it".into())),
        }
    }));
    let open: usize = vitals.alerts.values().sum();
    findings.push(match open {
        0 => Finding::ok("alerts", "no alert waits for somebody"),
        open => {
            let details = format!("{} not acknowledged", human::counted(open as u64, "alert"));
            Finding::warning("alerts", details, "afterimage guard alerts")
        }
    });
    findings
}

fn slot(found: Option<&SlotState>) -> Finding {
    let failed = |cause: String, remedy: &str| Finding::failed("slot", cause, remedy);
    match found {
        None => failed(
            "the archive's replication slot does not exist".into(),
            "changes are being lost: afterimage run records the gap, reads every table anew and goes on",
        ),
        Some(slot) if slot.wal_status == "lost" => failed(
            format!("the slot {} lost log that was not archived", slot.name),
            "afterimage run records the gap, reads every table anew and goes on",
        ),
        Some(slot) if slot.active_pid.is_none() => failed("no archiver is running".into(), "start one: afterimage run"),
        Some(slot) if slot.wal_status == "unreserved" => Finding::warning(
            "slot",
            format!("{}: the next checkpoint may cut it off", slot_text(slot)),
            "see why the archiver is behind, or raise max_slot_wal_keep_size",
        ),
        Some(slot) if slot.safe_wal_size.is_some_and(|left| left < slot.held_bytes) => Finding::warning(
            "slot",
            format!("{}: that is more than half of what it may hold back", slot_text(slot)),
            "see why the archiver is behind, or raise max_slot_wal_keep_size",
        ),
        Some(slot) => Finding::ok("slot", slot_text(slot)),
    }
}

fn publication(source: &SourceVitals) -> Finding {
    if !source.no_longer_published.is_empty() {
        return Finding::failed(
            "publication",
            format!("changes of {} are not archived any more", source.no_longer_published.join(", ")),
            "the publication has lost them; add them again with ALTER PUBLICATION … ADD TABLE, what happened meanwhile is missing",
        );
    }
    match source.not_archived.as_slice() {
        [] => Finding::ok("publication", "every table of the source is archived"),
        some => {
            let details = format!("not archived: {}", some.join(", "));
            Finding::warning("publication", details, "begin with them: afterimage init --add --tables PATTERN")
        }
    }
}

fn definitions(source: &SourceVitals) -> Finding {
    match source.ddl_capture {
        true => Finding::ok("definitions", "event triggers capture every change of a definition"),
        false => Finding::warning(
            "definitions",
            "changes of definitions are looked for in the catalogue, and their place in history is not exact",
            "as a superuser: afterimage init, which installs event triggers",
        ),
    }
}

fn archive(vitals: &Vitals, max_lag: Duration) -> Finding {
    let at = format!("the watermark is {} ({})", vitals.watermark, shown_time(vitals.watermark_time));
    let Some(source) = &vitals.source else { return Finding::ok("archive", at) };
    let late = Duration::from_secs_f64(source.lag_seconds);
    let details = format!("{at}, {} and {} behind", human::bytes(source.lag_bytes), human::duration(late));
    if late > max_lag {
        let remedy = "afterimage status shows which step is behind";
        return Finding::failed("archive", details, remedy);
    }
    Finding::ok("archive", details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;

    #[test]
    fn a_slot_is_warned_of_long_before_it_is_cut_off() {
        let with_left = |safe_wal_size: Option<i64>, wal_status: &str| {
            slot(Some(&SlotState {
                name: "s".into(),
                active_pid: Some(1),
                sent: None,
                received: None,
                confirmed_flush: Lsn(1),
                wal_status: wal_status.into(),
                held_bytes: 50 << 20,
                safe_wal_size,
                synchronous: false,
                failover: None,
            }))
            .state
        };
        assert_eq!(with_left(None, "reserved"), State::Ok);
        assert_eq!(with_left(Some(51 << 20), "reserved"), State::Ok);
        assert_eq!(with_left(Some(49 << 20), "extended"), State::Warning);
        assert_eq!(with_left(Some(-1), "unreserved"), State::Warning);
        assert_eq!(with_left(Some(-1), "lost"), State::Failed);
        assert_eq!(slot(None).state, State::Failed);
    }
}
