//! A proposed constraint, before it is made: which rows would it refuse, those that are there and those that a restore might
//! bring back?
//!
//! PostgreSQL itself judges every row, in a transaction that is rolled back. Archived row versions are staged in a temporary
//! table of the live table's types.

mod archived;
mod migration;
mod proposal;

use serde::Serialize;
use serde_json::Value as Json;

pub use migration::{Migration, try_migration};
pub use proposal::Proposal;

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{TableName, quote_identifier};
use crate::postgres::{Session, Source};

/// What is to be checked.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    pub table: TableName,
    pub proposal: Proposal,
    /// Conditions over a row: one that they hold of must not be refused, whatever it costs.
    pub critical: Vec<String>,
    /// Violations from which on the impact is MEDIUM, HIGH and CRITICAL.
    pub steps: [u64; 3],
    pub tenant_columns: Vec<String>,
    /// Archived row versions that are looked at, at most.
    pub archived_rows: u64,
}

/// How bad it would be, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Safe,
    Low,
    Medium,
    High,
    Critical,
    Catastrophic,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Safe => "SAFE",
            Level::Low => "LOW",
            Level::Medium => "MEDIUM",
            Level::High => "HIGH",
            Level::Critical => "CRITICAL",
            Level::Catastrophic => "CATASTROPHIC",
        }
    }

    fn recommendation(self) -> &'static str {
        match self {
            Level::Safe => "safe to deploy",
            Level::Low => "few rows are concerned: change them first, with a mark before",
            Level::Medium => "acceptable with a mark before it and the rows changed first",
            Level::High => "needs a planned migration of the rows; NOT VALID until it is done",
            Level::Critical => "do not deploy: migrate the rows first",
            Level::Catastrophic => "do not deploy: it refuses rows that the business cannot be without",
        }
    }
}

/// Rows that the constraint would refuse.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Violations {
    /// Rows that were looked at.
    pub rows: u64,
    pub violating: u64,
    /// Of them, those of which a critical condition holds.
    pub critical: u64,
    /// By tenant, most first.
    pub tenants: Vec<(String, u64)>,
    /// By the pattern of the values of each column that the constraint names: letters and digits stand for their kinds.
    pub patterns: Vec<(String, String, u64)>,
    pub samples: Vec<Json>,
}

/// What a check came to.
#[derive(Debug, Clone, Serialize)]
pub struct Impact {
    pub table: TableName,
    pub constraint: String,
    pub level: Level,
    pub live: Violations,
    /// Row versions that are not there now, and that a restore might bring back.
    pub archived: Violations,
    /// Not all of the archive was looked at.
    pub archived_cut_off: bool,
    pub recommendation: String,
}

/// Checks a proposed constraint. Nothing is changed.
///
/// # Errors
/// Usage where PostgreSQL cannot make sense of the constraint; failed where there is no such table.
pub async fn check(source: &Source, archive: Option<&Archive>, request: &CheckRequest) -> Result<Impact> {
    let session = source.without_waiting().connect("afterimage check").await?;
    session.batch_execute("BEGIN; SET LOCAL search_path = \"$user\", public").await?;
    let columns = columns(&session, &request.table).await?;
    let violates = request.proposal.violation(&columns)?;
    let examiner = Examiner { session: &session, request, columns: &columns, violates: &violates };
    let live = examiner.examine(&request.table.to_sql(), "true").await?;
    let (mut found, mut cut_off) = (Violations::default(), false);
    if let Some(archive) = archive {
        cut_off = archived::stage(&session, archive, request, &columns).await?;
        // A version that is there now has been looked at.
        let elsewhere =
            format!("NOT EXISTS (SELECT FROM ONLY {} AS live WHERE live::text = r::text)", request.table.to_sql());
        found = examiner.examine(archived::TABLE, &elsewhere).await?;
    }
    session.batch_execute("ROLLBACK").await?;
    let level = level(&live, &found, request.steps);
    Ok(Impact {
        table: request.table.clone(),
        constraint: request.proposal.to_string(),
        level,
        live,
        archived: found,
        archived_cut_off: cut_off,
        recommendation: level.recommendation().to_owned(),
    })
}

fn level(live: &Violations, archived: &Violations, [medium, high, critical]: [u64; 3]) -> Level {
    match live.violating + archived.violating {
        0 => Level::Safe,
        _ if live.critical + archived.critical > 0 => Level::Catastrophic,
        many if many >= critical => Level::Critical,
        many if many >= high => Level::High,
        many if many >= medium => Level::Medium,
        _ => Level::Low,
    }
}

const COLUMNS: &str = "SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

async fn columns(session: &Session, table: &TableName) -> Result<Vec<String>> {
    let rows = session.query(COLUMNS, &[&table.schema, &table.table]).await?;
    if rows.is_empty() {
        return Err(Failure::failed(format!("the source has no table {table}")));
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Rows and samples that are shown.
const SHOWN: u64 = 10;

struct Examiner<'a> {
    session: &'a Session,
    request: &'a CheckRequest,
    columns: &'a [String],
    /// The condition of a violation.
    violates: &'a str,
}

impl Examiner<'_> {
    /// Judges the rows of a table for which a condition over `r` holds.
    async fn examine(&self, table: &str, among: &str) -> Result<Violations> {
        let Examiner { session, request, .. } = self;
        let critical = match request.critical.is_empty() {
            true => "false".to_owned(),
            false => {
                request.critical.iter().map(|one| format!("COALESCE(({one}), false)")).collect::<Vec<_>>().join(" OR ")
            }
        };
        let wrong = |error: tokio_postgres::Error| match error.as_db_error() {
            Some(said) => Failure::usage(format!("the constraint {}: {}", request.proposal, said.message()))
                .remedy("write what would stand in CHECK (…), or CHECK (…), UNIQUE (…), NOT NULL column"),
            None => error.into(),
        };
        let all = format!("SELECT count(*) FROM {table} AS r WHERE {among}");
        let rows: i64 = session.query_one(&all, &[]).await.map_err(wrong)?.get(0);
        let found = format!(
            "CREATE TEMP TABLE afterimage_violations ON COMMIT DROP AS
             SELECT r.*, ({critical}) AS afterimage_critical FROM {table} AS r WHERE ({}) AND {among}",
            self.violates.replace("{TABLE}", table)
        );
        session.batch_execute(&found).await.map_err(wrong)?;
        let sums = "SELECT count(*), count(*) FILTER (WHERE afterimage_critical) FROM pg_temp.afterimage_violations";
        let sums = session.query_one(sums, &[]).await?;
        let mut violations = Violations {
            rows: rows.unsigned_abs(),
            violating: sums.get::<_, i64>(0).unsigned_abs(),
            critical: sums.get::<_, i64>(1).unsigned_abs(),
            ..Violations::default()
        };
        if violations.violating > 0 {
            self.describe(&mut violations).await?;
        }
        session.batch_execute("DROP TABLE pg_temp.afterimage_violations").await?;
        Ok(violations)
    }

    async fn describe(&self, violations: &mut Violations) -> Result<()> {
        let from = "FROM pg_temp.afterimage_violations AS v";
        let grouped = async |expression: &str, most: u64| -> Result<Vec<(String, u64)>> {
            let sql = format!(
                "SELECT COALESCE(({expression})::text, 'NULL'), count(*) {from} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {most}"
            );
            let rows = self.session.query(&sql, &[]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect())
        };
        let tenant = self.request.tenant_columns.iter().find(|name| self.columns.contains(name));
        if let Some(tenant) = tenant {
            violations.tenants = grouped(&format!("v.{}", quote_identifier(tenant)), 1000).await?;
        }
        for column in self.request.proposal.named(self.columns) {
            let text = format!("left(v.{}::text, 200)", quote_identifier(column));
            let pattern = format!(
                "regexp_replace(regexp_replace(regexp_replace({text}, '[0-9]+', '9', 'g'), '[a-z]+', 'a', 'g'), '[A-Z]+', 'A', 'g')"
            );
            let found = grouped(&pattern, SHOWN).await?;
            violations.patterns.extend(found.into_iter().map(|(pattern, rows)| (column.clone(), pattern, rows)));
        }
        let samples = format!(
            "SELECT (to_jsonb(v) - 'afterimage_critical')::text {from} ORDER BY afterimage_critical DESC LIMIT 3"
        );
        let rows = self.session.query(&samples, &[]).await?;
        violations.samples = rows.iter().filter_map(|row| serde_json::from_str(row.get::<_, &str>(0)).ok()).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_from_what_is_critical_first() {
        let some = |violating, critical| Violations { violating, critical, ..Violations::default() };
        let of = |live, archived| level(&live, &archived, [11, 101, 1001]);
        assert_eq!(of(some(0, 0), some(0, 0)), Level::Safe);
        assert_eq!(of(some(1, 0), some(0, 0)), Level::Low);
        assert_eq!(of(some(5, 0), some(6, 0)), Level::Medium);
        assert_eq!(of(some(0, 0), some(101, 0)), Level::High);
        assert_eq!(of(some(1001, 0), some(0, 0)), Level::Critical);
        assert_eq!(of(some(1, 0), some(1, 1)), Level::Catastrophic);
    }
}
