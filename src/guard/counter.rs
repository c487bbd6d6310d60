//! Rules over what was committed, as it happens or long after.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::finding::Finding;
use super::judge::{Judge, Judged};
use super::rule::Rule;
use super::sizes::Sizes;
use super::window::{Happening, Window};
use crate::failure::Result;
use crate::model::{DdlRecord, Partitions, TableName, Transaction};

/// Of more transactions at once a rule without a window judges the rows together.
const JUDGED_APART: usize = 20;

/// See the module's documentation.
pub(super) struct Counter {
    pub(super) judge: Judge,
    sizes: Sizes,
    windows: HashMap<String, Window>,
    /// Of the tables that it counts in.
    pub(super) partitions: Arc<Partitions>,
}

impl Counter {
    pub(super) fn new(judge: Judge, sizes: Sizes, partitions: Arc<Partitions>) -> Counter {
        Counter { judge, sizes, windows: HashMap::new(), partitions }
    }

    /// Forgets what rules that are no more have counted.
    pub(super) fn keep_only(&mut self, rules: &[Rule]) {
        self.windows.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
    }

    /// Counts transactions, in commit order, and says where the rule is met.
    ///
    /// # Errors
    /// Transient where the archive does not answer.
    pub(super) async fn count(&mut self, rule: &Rule, transactions: &[&Transaction]) -> Result<Vec<Finding>> {
        let mut groups: Vec<Vec<Happening>> = transactions
            .iter()
            .map(|one| happenings(rule, one, &self.partitions))
            .filter(|group| !group.is_empty())
            .collect();
        if rule.window.is_some() || rule.needs_rows() && rule.rows <= 1 && groups.len() > JUDGED_APART {
            groups = vec![together(groups)];
        }
        let mut found = Vec::new();
        for group in groups {
            let size = self.size(rule, &group).await;
            let window = self.windows.entry(rule.name.clone()).or_default();
            found.extend(window.count(rule, &self.judge, group, size).await?);
        }
        Ok(found)
    }

    async fn size(&mut self, rule: &Rule, group: &[Happening]) -> Option<f64> {
        rule.share?;
        let mut sum = 0.0;
        for happening in group {
            sum += self.sizes.of(&happening.table).await?;
        }
        Some(sum)
    }
}

/// What a transaction did that a rule may count, by the table.
fn happenings(rule: &Rule, transaction: &Transaction, partitions: &Partitions) -> Vec<Happening> {
    let commit = &transaction.commit;
    let context = || transaction.context.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
    let watched = transaction.tables.iter().filter(|(table, _)| rule.watches(table, partitions));
    let happening = |(table, counts)| {
        let candidates = rule.candidates(counts);
        (candidates > 0).then(|| Happening {
            time: commit.time,
            table: TableName::clone(table),
            first: commit.lsn,
            last: commit.lsn,
            transactions: 1,
            candidates,
            truncated: rule.is_met_by_truncation(counts),
            largest: (candidates, commit.xid, commit.lsn),
            context: context(),
        })
    };
    let mut found: Vec<Happening> = watched.filter_map(happening).collect();
    // It is one transaction, whatever it touched.
    found.iter_mut().skip(1).for_each(|further| further.transactions = 0);
    found
}

/// One happening for each table.
fn together(groups: Vec<Vec<Happening>>) -> Vec<Happening> {
    let mut tables: BTreeMap<TableName, Happening> = BTreeMap::new();
    for happening in groups.into_iter().flatten() {
        match tables.get_mut(&happening.table) {
            Some(known) => known.join(happening),
            None => drop(tables.insert(happening.table.clone(), happening)),
        }
    }
    tables.into_values().collect()
}

/// What a statement that changed definitions is to a rule; `None` where it does not concern it.
pub(super) fn of_definition(rule: &Rule, record: &DdlRecord, partitions: &Partitions) -> Option<Finding> {
    if !rule.watches_command(&record.tag) {
        return None;
    }
    let concerned = record.concerns();
    let tables: Vec<&String> = concerned
        .iter()
        .filter(|name| TableName::parse(name).is_some_and(|table| rule.watches(&table, partitions)))
        .collect();
    let table = tables.first()?;
    let statement = record.statement.as_deref().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let shown = statement.unwrap_or_else(|| record.tag.clone());
    Some(Finding {
        table: (*table).clone(),
        xid: Some(record.xid),
        lsn: Some(record.position.lsn),
        since: None,
        transactions: 1,
        rows: 1,
        judged: Judged::default(),
        context: Some(json!({
            "user": record.user, "application": record.application, "client": record.client, "statement": record.statement,
        })),
        note: Some(shown.chars().take(200).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Commit, Lsn, OperationCounts};

    #[test]
    fn a_transaction_counts_once_however_many_tables_it_touched() {
        let name = |table: &str| TableName::new("s", table);
        let deleted = |rows| OperationCounts { delete: rows, ..OperationCounts::default() };
        let inserted = OperationCounts { insert: 4, ..OperationCounts::default() };
        let transaction = |lsn: u64| Transaction {
            commit: Commit { xid: 7, lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), time: chrono::DateTime::UNIX_EPOCH },
            tables: [(name("a"), inserted), (name("b"), deleted(2)), (name("c"), deleted(3))].into(),
            context: None,
        };
        let rule = Rule::over_deletions("s");
        let of_one = |lsn| happenings(&rule, &transaction(lsn), &Partitions::default());
        let of_two = together(vec![of_one(10), of_one(20)]);
        let sum = |of: fn(&Happening) -> u64| of_two.iter().map(of).sum::<u64>();
        assert_eq!((sum(|one| one.transactions), sum(|one| one.candidates)), (2, 10));
    }
}
