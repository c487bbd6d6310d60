//! Numbers as Prometheus reads them (its text format, 0.0.4). Units are in the names: bytes, seconds, a total.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::findings::{Finding, State};
use super::probes::Counters;
use super::vitals::{SourceVitals, TableVitals, Vitals};
use crate::model::{HealthStatus, Lsn, Severity};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One number: its labels and its value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric's name, what kind it is, what it means, and its numbers.
struct Metric(&'static str, &'static str, &'static str, Vec<Sample>);

/// All of them, as text.
pub(super) fn text(
    vitals: &Vitals,
    findings: &[Finding],
    files: &[TableVitals],
    counters: Option<&Counters>,
) -> String {
    let mut metrics = of_archiver(vitals, counters);
    metrics.extend(vitals.source.iter().flat_map(|source| of_source(vitals, source)));
    metrics.extend(of_guard(vitals));
    metrics.extend(of_files(files));
    let state = |finding: &Finding| f64::from(u8::from(finding.state != State::Failed));
    let levels = findings.iter().filter(|finding| finding.level != "health");
    let levels = levels.map(|finding| (vec![("level", finding.level.to_owned())], state(finding)));
    metrics.push(Metric("afterimage_ready", "gauge", "Whether a level of /readyz has not failed.", levels.collect()));
    let mut out = String::new();
    for metric in metrics.iter().filter(|metric| !metric.3.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write(&mut out, metric);
    }
    out
}

fn write(out: &mut String, Metric(name, kind, help, samples): &Metric) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    for (labels, value) in samples {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        match labels.is_empty() {
            true => writeln!(out, "{name} {value}")?,
            false => writeln!(out, "{name}{{{}}} {value}", labels.join(","))?,
        }
    }
    Ok(())
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric(name, "gauge", help, samples)
}

fn of_archiver(vitals: &Vitals, counters: Option<&Counters>) -> Vec<Metric> {
    let counter = |name, help, value: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
        let counted = counters.map(|counters| value(counters).load(Ordering::Relaxed) as f64);
        Metric(name, "counter", help, counted.map_or_else(Vec::new, one))
    };
    let version = vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)];
    let freshness = vitals.freshness.iter().flat_map(|fresh| {
        let quantile = |at: &str, value: std::time::Duration| (vec![("quantile", at.to_owned())], value.as_secs_f64());
        [quantile("0.5", fresh.p50), quantile("0.99", fresh.p99)]
    });
    let said = vitals.archiver.as_ref();
    let of = |number: Option<f64>| number.map_or_else(Vec::new, one);
    vec![
        gauge("afterimage_build_info", "The version of the program; always 1.", version),
        counter("afterimage_transactions_total", "Transactions published since the archiver began.", |counters| {
            &counters.transactions
        }),
        counter("afterimage_changes_total", "Changes published since the archiver began.", |counters| {
            &counters.changes
        }),
        counter("afterimage_publications_total", "Publications since the archiver began.", |counters| {
            &counters.publications
        }),
        gauge(
            "afterimage_watermark_seconds",
            "Commit time of the watermark, since 1970.",
            one(vitals.watermark_time.timestamp_micros() as f64 / 1e6),
        ),
        gauge("afterimage_freshness_seconds", "From commit to durable, in the last minutes.", freshness.collect()),
        gauge(
            "afterimage_in_progress_transactions",
            "Transactions that have not ended.",
            of(said.map(|said| said.in_progress as f64)),
        ),
        gauge(
            "afterimage_spilled_bytes",
            "Bytes of transactions in progress that are in files.",
            of(said.map(|said| said.spilled_bytes as f64)),
        ),
        gauge(
            "afterimage_spill_free_bytes",
            "Bytes that are free where those files are.",
            of(said.and_then(|said| said.spill_free_bytes).map(|bytes| bytes as f64)),
        ),
    ]
}

fn of_source(vitals: &Vitals, source: &SourceVitals) -> Vec<Metric> {
    let mut metrics = vec![
        gauge(
            "afterimage_lag_bytes",
            "Bytes of log between the source's position and the watermark.",
            one(source.lag_bytes as f64),
        ),
        gauge("afterimage_lag_seconds", "Age of the watermark; 0 where nothing is missing.", one(source.lag_seconds)),
        gauge(
            "afterimage_tables_not_archived",
            "Tables of the source that are not archived.",
            one(source.not_archived.len() as f64),
        ),
    ];
    let step = |name: &str, lsn: Lsn| (vec![("step", name.to_owned())], lsn.0 as f64);
    let mut steps = vec![step("written", source.position), step("durable", vitals.watermark)];
    let decoded = vitals.archiver.as_ref().map(|said| said.decoded).filter(|decoded| *decoded > Lsn::ZERO);
    steps.extend(decoded.map(|decoded| step("decoded", decoded)));
    if let Some(slot) = &source.slot {
        steps.extend(slot.sent.map(|lsn| step("sent", lsn)));
        steps.extend(slot.received.map(|lsn| step("received", lsn)));
        steps.push(step("acknowledged", slot.confirmed_flush));
        let active = f64::from(u8::from(slot.active_pid.is_some()));
        metrics.push(gauge("afterimage_slot_active", "Whether the slot is in use.", one(active)));
        let held = slot.held_bytes.max(0) as f64;
        metrics.push(gauge(
            "afterimage_slot_held_bytes",
            "Bytes of log that the slot keeps from being removed.",
            one(held),
        ));
        let room = slot.safe_wal_size.map_or_else(Vec::new, |bytes| one(bytes.max(0) as f64));
        metrics.push(gauge(
            "afterimage_slot_headroom_bytes",
            "Bytes until the slot may be cut off; absent without a limit.",
            room,
        ));
    }
    metrics.push(gauge(
        "afterimage_lsn_bytes",
        "How far each step has come, as a position in the log in bytes.",
        steps,
    ));
    metrics
}

fn of_guard(vitals: &Vitals) -> Vec<Metric> {
    let severities = [Severity::Info, Severity::Warning, Severity::Critical, Severity::Emergency];
    let open = severities.map(|severity| {
        let open = vitals.alerts.get(&severity).copied().unwrap_or(0);
        (vec![("severity", severity.as_str().to_owned())], open as f64)
    });
    let checks = |of: &dyn Fn(&crate::model::HealthRecord) -> Option<f64>| {
        let of = |one: &crate::model::HealthRecord| Some((vec![("check", one.check.clone())], of(one)?));
        vitals.health.iter().filter_map(of).collect::<Vec<Sample>>()
    };
    vec![
        gauge("afterimage_alerts_open", "Alerts that nobody has acknowledged.", open.to_vec()),
        gauge(
            "afterimage_health_value",
            "What a health check found last.",
            checks(&|one| one.value.map(|value| value as f64)),
        ),
        gauge(
            "afterimage_health_ok",
            "Whether a health check was healthy.",
            checks(&|one| Some(f64::from(u8::from(one.status == HealthStatus::Healthy)))),
        ),
        gauge(
            "afterimage_health_seconds",
            "When a health check was asked last, since 1970.",
            checks(&|one| Some(one.time.timestamp_micros() as f64 / 1e6)),
        ),
    ]
}

fn of_files(tables: &[TableVitals]) -> Vec<Metric> {
    let each = |of: &dyn Fn(&TableVitals) -> (f64, f64)| {
        let samples = tables.iter().flat_map(|table| {
            let (changes, images) = of(table);
            let label = |kind: &str| vec![("table", table.name.to_string()), ("kind", kind.to_owned())];
            [(label("changes"), changes), (label("images"), images)]
        });
        samples.collect::<Vec<Sample>>()
    };
    let files = each(&|table| (table.change_files as f64, table.image_files as f64));
    let bytes = each(&|table| (table.change_bytes as f64, table.image_bytes as f64));
    vec![
        gauge("afterimage_files", "Files of a table in the archive.", files),
        gauge("afterimage_file_bytes", "Bytes of them.", bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_so_that_they_can_be_read() {
        let mut out = String::new();
        let sample = (vec![("table", "a \"b\\c\"\nd".to_owned())], 1.5);
        write(&mut out, &gauge("x_bytes", "Help.", vec![sample])).unwrap();
        assert_eq!(out, "# HELP x_bytes Help.\n# TYPE x_bytes gauge\nx_bytes{table=\"a \\\"b\\\\c\\\"\\nd\"} 1.5\n");
    }
}
