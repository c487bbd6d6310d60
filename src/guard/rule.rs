//! What a guard looks for.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::model::{OperationCounts, Partitions, Severity, TableName, TablePattern};

/// What a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Watched {
    Insert,
    Update,
    Delete,
    Truncate,
    /// The table was dropped.
    Drop,
    /// Its definition was changed; dropping it is that too.
    Ddl,
}

impl Watched {
    pub fn as_str(self) -> &'static str {
        match self {
            Watched::Insert => "insert",
            Watched::Update => "update",
            Watched::Delete => "delete",
            Watched::Truncate => "truncate",
            Watched::Drop => "drop",
            Watched::Ddl => "ddl",
        }
    }
}

/// What is done about a transaction that a rule catches while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is told.
    #[default]
    Alert,
    /// Its statement is cancelled, which rolls it back.
    Cancel,
    /// Its session is ended.
    Terminate,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Alert => "alert",
            Action::Cancel => "cancel",
            Action::Terminate => "terminate",
        })
    }
}

/// A condition on the stream, and what follows from it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub name: String,
    pub tables: Vec<TablePattern>,
    /// Patterns of tables that it leaves out.
    pub except_tables: Vec<TablePattern>,
    pub operations: Vec<Watched>,
    /// Only changes of which this holds.
    pub condition: Option<Condition>,
    /// So many changes within the window, or in one transaction where there is no window.
    pub rows: u64,
    /// Of so many tenants.
    pub tenants: Option<u64>,
    /// As many as this share of the table's rows.
    pub share: Option<f64>,
    /// Only changes after which no row is left for which the condition holds and that has the same values in these columns.
    pub last_of: Vec<String>,
    pub window: Option<Duration>,
    pub severity: Severity,
    pub action: Action,
    /// Users whom it never stops.
    pub except_users: Vec<String>,
    /// Applications that it never stops.
    pub except_applications: Vec<String>,
    /// What to do about it, for whoever reads the alert.
    pub resolution: Option<String>,
}

impl Rule {
    pub fn watches(&self, table: &TableName, partitions: &Partitions) -> bool {
        partitions.answers_any(table, &self.tables) && !partitions.answers_any(table, &self.except_tables)
    }

    /// How many of a transaction's changes of a table it may count.
    pub fn candidates(&self, counts: &OperationCounts) -> u64 {
        let of = |watched: &Watched| match watched {
            Watched::Insert => counts.insert,
            Watched::Update => counts.update,
            Watched::Delete => counts.delete,
            Watched::Truncate => counts.truncate,
            Watched::Drop | Watched::Ddl => 0,
        };
        self.operations.iter().map(of).sum()
    }

    /// Whether a change of a definition concerns it, by what PostgreSQL calls the command.
    pub fn watches_command(&self, tag: &str) -> bool {
        self.operations.iter().any(|watched| match watched {
            Watched::Ddl => true,
            Watched::Drop => tag.starts_with("DROP"),
            _ => false,
        })
    }

    /// Whether counts alone do not tell whether it is met.
    pub fn needs_rows(&self) -> bool {
        self.condition.is_some() || self.tenants.is_some() || !self.last_of.is_empty()
    }

    /// A truncation is one change, and meets any number of rows: none of the table's is left.
    pub fn is_met_by_truncation(&self, counts: &OperationCounts) -> bool {
        counts.truncate > 0 && self.operations.contains(&Watched::Truncate)
    }

    /// What it asks, in a few words.
    pub fn summary(&self) -> String {
        let operations: Vec<&str> = self.operations.iter().map(|watched| watched.as_str()).collect();
        let tables: Vec<String> = self.tables.iter().map(ToString::to_string).collect();
        let mut parts = vec![format!("{} of {}", operations.join(", "), tables.join(", "))];
        parts.extend(self.condition.as_ref().map(|condition| format!("where {}", condition.text())));
        if !self.last_of.is_empty() {
            parts.push(format!("the last of its {}", self.last_of.join(", ")));
        }
        parts.push(format!("from {} rows on", self.rows));
        parts.extend(self.tenants.map(|tenants| format!("of {tenants} tenants")));
        parts.extend(self.share.map(|share| format!("and {}% of the table", share * 100.0)));
        parts.push(match self.window {
            Some(window) => format!("within {} s", window.as_secs_f64()),
            None => "in one transaction".to_owned(),
        });
        parts.join(", ")
    }
}

#[cfg(test)]
impl Rule {
    /// A rule over the deletions of a schema.
    pub(super) fn over_deletions(schema: &str) -> Rule {
        Rule {
            name: format!("deletions of {schema}"),
            tables: vec![TablePattern::parse(&format!("{schema}.*")).unwrap()],
            except_tables: Vec::new(),
            operations: vec![Watched::Delete],
            condition: None,
            rows: 1,
            tenants: None,
            share: None,
            last_of: Vec::new(),
            window: None,
            severity: Severity::Critical,
            action: Action::Alert,
            except_users: Vec::new(),
            except_applications: Vec::new(),
            resolution: None,
        }
    }
}
