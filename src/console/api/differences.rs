//! What differs in a table between two points.

use std::ops::ControlFlow;

use serde_json::{Value as Json, json};

use super::changes::{change, columns_of};
use super::{Told, counted, limit, required};
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;
use crate::failure::Failure;
use crate::history::Account;
use crate::http::Request;
use crate::model::OperationCounts;

pub(super) async fn tell(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let (name, _) = view.table(required(request, "name")?).await?;
    let (from, to) = (view.cut(Some(required(request, "from")?)).await?, view.cut(request.asked("to")).await?);
    if from.lsn > to.lsn {
        return Err(Failure::usage(format!("{} comes after {}", from.point, to.point)).remedy("exchange them").into());
    }
    let most = limit(request, 100, 1000)?;
    console
        .read(async {
            let chronicle = view.chronicle(&name, from.lsn, to.lsn).await?;
            let columns = chronicle.columns().to_vec();
            let shown = columns_of(&chronicle).await?;
            let (mut counts, mut rows) = (OperationCounts::default(), Vec::new());
            view.tell(chronicle, Account::Differences, &mut |told| {
                match (&told.old, &told.new) {
                    (None, _) => counts.insert += 1,
                    (_, None) => counts.delete += 1,
                    _ => counts.update += 1,
                }
                if rows.len() < most {
                    rows.push(change(&told, &columns));
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
            let cut = counts.total() > rows.len() as u64;
            let described: [Json; 2] = [&from, &to].map(|cut| json!({ "lsn": cut.lsn, "describe": cut.describe() }));
            Ok(json!({
                "name": name.to_string(), "columns": shown, "rows": rows, "cut": cut,
                "counts": counted(&counts), "from": described[0], "to": described[1],
            }))
        })
        .await
}
