//! Metrics, the alerts over them, and the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{PATIENCE, deployed, files, found, read, root, spoilt};
use crate::support::{Directory, End, Program, target_directory};

const RULES: &str = "prometheus/afterimage.rules.yml";
const TESTS: &str = "prometheus/afterimage.rules.test.yml";

fn promtool(arguments: &[&str], directory: &Path) -> End {
    let program = target_directory().join("promtool");
    assert!(program.exists(), "there is no {}; run tests/install test", program.display());
    Program::new(&program).arguments(arguments.iter().copied()).working_directory(directory).run(PATIENCE)
}

/// The metrics that the program has.
fn metrics() -> BTreeSet<String> {
    let source = read(&root().join("src/cli/metrics.rs"));
    let metrics = found(r#""(afterimage_[a-z_]+)""#, &source);
    assert!(metrics.contains("afterimage_lag_seconds"), "the metrics were not found: {metrics:?}");
    metrics
}

/// The names of alerts or recorded series.
fn rules(kind: &str) -> BTreeSet<String> {
    let names = found(&format!(r"(?m)^ *- {kind}: (\S+)$"), &read(&deployed(RULES)));
    assert!(!names.is_empty(), "there is no {kind}");
    names
}

/// A slot and a schema in the source that are named as metrics are.
const OTHERS: [&str; 2] = ["afterimage_erp", "afterimage_quarantine"];

/// What a text takes for a metric and the program does not have.
fn unknown_metrics(text: &str) -> Vec<String> {
    let mut known: BTreeSet<String> = &metrics() | &rules("record");
    known.extend(OTHERS.map(str::to_owned));
    found(r"\b(afterimage(?:_[a-z0-9]|:[a-z])[a-z0-9_:]*)\b", text).difference(&known).cloned().collect()
}

#[test]
fn rules_raise_what_their_tests_say() {
    promtool(&["check", "rules", "afterimage.rules.yml"], &deployed("prometheus")).expect(0);
    let end = promtool(&["test", "rules", "afterimage.rules.test.yml"], &deployed("prometheus")).expect(0);
    assert!(end.stdout.contains("SUCCESS"), "{}", end.stdout);
}

#[test]
fn a_broken_rule_is_seen() {
    let (directory, _) = spoilt(RULES, r"rate\(afterimage_changes_total\[5m\]\)", "rate(afterimage_changes_total)");
    promtool(&["check", "rules", "afterimage.rules.yml"], directory.path()).expect(1);
    let (directory, _) = spoilt(RULES, "afterimage_slot_active == 0", "afterimage_slot_active == 1");
    fs::copy(deployed(TESTS), directory.join("afterimage.rules.test.yml")).unwrap();
    let end = promtool(&["test", "rules", "afterimage.rules.test.yml"], directory.path()).expect(1);
    assert!(end.stderr.contains("AfterimageSlotInactive"), "{}", end.stderr);
}

#[test]
fn every_alert_has_its_page_and_is_raised_in_a_test() {
    let alerts = rules("alert");
    let pages = files("runbooks").iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(alerts, pages);
    let text = read(&deployed(RULES));
    for alert in &alerts {
        let rule = text.split("- alert: ").find(|rule| rule.starts_with(&format!("{alert}\n"))).unwrap();
        assert!(rule.contains(&format!("/deploy/runbooks/{alert}.md\n")), "{alert} names another page, or none");
        assert!(rule.contains("labels: {severity: page}") || rule.contains("labels: {severity: ticket}"), "{alert}");
    }
    // A list of expected alerts follows the name where there are any.
    let raised = found(r"(?m)^ *alertname: (\S+)\n *exp_alerts:", &read(&deployed(TESTS)));
    assert_eq!(alerts, raised, "raised in no test");
    let silent = found(r"eval_time: 2h, alertname: (\S+)\}", &read(&deployed(TESTS)));
    assert_eq!(alerts, silent, "not looked for where all is well");
}

#[test]
fn every_metric_that_is_named_exists() {
    let mut texts: Vec<PathBuf> = files("runbooks");
    texts.extend([RULES, TESTS, "grafana/afterimage.json"].map(deployed));
    texts.extend(["docs/deploy.md", "docs/OPERATING.md"].map(|path| root().join(path)));
    for path in texts {
        let unknown = unknown_metrics(&read(&path));
        assert!(unknown.is_empty(), "{} names {unknown:?}", path.display());
    }
    assert_eq!(unknown_metrics("rate(afterimage_change_total[5m])"), ["afterimage_change_total"]);
}

#[test]
fn every_metric_is_documented_with_its_kind() {
    let source = read(&root().join("src/cli/metrics.rs"));
    let page = read(&root().join("docs/metrics.md"));
    assert_eq!(metrics(), found(r"(?m)^\| `(afterimage_[a-z_]+)` \|", &page));
    let counters = found(r#"counter\(\s*"(afterimage_[a-z_]+)""#, &source);
    assert!(!counters.is_empty());
    assert_eq!(counters, found(r"(?m)^\| `(afterimage_[a-z_]+)` \| counter \|", &page));
    let gauges = found(r"(?m)^\| `(afterimage_[a-z_]+)` \| gauge \|", &page);
    assert_eq!(metrics(), &counters | &gauges);
    for metric in metrics().iter().filter(|name| !name.ends_with("_total") && name.contains("_seconds")) {
        assert!(page.contains(&format!("`{metric}` | gauge | seconds")), "{metric}");
    }
}

fn dashboard() -> Json {
    serde_json::from_str(&read(&deployed("grafana/afterimage.json"))).unwrap()
}

fn panels(dashboard: &Json) -> Vec<&Json> {
    let panels: Vec<&Json> =
        dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect();
    assert!(panels.len() > 10, "the panels were not found");
    panels
}

/// Expressions as Grafana sends them, as rules, which promtool reads.
fn as_rules(dashboard: &Json) -> String {
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (panel, target) in
        panels(dashboard).iter().flat_map(|panel| panel["targets"].as_array().unwrap().iter().map(move |t| (panel, t)))
    {
        let expression = target["expr"].as_str().unwrap_or_else(|| panic!("{panel}")).replace("$__rate_interval", "5m");
        let line = serde_json::to_string(&expression).unwrap();
        rules += &format!(
            "      - {{record: \"panel:{}:{}\", expr: {line}}}\n",
            panel["id"],
            target["refId"].as_str().unwrap()
        );
    }
    rules
}

#[test]
fn every_panel_asks_something_that_prometheus_understands() {
    let (directory, dashboard) = (Directory::new(), dashboard());
    fs::write(directory.join("panels.yml"), as_rules(&dashboard)).unwrap();
    promtool(&["check", "rules", "panels.yml"], directory.path()).expect(0);
    let mut broken = dashboard.clone();
    let first = broken["panels"].as_array_mut().unwrap().iter_mut().find(|panel| panel["type"] != "row").unwrap();
    first["targets"][0]["expr"] = Json::from("sum(afterimage_ready");
    fs::write(directory.join("panels.yml"), as_rules(&broken)).unwrap();
    promtool(&["check", "rules", "panels.yml"], directory.path()).expect(1);
}

#[test]
fn every_panel_asks_the_chosen_source_and_says_what_it_shows() {
    let dashboard = dashboard();
    let variables = found(r#""name":"([a-z]+)""#, &dashboard["templating"].to_string());
    assert_eq!(variables, BTreeSet::from(["datasource", "instance", "job"].map(str::to_owned)));
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels are {}", panel["id"]);
        assert!(panel["title"].is_string() && panel["description"].is_string(), "{panel}");
        for asked in panel["targets"].as_array().unwrap().iter().chain([panel]) {
            assert_eq!(asked["datasource"]["uid"], "${datasource}", "{panel}");
        }
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains(r#"job=~"$job", instance=~"$instance""#), "{expression}");
        }
    }
    // What the program tells and nobody shows would be missed in the night that it is needed.
    let shown = found(r"\b(afterimage_[a-z_]+)\b", &dashboard["panels"].to_string());
    assert_eq!(metrics().difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
}
