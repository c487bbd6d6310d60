//! What the configuration says of the guard: rules, sinks, health checks and packs of them.

use std::collections::HashSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Span};
use crate::failure::{Failure, Result};
use crate::guard::{Action, Condition, HealthCheck, Rule, Settings, SinkKind, SinkSettings, Watched, WebhookFormat};
use crate::model::{Severity, TableName, TablePattern};

/// How alerts are told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// Alerts of CRITICAL and above that nobody acknowledged for so long are told again: "15m"; never by default.
    pub escalate_after: Option<Span>,
    /// Alerts of one rule that are told within an hour, at most; the others are in the archive only. 60 by default.
    pub alerts_per_hour: Option<u64>,
}

/// How a proposed constraint is weighed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckConfig {
    /// SQL conditions over a row: to refuse one that they hold of is CATASTROPHIC.
    pub critical: Vec<String>,
    /// Violations from which on the impact is MEDIUM: 11 by default.
    pub medium: Option<u64>,
    /// From which on it is HIGH: 101 by default.
    pub high: Option<u64>,
    /// From which on it is CRITICAL: 1001 by default.
    pub severe: Option<u64>,
}

impl CheckConfig {
    /// The steps from LOW to CRITICAL, defaults filled in.
    pub fn steps(&self) -> [u64; 3] {
        [self.medium.unwrap_or(11), self.high.unwrap_or(101), self.severe.unwrap_or(1001)]
    }
}

/// Text that is checked when the file is read, so that an error has its place.
macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $parsed:ty, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> std::result::Result<Self, String> {
                let check: fn(&str) -> Result<$parsed> = $check;
                check(&text).map_err(|failure| failure.to_string())?;
                Ok($name(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl $name {
            pub(super) fn parsed(&self) -> Result<$parsed> {
                let check: fn(&str) -> Result<$parsed> = $check;
                check(&self.0)
            }
        }
    };
}

checked_text!(
    /// A table pattern: `orders`, `public.*`, `tenant_*.orders`.
    PatternText,
    TablePattern,
    |text| TablePattern::parse(text)
);
checked_text!(
    /// An SQL expression over `old.COLUMN` and `new.COLUMN`.
    ConditionText,
    Condition,
    |text| Condition::parse(text)
);

/// What the guard looks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name, unlike any other's.
    pub name: String,
    /// Patterns of the tables that it watches.
    pub tables: Vec<PatternText>,
    /// Patterns of tables that it leaves out.
    #[serde(default)]
    pub except_tables: Vec<PatternText>,
    /// What it counts.
    pub operations: Vec<Watched>,
    /// Only changes of which this is true: SQL over the row as it was, `old`, and as it became, `new`.
    #[serde(default, rename = "where")]
    pub condition: Option<ConditionText>,
    /// So many changes within the window, or in one transaction where there is none: 1 by default.
    #[serde(default)]
    pub rows: Option<u64>,
    /// Of so many tenants at least.
    #[serde(default)]
    pub tenants: Option<u64>,
    /// At least this share of the table's rows, as the source estimates them: 0.2 is a fifth.
    #[serde(default)]
    pub share: Option<f64>,
    /// Only changes after which no row is left that has the same values in these columns and meets `where`.
    #[serde(default)]
    pub last_of: Vec<String>,
    /// Changes of all transactions within this time count together: "5m".
    #[serde(default)]
    pub window: Option<Span>,
    /// How bad it is: WARNING by default.
    #[serde(default)]
    pub severity: Severity,
    /// What is done about a transaction that has not committed yet: "alert" by default.
    #[serde(default)]
    pub action: Action,
    /// Users whose transactions it never stops.
    #[serde(default)]
    pub except_users: Vec<String>,
    /// Applications (`application_name`) whose transactions it never stops.
    #[serde(default)]
    pub except_applications: Vec<String>,
    /// What to do about it, for whoever reads the alert.
    #[serde(default)]
    pub resolution: Option<String>,
}

impl RuleConfig {
    fn rule(&self) -> Result<Rule> {
        let patterns = |texts: &[PatternText]| texts.iter().map(PatternText::parsed).collect::<Result<Vec<_>>>();
        let wrong = |why: &str| {
            Failure::usage(format!("the rule {:?}: {why}", self.name))
                .remedy("schemas/afterimage.schema.json describes every key")
        };
        if self.tables.is_empty() || self.operations.is_empty() {
            return Err(wrong("it names no tables, or no operations"));
        }
        if self.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(wrong("share is a number above 0, up to 1"));
        }
        if !self.last_of.is_empty()
            && !self.operations.iter().all(|one| matches!(one, Watched::Delete | Watched::Update))
        {
            return Err(wrong("last_of is for deleted and updated rows"));
        }
        Ok(Rule {
            name: self.name.clone(),
            tables: patterns(&self.tables)?,
            except_tables: patterns(&self.except_tables)?,
            operations: self.operations.clone(),
            condition: self.condition.as_ref().map(ConditionText::parsed).transpose()?,
            rows: self.rows.unwrap_or(1),
            tenants: self.tenants,
            share: self.share,
            last_of: self.last_of.clone(),
            window: self.window.map(|window| window.0),
            severity: self.severity,
            action: self.action,
            except_users: self.except_users.clone(),
            except_applications: self.except_applications.clone(),
            resolution: self.resolution.clone(),
        })
    }
}

/// What kind of place alerts go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SinkText {
    /// One JSON object per line on the standard output of `run`.
    Stdout,
    /// A POST of the alert as a JSON object, to `url`.
    Webhook,
    /// The same as Slack takes it.
    Slack,
    /// The same as Alertmanager's /api/v2/alerts takes it.
    Alertmanager,
    /// Mail over the server `url`, from `from` to `to`.
    Email,
    /// The program `command`, with the alert as a JSON object on its standard input.
    Exec,
    /// Rows of `table` in the source: alert_type, severity, message, metadata.
    Table,
}

/// Where alerts are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// Its name, unlike any other's.
    pub name: String,
    pub kind: SinkText,
    /// Of a webhook, or of a mail server: "smtps://user:password@host", "smtp://host:25".
    #[serde(default)]
    pub url: Option<String>,
    /// A file with that address, where it is secret.
    #[serde(default)]
    pub url_file: Option<std::path::PathBuf>,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub table: Option<String>,
    /// Milder alerts are not told here: INFO by default, which is all.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// Only alerts that nobody has acknowledged in time are told here.
    #[serde(default)]
    pub escalation_only: bool,
}

impl SinkConfig {
    fn settings(&self) -> Result<SinkSettings> {
        let lacks = |what: &str| Failure::usage(format!("the sink {:?} lacks {what}", self.name));
        let webhook = |format| Ok::<_, Failure>(SinkKind::Webhook { url: self.address()?, format });
        let kind = match self.kind {
            SinkText::Stdout => SinkKind::Stdout,
            SinkText::Webhook => webhook(WebhookFormat::Json)?,
            SinkText::Slack => webhook(WebhookFormat::Slack)?,
            SinkText::Alertmanager => webhook(WebhookFormat::Alertmanager)?,
            SinkText::Email if self.to.is_empty() => return Err(lacks("to")),
            SinkText::Email => SinkKind::Email {
                server: self.address()?,
                from: self.from.clone().ok_or_else(|| lacks("from"))?,
                to: self.to.clone(),
            },
            SinkText::Exec if self.command.is_empty() => return Err(lacks("command")),
            SinkText::Exec => SinkKind::Exec(self.command.clone()),
            SinkText::Table => {
                let table = self.table.as_deref().ok_or_else(|| lacks("table"))?;
                let named = TableName::parse(table).unwrap_or_else(|| TableName::new("public", table));
                SinkKind::Table(named)
            }
        };
        let severity = self.severity.unwrap_or(Severity::Info);
        Ok(SinkSettings { name: self.name.clone(), kind, severity, escalation_only: self.escalation_only })
    }

    fn address(&self) -> Result<String> {
        let Some(path) = &self.url_file else {
            return self.url.clone().ok_or_else(|| Failure::usage(format!("the sink {:?} lacks url", self.name)));
        };
        let read = std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        read.map_err(|error| Failure::usage(format!("the sink {:?}: {}: {error}", self.name, path.display())))
    }
}

/// A question to the source whose answer is a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// Its name, unlike any other's.
    pub name: String,
    /// A query whose first column of its first row is a number.
    pub sql: String,
    /// It is healthy up to this: 0 by default.
    #[serde(default)]
    pub limit: i64,
    /// How bad it is beyond that: WARNING by default.
    #[serde(default)]
    pub severity: Severity,
    /// How often it is asked: "15m" by default.
    #[serde(default)]
    pub interval: Option<Span>,
    /// What to do about it.
    #[serde(default)]
    pub resolution: Option<String>,
}

impl HealthConfig {
    fn check(&self) -> HealthCheck {
        HealthCheck {
            name: self.name.clone(),
            sql: self.sql.clone(),
            limit: self.limit,
            severity: self.severity,
            interval: self.interval.map_or(std::time::Duration::from_secs(900), |interval| interval.0),
            resolution: self.resolution.clone(),
        }
    }
}

/// Rules and checks that belong together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pack {
    pub rule: Vec<RuleConfig>,
    pub health: Vec<HealthConfig>,
}

/// The packs that come with the program.
const PACKS: [(&str, &str); 6] = [
    ("mass-change", include_str!("../../schemas/packs/mass-change.toml")),
    ("truncate", include_str!("../../schemas/packs/truncate.toml")),
    ("ddl", include_str!("../../schemas/packs/ddl.toml")),
    ("erp", include_str!("../../schemas/packs/erp.toml")),
    ("crm", include_str!("../../schemas/packs/crm.toml")),
    ("hrms", include_str!("../../schemas/packs/hrms.toml")),
];

/// Reads a pack that comes with the program, or a file.
fn pack(name: &str) -> Result<Pack> {
    let parse =
        |text: &str| super::parse_toml::<Pack>(text).map_err(|failure| failure.context(format_args!("pack {name}")));
    if let Some((_, text)) = PACKS.iter().find(|(known, _)| *known == name) {
        return parse(text);
    }
    match std::fs::read_to_string(name) {
        Ok(text) => parse(&text),
        Err(error) => {
            let known: Vec<&str> = PACKS.iter().map(|(name, _)| *name).collect();
            Err(Failure::usage(format!("there is no pack {name:?}: {error}"))
                .remedy(format!("name a file, or one of {}", known.join(", "))))
        }
    }
}

impl Config {
    /// What the guard is told to do, packs included.
    ///
    /// # Errors
    /// Usage where a rule, a sink, a check or a pack is wrong.
    pub fn guard(&self) -> Result<Settings> {
        let mut all = Pack { rule: self.rule.clone(), health: self.health.clone() };
        for name in &self.packs {
            let pack = pack(name)?;
            // What the file itself names takes the place of a pack's.
            let own: HashSet<String> = all.rule.iter().map(|rule| rule.name.clone()).collect();
            all.rule.extend(pack.rule.into_iter().filter(|rule| !own.contains(&rule.name)));
            let own: HashSet<String> = all.health.iter().map(|check| check.name.clone()).collect();
            all.health.extend(pack.health.into_iter().filter(|check| !own.contains(&check.name)));
        }
        require_unlike("rule", all.rule.iter().map(|rule| &rule.name))?;
        require_unlike("health", all.health.iter().map(|check| &check.name))?;
        require_unlike("sink", self.sink.iter().map(|sink| &sink.name))?;
        let default = Settings::default();
        Ok(Settings {
            rules: all.rule.iter().map(RuleConfig::rule).collect::<Result<_>>()?,
            sinks: self.sink.iter().map(SinkConfig::settings).collect::<Result<_>>()?,
            health: all.health.iter().map(HealthConfig::check).collect(),
            tenant_columns: self.restore.tenant_columns(),
            escalate_after: self.guard.escalate_after.map(|after| after.0),
            alerts_per_hour: self.guard.alerts_per_hour.unwrap_or(default.alerts_per_hour),
        })
    }
}

fn require_unlike<'a>(kind: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Failure::usage(format!("two entries of [[{kind}]] have the name {name:?}"))
                .remedy("alerts are known by it: choose another"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pack_that_comes_along_is_a_pack() {
        for (name, _) in PACKS {
            let settings = Config { packs: vec![name.to_owned()], ..Config::default() }.guard().unwrap();
            assert!(!settings.is_idle(), "{name} has nothing");
        }
        let unknown = Config { packs: vec!["nothing".to_owned()], ..Config::default() }.guard().unwrap_err();
        assert!(unknown.remedy_text().unwrap().contains("mass-change"), "{unknown}");
    }

    #[test]
    fn the_contracts_example_is_read() {
        let config = Config::parse(
            "[[rule]]\nname = \"memberships\"\ntables = [\"public.core_relationships\"]\n\
             operations = [\"delete\", \"truncate\"]\nwhere = \"old.relationship_type = 'USER_MEMBER_OF_ORG'\"\n\
             rows = 10\nwindow = \"5m\"\nseverity = \"EMERGENCY\"\naction = \"alert\"\nexcept_users = []\n\
             except_applications = []\n",
        );
        let settings = config.unwrap().guard().unwrap();
        assert_eq!((settings.rules[0].rows, settings.rules[0].severity), (10, Severity::Emergency));
    }

    #[test]
    fn errors_inside_rules_have_their_place() {
        let wrong = |line: &str| {
            let text = format!("[[rule]]\nname = \"r\"\ntables = [\"a\"]\noperations = [\"delete\"]\n{line}\n");
            Config::parse(&text).and_then(|config| config.guard().map(|_| ())).unwrap_err().to_string()
        };
        for (line, place, what) in [
            ("where = \"old.a =\"", "line 5, column 9: ", "the condition"),
            ("except_tables = [\"a.b.c\"]", "line 5, column 17: ", "more than two parts"),
            ("severity = \"BAD\"", "line 5, column 12: ", "BAD"),
            ("action = \"drop\"", "line 5, column 10: ", "drop"),
            ("window = \"soon\"", "line 5, column 10: ", "not a duration"),
            ("row = 7", "line 5, column 1: ", "row"),
        ] {
            let said = wrong(line);
            assert!(said.starts_with(place) && said.contains(what), "{line}: {said}");
        }
        assert!(wrong("share = 2.0").contains("share"));
    }
}
