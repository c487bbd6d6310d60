//! Counting what was committed, within a rule's window.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::finding::Finding;
use super::judge::{Judge, Judged};
use super::rule::Rule;
use crate::failure::{Category, Result};
use crate::model::{Lsn, TableName, Xid};

/// What transactions that were published together did to one table.
#[derive(Debug, Clone)]
pub(super) struct Happening {
    pub(super) time: DateTime<Utc>,
    pub(super) table: TableName,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    /// Of one that did something to several tables, the first of them counts it.
    pub(super) transactions: u64,
    /// Changes that may count.
    pub(super) candidates: u64,
    /// Any number of rows is met.
    pub(super) truncated: bool,
    /// The transaction with the most of them.
    pub(super) largest: (u64, Xid, Lsn),
    pub(super) context: Option<Json>,
}

impl Happening {
    /// Takes another of the same table along.
    pub(super) fn join(&mut self, other: Happening) {
        self.time = self.time.max(other.time);
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
        self.transactions += other.transactions;
        self.candidates += other.candidates;
        self.truncated |= other.truncated;
        if other.largest.0 > self.largest.0 {
            (self.largest, self.context) = (other.largest, other.context);
        }
    }
}

/// What a rule has counted lately.
#[derive(Debug, Default)]
pub(super) struct Window {
    happenings: VecDeque<(Happening, Option<Judged>)>,
    /// It was met, and is not told again until then.
    quiet_until: Option<DateTime<Utc>>,
}

/// Rows that are looked at for an alert whose rule asks nothing of them.
const SHOWN_ROWS: usize = 10_000;

impl Window {
    /// Counts what happened, and says whether the rule is met with it. `size` is how many rows the table has, where the
    /// rule asks for a share of them.
    ///
    /// # Errors
    /// Transient where the archive does not answer. What cannot be judged at all counts as met, and the finding says why.
    pub(super) async fn count(
        &mut self,
        rule: &Rule,
        judge: &Judge,
        happenings: Vec<Happening>,
        size: Option<f64>,
    ) -> Result<Option<Finding>> {
        let Some(now) = happenings.iter().map(|happening| happening.time).max() else { return Ok(None) };
        match rule.window.and_then(|window| chrono::Duration::from_std(window).ok()) {
            Some(window) => self.happenings.retain(|(known, _)| known.time + window > now),
            None => self.happenings.clear(),
        }
        self.happenings.extend(happenings.into_iter().map(|happening| (happening, None)));
        if self.quiet_until.is_some_and(|until| now < until) || !self.may_be_met(rule, size) {
            return Ok(None);
        }
        let mut note = None;
        if rule.needs_rows() {
            match self.judge(rule, judge).await {
                Ok(()) => {}
                Err(failure) if failure.category() == Category::Transient => return Err(failure),
                Err(failure) => note = Some(format!("its rows could not be judged: {failure}")),
            }
            if note.is_none() && !self.is_met(rule, size) {
                return Ok(None);
            }
        }
        let finding = self.finding(rule, judge, note).await;
        if let Some(window) = rule.window.and_then(|window| chrono::Duration::from_std(window).ok()) {
            self.quiet_until = Some(now + window);
        }
        self.happenings.clear();
        Ok(Some(finding))
    }

    fn truncated(&self) -> bool {
        self.happenings.iter().any(|(happening, _)| happening.truncated)
    }

    fn may_be_met(&self, rule: &Rule, size: Option<f64>) -> bool {
        let candidates: u64 = self.happenings.iter().map(|(happening, _)| happening.candidates).sum();
        self.truncated() || is_enough(rule, candidates, size)
    }

    async fn judge(&mut self, rule: &Rule, judge: &Judge) -> Result<()> {
        for (happening, judged) in &mut self.happenings {
            if judged.is_none() {
                let range = (happening.first, happening.last);
                *judged = Some(judge.committed(rule, &happening.table, range, usize::MAX).await?);
            }
        }
        Ok(())
    }

    fn total(&self) -> Judged {
        let mut total = Judged::default();
        self.happenings.iter().filter_map(|(_, judged)| judged.clone()).for_each(|judged| total.add(judged));
        total
    }

    fn is_met(&self, rule: &Rule, size: Option<f64>) -> bool {
        let total = self.total();
        let tenants = rule.tenants.is_none_or(|least| total.tenants.len() as u64 >= least);
        self.truncated() || is_enough(rule, total.matched, size) && tenants
    }

    async fn finding(&self, rule: &Rule, judge: &Judge, note: Option<String>) -> Finding {
        let all = || self.happenings.iter().map(|(happening, _)| happening);
        let largest = all().max_by_key(|happening| happening.largest.0);
        let mut judged = self.total();
        let mut rows = judged.matched;
        if !rule.needs_rows() || note.is_some() {
            rows = all().map(|happening| happening.candidates).sum();
            if let Some(happening) = largest.filter(|_| note.is_none()) {
                let range = (happening.first, happening.last);
                // The alert is the point; what it shows besides may be missing.
                judged = judge.committed(rule, &happening.table, range, SHOWN_ROWS).await.unwrap_or_default();
            }
        }
        let mut tables: Vec<String> = all().map(|happening| happening.table.to_string()).collect();
        tables.sort();
        tables.dedup();
        Finding {
            table: tables.join(", "),
            xid: largest.map(|happening| happening.largest.1),
            lsn: largest.map(|happening| happening.largest.2),
            since: all().map(|happening| happening.first).min(),
            transactions: all().map(|happening| happening.transactions).sum(),
            rows,
            judged,
            context: largest.and_then(|happening| happening.context.clone()),
            note,
        }
    }
}

/// Whether so many rows are as many as the rule asks for.
pub(super) fn is_enough(rule: &Rule, rows: u64, size: Option<f64>) -> bool {
    let share = rule.share.is_none_or(|share| size.is_some_and(|size| rows as f64 >= share * size.max(1.0)));
    rows > 0 && rows >= rule.rows && share
}
