//! The transactions of a range, those first that deleted most.

use std::cmp::Reverse;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value as Json, json};

use super::header::find;
use super::row_counts;
use super::timeline::{Range, applications, last};
use super::{Told, counted, limit, operations, patterns};
use crate::archive::LoggedTransaction;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::rollup::application_of;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::failure::Failure;
use crate::http::Request;
use crate::model::{Lsn, OperationCounts, Said, TableName, Transaction, one_line};

/// Transactions that are read for one question at most.
pub(super) const EXACT: u64 = 2_000_000;

/// How long a list waits for the log to be read for the first time; then it has what has been read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A transaction in a list, and by what it is placed in it.
pub(super) struct Listed {
    pub(super) transaction: Transaction,
    /// Of the tables that are asked for.
    pub(super) counts: OperationCounts,
}

/// The first of what is listed, however much comes.
pub(super) struct First {
    by_time: bool,
    most: usize,
    kept: Vec<Listed>,
    pub(super) seen: u64,
}

impl First {
    pub(super) fn new(request: &Request) -> Result<First, Trouble> {
        let by_time = match request.asked("order") {
            None | Some("size") => false,
            Some("time") => true,
            Some(other) => return Err(Failure::usage(format!("there is no order {other}")).into()),
        };
        Ok(First { by_time, most: limit(request, 50, 1000)?, kept: Vec::new(), seen: 0 })
    }

    pub(super) fn add(&mut self, listed: Listed) {
        self.seen += 1;
        self.kept.push(listed);
        if self.kept.len() >= 4 * self.most {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let by_time = self.by_time;
        self.kept.sort_by_key(|one| {
            let lost = if by_time { 0 } else { one.counts.delete + one.counts.truncate };
            let size = if by_time { 0 } else { one.counts.total() };
            (Reverse((lost, size)), Reverse(one.transaction.commit.lsn))
        });
        self.kept.truncate(self.most);
    }

    /// Adds what transactions said of themselves, where only their rows were looked at.
    async fn complete(&mut self, view: &View) -> Result<(), Trouble> {
        self.cut();
        for listed in &mut self.kept {
            listed.transaction.context = find(view, listed.transaction.commit.lsn).await?.context;
        }
        Ok(())
    }

    pub(super) fn into_json(mut self) -> Json {
        self.cut();
        json!({ "seen": self.seen, "transactions": self.kept.iter().map(shown).collect::<Vec<_>>() })
    }
}

fn shown(listed: &Listed) -> Json {
    let (commit, said) = (listed.transaction.commit, Said::of(&listed.transaction));
    let mut tables: Vec<_> = listed.transaction.tables.iter().collect();
    tables.sort_by_key(|(_, counts)| Reverse((counts.delete + counts.truncate, counts.total())));
    let tables: Vec<Json> = tables
        .iter()
        .take(5)
        .map(|(name, counts)| json!({ "name": name.to_string(), "counts": counted(counts) }))
        .collect();
    json!({
        "lsn": commit.lsn, "xid": commit.xid, "time": commit.time.timestamp_millis(),
        "micros": commit.time.timestamp_micros(),
        "counts": counted(&listed.counts), "tables": tables, "more_tables": listed.transaction.tables.len().saturating_sub(5),
        "who": said.who(), "application": said.application(),
        "statement": said.statements().first().map(|statement| one_line(statement, 200)),
    })
}

/// What is asked to be listed.
pub(super) async fn list(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let range = Range::asked(request, console.archive.identity().created_at.timestamp_millis(), last(&view))?;
    let asked = |name: &str| super::number(request, name);
    // What is asked for exactly, not the bars around it.
    let range = Range { from: asked("from")?.unwrap_or(range.from), to: asked("to")?.unwrap_or(range.to), ..range };
    let (patterns, operations, mut first) = (patterns(request)?, operations(request)?, First::new(request)?);
    let tenant = request.asked("tenant");
    let is_wanted = |counts: &OperationCounts| match operations.is_empty() {
        true => counts.total() > 0,
        false => operations.iter().any(|operation| counts.of(*operation) > 0),
    };
    if !view.is_unlimited() || tenant.is_some() {
        let tenant = tenant.map(|value| row_counts::Tenant { columns: &console.tenant_columns, value });
        let found = console.read(row_counts::transactions(&view, range, &patterns, tenant)).await?;
        found.into_iter().filter(|listed| is_wanted(&listed.counts)).for_each(|listed| first.add(listed));
        if view.is_unlimited() {
            first.complete(&view).await?;
        }
        return Ok(first.into_json());
    }
    console.followed.settled(PATIENCE).await;
    let (wanted, applications) = (view.wanted(&patterns).await?, applications(request));
    let everything = patterns.is_empty() && operations.is_empty();
    let mut sink = |logged: LoggedTransaction<'_>| {
        let micros = logged.micros();
        if micros < range.from * 1000 || micros >= range.to * 1000 {
            return;
        }
        let mut counts = OperationCounts::default();
        let tables = logged.tables().filter(|(schema, table, _)| wanted(&TableName::new(*schema, *table)));
        tables.for_each(|(_, _, one)| counts += one);
        if everything || is_wanted(&counts) {
            first.add(Listed { transaction: logged.to_transaction(), counts });
        }
    };
    console.read(logged(console, range, &applications, &mut sink)).await?;
    Ok(first.into_json())
}

/// Reads the part of the log in which the transactions of a range are, and what has come since the roll-up looked.
///
/// # Errors
/// Usage where that is too much.
pub(super) async fn logged(
    console: &Console,
    range: Range,
    applications: &[String],
    sink: &mut (dyn FnMut(LoggedTransaction<'_>) + Send),
) -> Result<(), Trouble> {
    let watermark = console.archive.watermark().await?.lsn;
    let (span, until) = {
        let rollup = console.followed.look();
        (rollup.span(range.seconds()), rollup.until)
    };
    let (lsns, transactions) = span.unwrap_or((until..until, 0));
    if transactions > EXACT {
        return Err(Failure::usage(format!("there are {transactions} transactions in this range"))
            .remedy("zoom in, or choose a bar")
            .into());
    }
    // While the log is being read for the first time, the rest of it is no little.
    let until = if console.followed.progress().whole { until } else { watermark };
    for lsns in [lsns, until..watermark.max(until)] {
        read_log(console, lsns, watermark, applications, sink).await?;
    }
    Ok(())
}

async fn read_log(
    console: &Console,
    lsns: std::ops::Range<Lsn>,
    watermark: Lsn,
    applications: &[String],
    sink: &mut (dyn FnMut(LoggedTransaction<'_>) + Send),
) -> Result<(), Trouble> {
    if lsns.is_empty() {
        return Ok(());
    }
    for file in console.archive.logged_files(&lsns).await? {
        let mut batches = console.archive.logged(&file, lsns.clone(), watermark).await?;
        while let Some(batch) = batches.next().await {
            for one in batch?.iter() {
                let by_wanted = applications.is_empty() || {
                    let name = one.context().and_then(application_of).unwrap_or_default();
                    applications.contains(&name)
                };
                if by_wanted {
                    sink(one);
                }
            }
        }
    }
    Ok(())
}
