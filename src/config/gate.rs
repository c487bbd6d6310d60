//! What the configuration says of the gate before and after a deployment.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::PatternText;
use super::{Config, Span, parse_toml};
use crate::failure::{Failure, Result};
use crate::guard::{CheckRequest, Expectation, GateSettings, Operations, Proposal};
use crate::model::{Severity, TableName};

/// What a deployment must find and may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// How far behind the archive may be: "60s" by default.
    pub max_lag: Option<Span>,
    /// Unhealthy checks of this severity and above close the gate: CRITICAL by default.
    pub severity: Option<Severity>,
    /// Constraints that the deployment will make, to be checked before it.
    pub check: Vec<GateCheckConfig>,
    /// The version that the schema must have before the deployment.
    pub version_before: Option<VersionConfig>,
    /// The version that it must have afterwards.
    pub version_after: Option<VersionConfig>,
    /// What the deployment is expected to change.
    pub expect: Vec<ExpectConfig>,
    /// Changes that no entry of `expect` speaks of are no failure.
    pub unexpected_allowed: bool,
}

/// A constraint that will be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateCheckConfig {
    pub table: String,
    /// What would stand in CHECK (…); or UNIQUE (…), NOT NULL column.
    pub constraint: String,
}

/// How the schema's version is found, and what it must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionConfig {
    /// A query whose first column of its first row is the version.
    pub sql: String,
    pub is: String,
}

/// How many rows may change, by operation: a number, "10..200", "1.." or "..50".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectConfig {
    /// A pattern; the first entry that names a table counts.
    pub table: PatternText,
    #[serde(default)]
    pub insert: Option<Rows>,
    #[serde(default)]
    pub update: Option<Rows>,
    #[serde(default)]
    pub delete: Option<Rows>,
    #[serde(default)]
    pub truncate: Option<Rows>,
}

/// A number of rows, or from how many up to how many: `7`, `"10..200"`, `"1.."`, `"..50"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RowsText", into = "RowsText")]
#[schemars(with = "RowsText")]
pub struct Rows(u64, u64);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum RowsText {
    Number(u64),
    Range(String),
}

impl TryFrom<RowsText> for Rows {
    type Error = String;

    fn try_from(text: RowsText) -> std::result::Result<Rows, String> {
        let range = match text {
            RowsText::Number(rows) => return Ok(Rows(rows, rows)),
            RowsText::Range(range) => range,
        };
        let wrong = || format!("{range:?} is no number of rows; write 7, \"10..200\", \"1..\" or \"..50\"");
        let (least, most) = range.split_once("..").ok_or_else(wrong)?;
        let bound = |text: &str, open: u64| match text.trim() {
            "" => Ok(open),
            text => text.parse().map_err(|_| wrong()),
        };
        let (least, most) = (bound(least, 0)?, bound(most, u64::MAX)?);
        if least <= most { Ok(Rows(least, most)) } else { Err(wrong()) }
    }
}

impl From<Rows> for RowsText {
    fn from(Rows(least, most): Rows) -> RowsText {
        match (least, most) {
            (least, u64::MAX) => RowsText::Range(format!("{least}..")),
            (least, most) if least == most => RowsText::Number(most),
            (least, most) => RowsText::Range(format!("{least}..{most}")),
        }
    }
}

impl Config {
    /// What the gate asks, before the deployment or after it. `file` adds to what the configuration says.
    ///
    /// # Errors
    /// Usage where either is wrong.
    pub fn gate(&self, file: Option<&Path>, after: bool) -> Result<GateSettings> {
        let mut gates = vec![self.gate.clone()];
        if let Some(path) = file {
            let shown = path.display();
            let text = std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
            gates.insert(0, parse_toml(&text).map_err(|failure| failure.context(format_args!("gate {shown}")))?);
        }
        let first = |of: &dyn Fn(&GateConfig) -> Option<VersionConfig>| gates.iter().find_map(of);
        let version = match after {
            true => first(&|gate| gate.version_after.clone()),
            false => first(&|gate| gate.version_before.clone()),
        };
        let rows = |rows: &Option<Rows>| rows.as_ref().map(|rows| (rows.0, rows.1));
        let expectation = |one: &ExpectConfig| {
            let operations = Operations {
                insert: rows(&one.insert),
                update: rows(&one.update),
                delete: rows(&one.delete),
                truncate: rows(&one.truncate),
            };
            Ok(Expectation { tables: one.table.parsed()?, operations })
        };
        let check = |one: &GateCheckConfig| {
            Ok(CheckRequest {
                table: TableName::parse(&one.table).unwrap_or_else(|| TableName::new("public", &one.table)),
                proposal: Proposal::parse(&one.constraint)?,
                critical: self.check.critical.clone(),
                steps: self.check.steps(),
                tenant_columns: self.restore.tenant_columns(),
                archived_rows: 1_000_000,
            })
        };
        Ok(GateSettings {
            max_lag: gates.iter().find_map(|gate| gate.max_lag).map_or(Duration::from_secs(60), |lag| lag.0),
            health: self.guard()?.health,
            severity: gates.iter().find_map(|gate| gate.severity),
            checks: gates.iter().flat_map(|gate| &gate.check).map(check).collect::<Result<_>>()?,
            version: version.map(|version| (version.sql, version.is)),
            expectations: gates.iter().flat_map(|gate| &gate.expect).map(expectation).collect::<Result<_>>()?,
            unexpected_allowed: gates.iter().any(|gate| gate.unexpected_allowed),
            tenant_columns: self.restore.tenant_columns(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_rows_are_read() {
        let text =
            "[[gate.expect]]\ntable = \"a\"\ninsert = 7\nupdate = \"10..200\"\ndelete = \"..5\"\ntruncate = \"1..\"\n";
        let settings = Config::parse(text).unwrap().gate(None, false).unwrap();
        let operations = &settings.expectations[0].operations;
        assert_eq!((operations.insert, operations.update), (Some((7, 7)), Some((10, 200))));
        assert_eq!((operations.delete, operations.truncate), (Some((0, 5)), Some((1, u64::MAX))));
        let wrong = Config::parse("[[gate.expect]]\ntable = \"a\"\ninsert = \"7..1\"\n").unwrap_err();
        assert!(wrong.cause().starts_with("line 3, column 10: "), "{wrong}");
    }
}
