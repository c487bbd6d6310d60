//! One row's past: its versions, and which transaction gave each column its value.

use std::ops::ControlFlow;

use serde_json::{Value as Json, json};

use super::changes::{change, columns_of, shown};
use super::{Told, limit, required};
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::view::View;
use crate::history::Account;
use crate::http::Request;
use crate::model::Column;
use crate::query::{self, Sought, setter};

pub(super) async fn tell(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let (name, _) = view.table(required(request, "name")?).await?;
    let key: Vec<String> =
        request.query.iter().filter(|(name, _)| name == "key").map(|(_, value)| value.clone()).collect();
    let most = limit(request, 200, 2000)?;
    console
        .read(async {
            let chronicle = view.chronicle(&name, view.archive.identity().start_lsn, view.watermark.lsn).await?;
            let columns = chronicle.columns().to_vec();
            let shown = columns_of(&chronicle).await?;
            let sought = Sought::row(&chronicle, &key).await?;
            let mut past = Vec::new();
            view.tell(sought.narrow(chronicle), Account::Changes, &mut |told| {
                if sought.is_in(&told, past.last()) {
                    past.push(told);
                }
                Ok(ControlFlow::Continue(()))
            })
            .await?;
            let versions: Vec<Json> = past.iter().rev().take(most).map(|told| change(told, &columns)).collect();
            let written: Vec<String> = key.iter().map(|value| quoted(value)).collect();
            Ok(json!({
                "name": name.to_string(), "columns": shown, "versions": versions,
                "cut": past.len() > most, "blame": blame(&past, &columns),
                "command": format!("afterimage history {} {}", quoted(&name.to_string()), written.join(" ")),
            }))
        })
        .await
}

/// Who gave each column the value that it has, or had last. Nobody, where it is older than what is known.
fn blame(past: &[query::Told], columns: &[Column]) -> Vec<Json> {
    let last = past.iter().rev().find_map(|told| told.new.as_ref().or(told.old.as_ref()));
    let Some(last) = last else { return Vec::new() };
    let told = |(at, column): (usize, &Column)| {
        let set = setter(past, at).map(|told| {
            json!({ "lsn": told.lsn, "xid": told.xid, "op": told.operation,
                "micros": told.time.map(|time| time.timestamp_micros()) })
        });
        let value = last.field(at).map(|value| shown(&String::from_utf8_lossy(value)));
        json!({ "column": column.name, "value": value, "set_by": set })
    };
    columns.iter().enumerate().map(told).collect()
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@');
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_every_key_as_one_word() {
        for (word, expected) in
            [("4711", "4711"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$(x)", "'$(x)'"), ("-1", "'-1'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
