//! What changed since a mark, against what was expected.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Finding, finding};
use crate::archive::Archive;
use crate::failure::Result;
use crate::guard::judge::Judge;
use crate::guard::rule::{Action, Rule, Watched};
use crate::model::{Lsn, Operation, OperationCounts, Severity, TableName, TablePattern};

/// Rows of one table that are looked at to say whose they are.
const MOST_ROWS: usize = 100_000;

/// What happened to one table.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    pub table: TableName,
    #[serde(flatten)]
    pub counts: OperationCounts,
    pub transactions: u64,
    /// Changes by tenant, as far as rows were looked at.
    pub tenants: BTreeMap<String, u64>,
}

/// How many rows a deployment may change, by operation; `None` where nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operations {
    pub insert: Option<(u64, u64)>,
    pub update: Option<(u64, u64)>,
    pub delete: Option<(u64, u64)>,
    pub truncate: Option<(u64, u64)>,
}

/// What a deployment is expected to do to tables.
#[derive(Debug, Clone)]
pub struct Expectation {
    pub tables: TablePattern,
    /// From how many up to how many.
    pub operations: Operations,
}

impl Operations {
    fn of(&self, operation: Operation) -> Option<(u64, u64)> {
        match operation {
            Operation::Insert | Operation::Snapshot => self.insert,
            Operation::Update => self.update,
            Operation::Delete => self.delete,
            Operation::Truncate => self.truncate,
        }
    }
}

const COUNTED: [Operation; 4] = [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate];

/// What transactions after a mark did, up to a cut.
pub(super) async fn since(archive: &Archive, mark: Lsn, now: Lsn, tenant_columns: &[String]) -> Result<Vec<Changed>> {
    let mut tables: BTreeMap<TableName, Changed> = BTreeMap::new();
    let transactions = archive.transactions(archive.watermark().await?.lsn).await?;
    for transaction in transactions.iter().filter(|one| one.commit.lsn > mark && one.commit.lsn < now) {
        for (name, counts) in &transaction.tables {
            let changed = tables.entry(name.clone()).or_insert_with(|| Changed {
                table: name.clone(),
                counts: OperationCounts::default(),
                transactions: 0,
                tenants: BTreeMap::new(),
            });
            changed.counts += *counts;
            changed.transactions += 1;
        }
    }
    let tenant_columns = tenant_columns.to_vec();
    let judge = Judge { archive: archive.clone(), tenant_columns, memory: Judge::USUAL_MEMORY };
    for (name, changed) in &mut tables {
        let range = (Lsn(mark.0 + 1), Lsn(now.0.saturating_sub(1)));
        changed.tenants = judge.committed(&everything(), name, range, MOST_ROWS).await?.tenants;
    }
    Ok(tables.into_values().collect())
}

/// A rule that every row meets.
fn everything() -> Rule {
    Rule {
        name: "gate".to_owned(),
        tables: Vec::new(),
        except_tables: Vec::new(),
        operations: vec![Watched::Insert, Watched::Update, Watched::Delete],
        condition: None,
        rows: 1,
        tenants: None,
        share: None,
        last_of: Vec::new(),
        window: None,
        severity: Severity::Info,
        action: Action::Alert,
        except_users: Vec::new(),
        except_applications: Vec::new(),
        resolution: None,
    }
}

/// Holds what happened against what was expected. The first expectation that names a table counts.
pub(super) fn judged(changes: &[Changed], expectations: &[Expectation], unexpected_allowed: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for changed in changes {
        let expectation = expectations.iter().find(|one| one.tables.matches(&changed.table));
        for operation in COUNTED {
            let rows = changed.counts.of(operation);
            let expected = expectation.and_then(|one| one.operations.of(operation));
            let (passed, wanted) = match expected {
                Some((least, most)) => ((least..=most).contains(&rows), said(least, most)),
                None if rows == 0 => continue,
                None => (unexpected_allowed, "nothing was expected".to_owned()),
            };
            let name = format!("{operation} of {}", changed.table);
            findings.push(finding(name, passed, format!("{rows} rows, {wanted}")));
        }
    }
    // What was to happen and did not, to tables that nothing happened to.
    let untouched = |one: &&Expectation| !changes.iter().any(|changed| one.tables.matches(&changed.table));
    for expectation in expectations.iter().filter(untouched) {
        for operation in COUNTED {
            if let Some((least, most)) = expectation.operations.of(operation).filter(|(least, _)| *least > 0) {
                let name = format!("{operation} of {}", expectation.tables);
                findings.push(finding(name, false, format!("0 rows, {}", said(least, most))));
            }
        }
    }
    findings
}

fn said(least: u64, most: u64) -> String {
    match most {
        u64::MAX => format!("at least {least} were expected"),
        _ if least == most => format!("{least} were expected"),
        _ => format!("{least} to {most} were expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_expected_and_what_did_not_happen_both_fail() {
        let changed = |table: &str, delete| Changed {
            table: TableName::new("public", table),
            counts: OperationCounts { delete, ..OperationCounts::default() },
            transactions: 1,
            tenants: BTreeMap::new(),
        };
        let expects = |table: &str, least, most| Expectation {
            tables: TablePattern::parse(table).unwrap(),
            operations: Operations { delete: Some((least, most)), ..Operations::default() },
        };
        let failed = |changes: &[Changed], expectations: &[Expectation], allowed| {
            judged(changes, expectations, allowed).iter().filter(|one| !one.passed).count()
        };
        assert_eq!(failed(&[changed("a", 7)], &[], false), 1);
        assert_eq!(failed(&[changed("a", 7)], &[], true), 0);
        assert_eq!(failed(&[changed("a", 7)], &[expects("a", 0, 10)], false), 0);
        assert_eq!(failed(&[changed("a", 17)], &[expects("a", 0, 10)], true), 1);
        assert_eq!(failed(&[], &[expects("a", 1, u64::MAX)], true), 1);
        assert_eq!(failed(&[], &[expects("a", 0, 0)], false), 0);
    }
}
