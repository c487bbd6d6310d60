//! A rule over what happened long ago: how often would it have raised an alert?

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::counter::{Counter, of_definition};
use super::finding::Finding;
use super::judge::Judge;
use super::rule::Rule;
use super::sizes::Sizes;
use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{Lsn, Partitions, Transaction, Xid};
use crate::postgres::Source;

/// An alert that would have been raised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    pub time: Option<DateTime<Utc>>,
    pub lsn: Option<Lsn>,
    pub xid: Option<Xid>,
    pub table: String,
    pub rows: u64,
    pub tenants: usize,
    pub message: String,
    pub command: Option<String>,
}

/// Judges the transactions with commit LSNs from one up to another by a rule, as if they were committed one by one.
///
/// # Errors
/// As the archive says; usage where the rule's condition does not fit a table.
pub async fn try_rule(
    archive: &Archive,
    source: Option<&Source>,
    tenant_columns: Vec<String>,
    rule: &Rule,
    (from, to): (Lsn, Lsn),
) -> Result<(usize, Vec<Trial>)> {
    let judge = Judge { archive: archive.clone(), tenant_columns, memory: Judge::USUAL_MEMORY };
    let partitions = Arc::new(Partitions::of(archive.tables_ever().await?.values()));
    let mut counter = Counter::new(judge, Sizes::new(source), partitions);
    let within = |lsn: Lsn| from <= lsn && lsn < to;
    let transactions = archive.transactions(archive.watermark().await?.lsn).await?;
    let transactions: Vec<Transaction> = transactions.into_iter().filter(|one| within(one.commit.lsn)).collect();
    let mut found: Vec<(Option<DateTime<Utc>>, Finding)> = Vec::new();
    for transaction in &transactions {
        let findings = counter.count(rule, &[transaction]).await?;
        found.extend(findings.into_iter().map(|finding| (Some(transaction.commit.time), finding)));
    }
    for record in archive.ddl(archive.watermark().await?.lsn).await?.iter().filter(|one| within(one.position.lsn)) {
        found.extend(of_definition(rule, record, &counter.partitions).map(|finding| (Some(record.time), finding)));
    }
    found.sort_by_key(|(_, finding)| finding.lsn);
    let trial = |(time, finding): (Option<DateTime<Utc>>, Finding)| {
        let alert = finding.alert(rule);
        Trial {
            time,
            lsn: finding.lsn,
            xid: finding.xid,
            rows: finding.rows,
            tenants: finding.judged.tenants.len(),
            table: alert.table,
            message: alert.message,
            command: alert.command,
        }
    };
    Ok((transactions.len(), found.into_iter().map(trial).collect()))
}
