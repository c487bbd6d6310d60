//! What the source's users do.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::database::Database;
use super::definitions::define;
use super::model::{Change, ColumnDefinition, Row, RowId, Shape, State, Table};
use super::value::{Kind, Value};
use super::world::World;
use crate::model::{Identity, Xid};

/// Transactions that run at the same time, at most.
const SESSIONS: usize = 4;

/// Makes the tables and gives them some rows.
pub(super) fn prepare(world: &World, dice: &mut StdRng) {
    let mut database = world.database();
    for number in 0..world.knobs.tables {
        let shape = shape(number, dice);
        database.create_table(shape);
    }
    for _ in 0..dice.random_range(0..4) {
        let xid = database.begin();
        (0..dice.random_range(0..8)).for_each(|_| change(&mut database, xid, dice));
        database.commit(xid);
    }
}

pub(super) fn shape(number: u32, dice: &mut StdRng) -> Shape {
    let full = dice.random_ratio(1, 3);
    // Without a primary key rows can be alike.
    let keyless = full && dice.random_ratio(1, 2);
    let key = [Kind::Int8, Kind::Int4, Kind::Text, Kind::Uuid][dice.random_range(0..4)];
    let column = |number: i16, name: &str, kind, key| ColumnDefinition {
        number,
        name: name.to_owned(),
        kind,
        key,
        missing: None,
    };
    let mut columns = vec![column(1, "id", key, !keyless), column(2, "doc", Kind::Text, false)];
    for number in 3..3 + dice.random_range(0..3) {
        columns.push(column(number, &format!("c{number}"), Kind::ALL[dice.random_range(0..6)], false));
    }
    let identity = if full { Identity::Full } else { Identity::Default };
    Shape { oid: 16_400 + number, name: format!("t{number}"), identity, columns, version: 0 }
}

/// Does one thing or a few.
pub(super) fn step(world: &World, dice: &mut StdRng) {
    let mut database = world.database();
    if world.knobs.definitions && database.captures_ddl && dice.random_ratio(1, 10) {
        let done = define(&mut database, dice);
        drop(database);
        world.say(done);
        return world.log_grew();
    }
    let running: Vec<Xid> = database.running.keys().copied().collect();
    let long = dice.random_range(0..100) < world.knobs.long;
    match (running.choose(dice), dice.random_range(0..20)) {
        (_, 0) if world.knobs.ddl && database.captures_ddl => alter(&mut database, dice),
        (_, 1) if dice.random_ratio(1, 3) => truncate(&mut database, dice),
        (_, 2) => database.write_other(),
        (_, 3) => {
            let prefix = ["app.note", "afterimage"].choose(dice).unwrap();
            database.emit(dice.random(), prefix, b"{\"who\": \"somebody\"}");
        }
        (Some(xid), 4..=6) => end(&mut database, *xid, world.knobs.two_phase, dice),
        (Some(xid), 7..=16) if long && !database.running[xid].prepared => work(&mut database, *xid, dice),
        (_, 7..=12) if long && running.len() < SESSIONS => drop(database.begin()),
        _ => {
            let xid = database.begin();
            (0..dice.random_range(1..5)).for_each(|_| change(&mut database, xid, dice));
            database.commit(xid);
        }
    }
    drop(database);
    world.log_grew();
}

/// Ends what still runs.
pub(super) fn finish(world: &World, dice: &mut StdRng) {
    let mut database = world.database();
    let running: Vec<Xid> = database.running.keys().copied().collect();
    running.into_iter().for_each(|xid| end(&mut database, xid, false, dice));
    drop(database);
    world.log_grew();
}

fn end(database: &mut Database, xid: Xid, in_two_phases: bool, dice: &mut StdRng) {
    let running = &database.running[&xid];
    if in_two_phases && !running.prepared && !running.done.is_empty() && dice.random_ratio(1, 2) {
        return database.prepare(xid);
    }
    if dice.random_ratio(1, 5) { database.abort(xid) } else { database.commit(xid) }
}

fn work(database: &mut Database, xid: Xid, dice: &mut StdRng) {
    for _ in 0..dice.random_range(1..10) {
        match dice.random_range(0..12) {
            0 | 1 => database.savepoint(xid),
            2 => database.roll_back_to_savepoint(xid),
            3 => database.release_savepoint(xid),
            4 if dice.random_ratio(1, 3) => {
                let content = b"{\"why\": \"because\"}".to_vec();
                database.change(xid, Change::Message { prefix: "afterimage".to_owned(), content });
            }
            _ => change(database, xid, dice),
        }
    }
}

/// What others hold to the end of their transactions.
fn held(database: &Database, xid: Xid) -> (BTreeSet<RowId>, BTreeSet<u32>) {
    let others = || database.running.iter().filter(|(other, _)| **other != xid).map(|(_, running)| running);
    let rows = others().flat_map(|other| other.rows.iter().copied()).collect();
    (rows, others().flat_map(|other| other.tables.iter().copied()).collect())
}

/// Changes one row.
pub(super) fn change(database: &mut Database, xid: Xid, dice: &mut StdRng) {
    let (held, _) = held(database, xid);
    let seen = database.seen_by(xid);
    let tables: Vec<&Arc<Table>> = seen.values().collect();
    let table = *tables.choose(dice).unwrap();
    let shape = Arc::clone(&table.shape);
    let free: Vec<(&RowId, &Row)> = table.rows.iter().filter(|(id, _)| !held.contains(id)).collect();
    let change = match (free.choose(dice), dice.random_range(0..10)) {
        (Some((id, old)), 0..=1) => Change::Delete { shape, id: **id, old: (*old).clone() },
        (Some((id, old)), 2..=5) => {
            let new = updated(database, &shape, old, dice);
            Change::Update { shape, id: **id, old: (*old).clone(), new }
        }
        _ => {
            let new = shape.columns.iter().map(|column| fresh(database, column, dice)).collect();
            database.next_row += 1;
            Change::Insert { shape, id: database.next_row, new }
        }
    };
    database.change(xid, change);
}

pub(super) fn fresh(database: &mut Database, column: &ColumnDefinition, dice: &mut StdRng) -> Value {
    if !column.key {
        return column.kind.any(dice);
    }
    database.next_row += 1;
    let number = database.next_row;
    Some(match column.kind {
        Kind::Text => format!("key\t{number} '\\"),
        Kind::Uuid => uuid::Uuid::from_u128(u128::from(number)).to_string(),
        _ => number.to_string(),
    })
}

fn updated(database: &mut Database, shape: &Shape, old: &Row, dice: &mut StdRng) -> Row {
    let moves = shape.has_primary_key() && dice.random_ratio(1, 6);
    let columns = shape.columns.iter().zip(old);
    let column = |(column, old): (&ColumnDefinition, &Value)| match column.key {
        true if moves => fresh(database, column, dice),
        false if dice.random_ratio(1, 2) => column.kind.any(dice),
        _ => old.clone(),
    };
    columns.map(column).collect()
}

/// Tables that nobody else works on.
pub(super) fn free_tables(database: &Database) -> Vec<Arc<Shape>> {
    let (_, held) = held(database, 0);
    let tables = database.state.values().filter(|table| !held.contains(&table.shape.oid));
    tables.map(|table| Arc::clone(&table.shape)).collect()
}

fn truncate(database: &mut Database, dice: &mut StdRng) {
    let mut shapes = free_tables(database);
    let keep = dice.random_range(0..=shapes.len());
    shapes.truncate(keep);
    if shapes.is_empty() {
        return;
    }
    let xid = database.begin();
    database.change(xid, Change::Truncate { shapes });
    (0..dice.random_range(0..3)).for_each(|_| change(database, xid, dice));
    database.commit(xid);
}

/// Changes a table's definition.
fn alter(database: &mut Database, dice: &mut StdRng) {
    let Some(shape) = free_tables(database).choose(dice).cloned() else { return };
    if shape.has_primary_key() && dice.random_ratio(1, 3) {
        let full = shape.identity == Identity::Full;
        let identity = if full { Identity::Default } else { Identity::Full };
        return database.alter_table(shape.oid, |table| Arc::make_mut(&mut table.shape).identity = identity);
    }
    let number = shape.columns.iter().map(|column| column.number).max().unwrap_or(0) + 1;
    let kind = Kind::ALL[dice.random_range(0..6)];
    // A constant default is what rows of before show.
    let missing = if kind == Kind::Text { Some("new".to_owned()) } else { None };
    database.alter_table(shape.oid, |table| {
        let column =
            ColumnDefinition { number, name: format!("c{number}"), kind, key: false, missing: missing.clone() };
        Arc::make_mut(&mut table.shape).columns.push(column);
        table.rows.values_mut().for_each(|row| row.push(missing.clone()));
    });
}

/// The state of all tables before a commit, for whoever compares.
pub(super) fn rows_of(state: &State, oid: u32) -> Vec<Row> {
    let mut rows: Vec<Row> = state.get(&oid).map(|table| table.rows.values().cloned().collect()).unwrap_or_default();
    rows.sort();
    rows
}
