//! What the constraints of today say to every planned row, before any row is written.
//!
//! Each table gets a temporary table of its rejected operations. Types, domains, conditions and unique values are judged
//! table by table; then references are, again and again, because a row falls with the row that it refers to.

mod image;
mod origin;
mod references;
mod rows;
mod triggers;

use serde::{Deserialize, Serialize};

use super::difference::Difference;
use super::plan::SAMPLE_LENGTH;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::{Lsn, TableName, Xid};

pub(super) use origin::Origins;

/// What kind of rule forbids a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleKind {
    /// The column's type cannot hold the value: an enum's label is gone, a number is too large, digits would be lost.
    Type,
    Domain,
    NotNull,
    Check,
    Unique,
    Exclude,
    /// The row that it refers to will not be there.
    ForeignKey,
    /// Rows that are not in the plan refer to it.
    Reference,
    /// Row-level security does not let the role write the row, or would hide it.
    Policy,
    /// A trigger that stays on refuses or suppresses the row.
    Trigger,
}

impl RuleKind {
    const ALL: [RuleKind; 10] = [
        RuleKind::Type,
        RuleKind::Domain,
        RuleKind::NotNull,
        RuleKind::Check,
        RuleKind::Unique,
        RuleKind::Exclude,
        RuleKind::ForeignKey,
        RuleKind::Reference,
        RuleKind::Policy,
        RuleKind::Trigger,
    ];

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleKind::Type => "type of column",
            RuleKind::Domain => "domain",
            RuleKind::NotNull => "NOT NULL of column",
            RuleKind::Check => "CHECK",
            RuleKind::Unique => "UNIQUE",
            RuleKind::Exclude => "EXCLUDE",
            RuleKind::ForeignKey => "FOREIGN KEY",
            RuleKind::Reference => "referred to by",
            RuleKind::Policy => "row-level security for",
            RuleKind::Trigger => "TRIGGER",
        }
    }

    /// Whether it is about rows that refer to others.
    pub(super) fn is_about_references(self) -> bool {
        matches!(self, RuleKind::ForeignKey | RuleKind::Reference)
    }

    fn parse(text: &str) -> Option<RuleKind> {
        RuleKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Rows that one rule forbids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub table: TableName,
    pub kind: RuleKind,
    /// The constraint, or the column.
    pub name: String,
    pub definition: Option<String>,
    pub rows: u64,
    pub samples: Vec<RejectedSample>,
    /// The transaction that made the rule; `None` where it is as old as the archive.
    pub since: Option<Introduction>,
    /// It can stay in force for what is written from now on, and leave these rows alone.
    pub can_be_not_valid: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedSample {
    /// The row's key, or a part of the row where it has none.
    pub key: String,
    pub reason: Option<String>,
}

/// The transaction that made a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    pub lsn: Lsn,
    pub xid: Option<Xid>,
    pub time: Option<chrono::DateTime<chrono::Utc>>,
    pub user: Option<String>,
    pub statement: Option<String>,
}

/// What to do with rows that a constraint forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReject {
    /// Nothing at all is restored.
    #[default]
    Abort,
    /// They go to a side table with the reason, the others are restored.
    Quarantine,
    /// CHECKs and foreign keys that forbid them are made NOT VALID in the same transaction.
    NotValid,
}

impl OnReject {
    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            OnReject::Abort => "abort",
            OnReject::Quarantine => "quarantine",
            OnReject::NotValid => "not-valid",
        }
    }
}

/// Sample rows of each rejection.
const SAMPLES: usize = 3;

/// Judges every planned row.
pub(super) async fn judge(workspace: &Workspace<'_>, differences: &Differences) -> Result<Vec<Rejection>> {
    for table in differences.tables.iter().filter(|table| table.counts.rows() > 0) {
        rows::judge(workspace, table).await?;
        triggers::judge(workspace, table).await?;
    }
    references::judge(workspace, differences).await?;
    let mut rejections = Vec::new();
    for table in differences.tables.iter().filter(|table| table.counts.rows() > 0) {
        rejections.extend(rejections_of(workspace, differences, table).await?);
    }
    if !rejections.is_empty() {
        let mut origins = Origins::new(workspace.archive, workspace.request.now.lsn);
        for rejection in &mut rejections {
            let table = differences.tables.iter().find(|table| table.name == rejection.table);
            if let Some(table) = table {
                rejection.since = origins.of(table.live.oid, rejection).await?;
            }
        }
    }
    Ok(rejections)
}

/// Takes back what was judged, to judge again.
pub(super) async fn forget(workspace: &Workspace<'_>, differences: &Differences) -> Result<()> {
    for table in &differences.tables {
        workspace.execute(&format!("DROP TABLE IF EXISTS {}", table.rejected())).await?;
    }
    Ok(())
}

async fn rejections_of(
    workspace: &Workspace<'_>,
    differences: &Differences,
    table: &Difference,
) -> Result<Vec<Rejection>> {
    let sql =
        format!("SELECT kind, name, count(*) FROM {} GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2", table.rejected());
    let mut rejections = Vec::new();
    for row in workspace.query(&sql, &[]).await? {
        let (text, name, rows): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        let Some(kind) = RuleKind::parse(&text) else { continue };
        let samples = samples(workspace, table, &text, &name).await?;
        let rule = Rule::of(differences, table, kind, &name);
        rejections.push(Rejection {
            table: table.name.clone(),
            kind,
            definition: rule.definition,
            name,
            rows: rows.unsigned_abs(),
            samples,
            since: None,
            can_be_not_valid: rule.can_be_not_valid && table.live.owned,
        });
    }
    Ok(rejections)
}

async fn samples(workspace: &Workspace<'_>, table: &Difference, kind: &str, name: &str) -> Result<Vec<RejectedSample>> {
    let positions = table.shown_positions();
    let column = |&at: &usize| format!("left(COALESCE(t.c{at}::text, l.c{at}::text), {SAMPLE_LENGTH})");
    let columns: Vec<String> = positions.iter().map(column).chain(["r.reason".to_owned()]).collect();
    let sql = format!(
        "SELECT {} FROM {} AS r JOIN {} AS o ON o.ctid = r.operation LEFT JOIN {} AS t ON t.ctid = o.afterimage_then \
         LEFT JOIN {} AS l ON l.afterimage_tid = o.afterimage_live WHERE r.kind = $1 AND r.name = $2 LIMIT {SAMPLES}",
        columns.join(", "),
        table.rejected(),
        table.operations(),
        table.rows(),
        table.live_rows()
    );
    let rows = workspace.query(&sql, &[&kind, &name]).await?;
    let key = |row: &tokio_postgres::Row| {
        let pairs = positions.iter().enumerate().map(|(at, &position)| {
            let value: Option<String> = row.get(at);
            format!("{}={}", table.columns[position].name, value.unwrap_or_else(|| "NULL".into()))
        });
        pairs.collect::<Vec<_>>().join(", ")
    };
    Ok(rows.iter().map(|row| RejectedSample { key: key(row), reason: row.get(positions.len()) }).collect())
}

/// What is known of a rule by its name.
struct Rule {
    definition: Option<String>,
    can_be_not_valid: bool,
}

impl Rule {
    fn of(differences: &Differences, table: &Difference, kind: RuleKind, name: &str) -> Rule {
        match kind {
            RuleKind::ForeignKey | RuleKind::Reference => {
                let outgoing = kind == RuleKind::ForeignKey;
                let is_it = |oid: u32| oid == table.live.oid;
                let key = differences
                    .foreign_keys
                    .iter()
                    .find(|key| key.name == name && is_it(if outgoing { key.child } else { key.parent }));
                Rule {
                    definition: key.map(|key| key.definition.clone()),
                    can_be_not_valid: outgoing && key.is_some_and(|key| !key.inherited),
                }
            }
            RuleKind::Check | RuleKind::Unique | RuleKind::Exclude => {
                let constraint = table.live.constraints.iter().find(|constraint| constraint.name == name);
                Rule {
                    definition: constraint.map(|constraint| constraint.definition.clone()),
                    can_be_not_valid: kind == RuleKind::Check && constraint.is_some_and(|found| !found.inherited),
                }
            }
            RuleKind::Type | RuleKind::NotNull => {
                let column = table.live.columns.iter().find(|column| column.name == name);
                Rule { definition: column.map(|column| column.type_sql.clone()), can_be_not_valid: false }
            }
            RuleKind::Domain | RuleKind::Policy | RuleKind::Trigger => {
                Rule { definition: None, can_be_not_valid: false }
            }
        }
    }
}
