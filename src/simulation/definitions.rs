//! Tables that come, go and get other names while everything else goes on, as DDL capture tells of them.

use std::sync::Arc;

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

use super::database::Database;
use super::model::{Change, Row, Shape, Table};
use super::value::Value;
use super::workload::{change, free_tables, fresh, shape};
use crate::model::Xid;
use crate::transaction::{DDL_PREFIX, END_PREFIX, ROW_PREFIX};

/// Names that tables have, one after the other.
const NAMES: u32 = 6;

/// Does one of these in a transaction, which may be rolled back.
///
/// Returns what was done.
pub(super) fn define(database: &mut Database, dice: &mut StdRng) -> String {
    let before = (database.state.clone(), database.told.clone());
    let xid = database.begin();
    let done = match dice.random_range(0..4) {
        0 => drop_one(database, xid, dice),
        1 => rename(database, xid, dice),
        // As migrations do it: another table takes the place of an old one.
        2 => {
            drop_one(database, xid, dice);
            make(database, xid, dice)
        }
        _ => make(database, xid, dice),
    };
    (0..dice.random_range(0..3)).for_each(|_| change(database, xid, dice));
    if dice.random_ratio(1, 5) {
        (database.state, database.told) = before;
        database.abort(xid);
    } else {
        database.commit(xid);
    }
    let names: Vec<&str> = database.state.values().map(|table| table.shape.name.as_str()).collect();
    format!("{done}: there is {}", names.join(", "))
}

fn make(database: &mut Database, xid: Xid, dice: &mut StdRng) -> &'static str {
    let names: Vec<String> = database.state.values().map(|table| table.shape.name.clone()).collect();
    let number = dice.random_range(0..NAMES);
    let mut shape = shape(number, dice);
    if names.contains(&shape.name) {
        return "nothing";
    }
    shape.oid = database.new_oid();
    let oid = shape.oid;
    database.create_table(shape);
    let shape = Arc::clone(&database.state[&oid].shape);
    let rows: Vec<Row> = (0..dice.random_range(0..4)).map(|_| row(database, &shape, dice)).collect();
    // A publication of all tables has it from its first row on; another gets it when the statement is done.
    if dice.random() {
        for new in rows {
            database.next_row += 1;
            let id = database.next_row;
            database.change(xid, Change::Insert { shape: Arc::clone(&shape), id, new });
        }
        let relation = json!({ "definition": shape.described(), "cover": "covered", "created": true });
        tell(database, xid, "CREATE TABLE AS", json!({ "relations": [relation] }), &[]);
        return "made";
    }
    let told: Vec<String> = rows.iter().map(|row| format!("{oid} {}", composite(row))).collect();
    for row in rows {
        database.next_row += 1;
        let id = database.next_row;
        Arc::make_mut(database.state.get_mut(&oid).unwrap()).rows.insert(id, row);
    }
    database.told.insert(oid);
    let relation = json!({ "definition": shape.described(), "cover": "added", "rows": "told", "created": true });
    tell(database, xid, "CREATE TABLE AS", json!({ "relations": [relation] }), &told);
    "made, and its rows told"
}

fn row(database: &mut Database, shape: &Shape, dice: &mut StdRng) -> Row {
    shape.columns.iter().map(|column| fresh(database, column, dice)).collect()
}

fn drop_one(database: &mut Database, xid: Xid, dice: &mut StdRng) -> &'static str {
    let shapes = free_tables(database);
    // One is always there, for whoever works.
    if shapes.is_empty() || database.state.len() < 2 {
        return "nothing";
    }
    let shape = &shapes[dice.random_range(0..shapes.len())];
    database.state.remove(&shape.oid);
    let gone = json!({ "type": "table", "oid": shape.oid, "identity": format!("public.{}", shape.name) });
    tell(database, xid, "DROP TABLE", json!({ "dropped": [gone] }), &[]);
    "dropped"
}

fn rename(database: &mut Database, xid: Xid, dice: &mut StdRng) -> &'static str {
    let (shapes, name) = (free_tables(database), format!("t{}", dice.random_range(0..NAMES)));
    if shapes.is_empty() || database.state.values().any(|table| table.shape.name == name) {
        return "nothing";
    }
    let oid = shapes[dice.random_range(0..shapes.len())].oid;
    let version = database.next_version();
    let mut table = Table::clone(&database.state[&oid]);
    let shape = Arc::make_mut(&mut table.shape);
    (shape.name, shape.version) = (name, version);
    let relation = json!({ "definition": shape.described(), "cover": "covered" });
    database.state.insert(oid, Arc::new(table));
    tell(database, xid, "ALTER TABLE", json!({ "relations": [relation] }), &[]);
    "renamed"
}

/// Writes what one statement did, and the rows that the log does not have otherwise.
fn tell(database: &mut Database, xid: Xid, tag: &str, mut said: Json, rows: &[String]) {
    said["publication"] = json!("afterimage");
    (said["tag"], said["statement"], said["user"]) = (json!(tag), json!(format!("{tag} …")), json!("archiver"));
    let mut messages = vec![(DDL_PREFIX, said.to_string())];
    messages.extend(rows.iter().map(|row| (ROW_PREFIX, row.clone())));
    messages.push((END_PREFIX, String::new()));
    for (prefix, content) in messages {
        database.change(xid, Change::Message { prefix: prefix.to_owned(), content: content.into_bytes() });
    }
}

/// As PostgreSQL writes a row (manual, "Composite Type Input and Output Syntax").
fn composite(row: &[Value]) -> String {
    let field = |value: &Value| match value {
        None => String::new(),
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\"")),
    };
    format!("({})", row.iter().map(field).collect::<Vec<_>>().join(","))
}
