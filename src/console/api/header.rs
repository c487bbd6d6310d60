//! One transaction: who, when, how, and what it did to which tables.

use futures::StreamExt as _;
use serde_json::{Value as Json, json};

use super::{Told, counted, required};
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::http::Request;
use crate::model::{DdlRecord, Lsn, OperationCounts, Said, Transaction};

pub(super) async fn tell(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let lsn = named(&view, required(request, "txn")?).await?;
    if !view.is_unlimited() {
        // Which tables it changed is in the archive's log; those of this visitor are asked one by one.
        let known = view.known().await?;
        let tables = known.iter().filter(|(_, relation)| !relation.partitioned);
        let tables: Vec<Json> = tables.map(|(name, _)| json!({ "name": name.to_string() })).collect();
        return Ok(json!({ "lsn": lsn, "limited": true, "tables": tables }));
    }
    let transaction = find(&view, lsn).await?;
    let ddl = view.archive.ddl(view.watermark.lsn).await?;
    let ddl: Vec<&DdlRecord> = ddl.iter().filter(|record| record.position.lsn == lsn).collect();
    let alerts = console.events.all(&console.archive).await?;
    let alerts: Vec<_> = alerts.iter().filter(|event| event.kind != "ddl" && event.lsn == Some(lsn)).collect();
    let said = Said::of(&transaction);
    let mut total = OperationCounts::default();
    transaction.tables.values().for_each(|counts| total += *counts);
    let tables: Vec<Json> = transaction
        .tables
        .iter()
        .map(|(name, counts)| json!({ "name": name.to_string(), "counts": counted(counts) }))
        .collect();
    let mut statements = said.statements();
    statements.extend(ddl.iter().filter_map(|record| record.statement.clone()));
    statements.dedup();
    let commit = transaction.commit;
    Ok(json!({
        "lsn": lsn, "xid": commit.xid, "limited": false,
        "time": commit.time.timestamp_millis(), "micros": commit.time.timestamp_micros(),
        "who": said.who().or_else(|| ddl.iter().find_map(|record| record.user.clone())),
        "application": said.application(), "claims": said.claims(), "statements": statements,
        "ddl": ddl.iter().map(|one| json!({ "tag": one.tag, "concerns": one.concerns() })).collect::<Vec<_>>(),
        "events": alerts, "tables": tables, "counts": counted(&total),
        "commands": {
            "show": format!("afterimage show {lsn}"),
            "incident": format!("afterimage incident {lsn}"),
            "plan": format!("afterimage restore --undo {lsn}"),
            "apply": format!("afterimage restore --undo {lsn} --apply"),
        },
    }))
}

/// The commit LSN of the transaction that somebody names, by it or by its xid.
pub(super) async fn named(view: &View, written: &str) -> Result<Lsn, Trouble> {
    Ok(view.cut(Some(&format!("before:{written}"))).await?.lsn)
}

/// The transaction with a commit LSN.
pub(super) async fn find(view: &View, lsn: Lsn) -> Result<Transaction, Trouble> {
    let range = lsn..Lsn(lsn.0 + 1);
    for file in view.archive.logged_files(&range).await? {
        let mut batches = view.archive.logged(&file, range.clone(), view.watermark.lsn).await?;
        while let Some(batch) = batches.next().await {
            if let Some(one) = batch?.iter().next() {
                return Ok(one.to_transaction());
            }
        }
    }
    Err(Trouble::absent(format!("the archive has no transaction {lsn}"), "the timeline lists them"))
}
