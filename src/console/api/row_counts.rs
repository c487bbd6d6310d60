//! Counts made of the rows themselves: of one tenant's, or of those that a visitor with limits may see. They are as exact as
//! the roll-up's and take as long as reading the rows does.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt as _;

use super::timeline::Range;
use super::transactions::Listed;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::failure::Failure;
use crate::model::{
    Commit, Lsn, Operation, OperationCounts, RelationVersion, TableName, TablePattern, Transaction, quote_literal,
};
use crate::serve;

/// Tables that are read for one question.
const MOST_TABLES: usize = 50;
/// Transactions that are told apart in one question.
const MOST_TRANSACTIONS: usize = 200_000;

/// Whose rows are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenant<'a> {
    /// Columns that name the tenant.
    pub(super) columns: &'a [String],
    pub(super) value: &'a str,
}

impl Tenant<'_> {
    /// The condition on a table's changes; `None` where it has no such column.
    fn condition(&self, relation: &RelationVersion) -> Option<String> {
        let column = self.columns.iter().find(|name| relation.column(name).is_some())?;
        let is =
            |side: &str| format!("CAST({side}[{}] AS VARCHAR) = {}", quote_literal(column), quote_literal(self.value));
        Some(format!("({} OR {})", is("old"), is("new")))
    }
}

/// Some changes of one transaction.
struct Counted {
    lsn: Lsn,
    xid: Option<u32>,
    micros: i64,
    operation: Operation,
    rows: u64,
}

/// The bars of a range, and the tables that could not be counted: they do not say whose their rows are.
pub(super) async fn draw(
    view: &View,
    range: Range,
    patterns: &[TablePattern],
    tenant: Option<Tenant<'_>>,
) -> Result<(Vec<OperationCounts>, Vec<String>), Trouble> {
    let mut bars = range.bars();
    let left_out = each(view, range, patterns, tenant, &mut |_, counted| {
        if let Some(bar) = range.bar(counted.micros).and_then(|bar| bars.get_mut(bar)) {
            add(bar, &counted);
        }
        Ok(())
    })
    .await?;
    Ok((bars, left_out))
}

/// The transactions of a range with what they did to those rows.
pub(super) async fn transactions(
    view: &View,
    range: Range,
    patterns: &[TablePattern],
    tenant: Option<Tenant<'_>>,
) -> Result<Vec<Listed>, Trouble> {
    let mut found: HashMap<Lsn, (Commit, BTreeMap<TableName, OperationCounts>)> = HashMap::new();
    each(view, range, patterns, tenant, &mut |table, counted| {
        if counted.micros < range.from * 1000 || counted.micros >= range.to * 1000 {
            return Ok(());
        }
        let commit = Commit {
            lsn: counted.lsn,
            end_lsn: counted.lsn,
            xid: counted.xid.unwrap_or_default(),
            time: chrono::DateTime::from_timestamp_micros(counted.micros).unwrap_or_default(),
        };
        let (_, tables) = found.entry(counted.lsn).or_insert_with(|| (commit, BTreeMap::new()));
        add(tables.entry(table.clone()).or_default(), &counted);
        match found.len() > MOST_TRANSACTIONS {
            true => Err(Failure::usage("there are too many transactions in this range").remedy("zoom in")),
            false => Ok(()),
        }
    })
    .await?;
    let listed = found.into_values().map(|(commit, tables)| {
        let counts = tables.values().fold(OperationCounts::default(), |mut sum, one| {
            sum += *one;
            sum
        });
        Listed { transaction: Transaction { commit, tables, context: None }, counts }
    });
    Ok(listed.collect())
}

fn add(counts: &mut OperationCounts, counted: &Counted) {
    match counted.operation {
        Operation::Insert | Operation::Snapshot => counts.insert += counted.rows,
        Operation::Update => counts.update += counted.rows,
        Operation::Delete => counts.delete += counted.rows,
        Operation::Truncate => counts.truncate += counted.rows,
    }
}

/// Counts the changes of each table, by transaction and operation; the tables that were left out come back.
async fn each(
    view: &View,
    range: Range,
    patterns: &[TablePattern],
    tenant: Option<Tenant<'_>>,
    sink: &mut (dyn FnMut(&TableName, Counted) -> Result<(), Failure> + Send),
) -> Result<Vec<String>, Trouble> {
    let wanted = view.wanted(patterns).await?;
    let (mut asked, mut left_out) = (Vec::new(), Vec::new());
    // A partitioned table has its partitions' rows, which are tables themselves.
    let known = view.known().await?.into_iter().filter(|(name, relation)| wanted(name) && !relation.partitioned);
    for (name, relation) in known {
        match tenant.map(|tenant| tenant.condition(&relation)) {
            Some(None) => left_out.push(name.to_string()),
            condition => asked.push((name, condition.flatten())),
        }
    }
    if asked.len() > MOST_TABLES {
        return Err(Failure::usage(format!("the rows of {} tables would be read", asked.len()))
            .remedy("choose tables")
            .into());
    }
    for (name, condition) in asked {
        let sql = question(&name, range, condition.as_deref());
        let mut result = view.session.sql(&sql).await?;
        while let Some(batch) = result.batches.next().await {
            for row in serve::texts(&batch?)? {
                if let Some(counted) = counted(&row) {
                    sink(&name, counted)?;
                }
            }
        }
    }
    Ok(left_out)
}

fn question(name: &TableName, range: Range, condition: Option<&str>) -> String {
    let time = |millis: i64| {
        let time = chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default();
        quote_literal(&time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    };
    let condition = condition.map_or(String::new(), |condition| format!(" AND {condition}"));
    format!(
        "SELECT _lsn, _xid, CAST(_ts AS BIGINT), _op, count(*) FROM changes({}) \
         WHERE _ts >= TIMESTAMP {} AND _ts < TIMESTAMP {}{condition} GROUP BY 1, 2, 3, 4",
        quote_literal(&name.to_sql()),
        time(range.from),
        time(range.to),
    )
}

fn counted(row: &[Option<String>]) -> Option<Counted> {
    let [lsn, xid, micros, operation, rows] = row else { return None };
    Some(Counted {
        lsn: Lsn::from_i64(lsn.as_deref()?.parse().ok()?),
        xid: xid.as_deref().and_then(|xid| xid.parse().ok()),
        micros: micros.as_deref()?.parse().ok()?,
        operation: Operation::parse(operation.as_deref()?)?,
        rows: rows.as_deref()?.parse().ok()?,
    })
}
