//! What the simulated source answers to the statements that the archiver sends. Each is recognised by words that only it
//! has; another one is an error that says so, so that nothing is answered by guessing.

use std::collections::BTreeMap;

use super::connection::Session;
use super::database::{DATABASE, Database, SYSTEM_IDENTIFIER};
use super::model::State;
use super::value::Kind;
use crate::model::Lsn;

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const OID: u32 = 26;
const NAMES: u32 = 1003;
const VOID: u32 = 2278;

/// A value as the binary protocol has it.
type Cell = Option<Vec<u8>>;

/// An error of a statement: its SQLSTATE and its text.
pub(super) type SqlError = (&'static str, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    Facts,
    SameSource,
    Slot,
    DdlCapture,
    Describe,
    Tables,
    Nothing,
    IsPublished,
    TypeName,
    Fingerprints,
    Position,
    Emit,
    Lock,
    SlotUser,
    SlotPosition,
    DropSlot,
    PublicationKind,
    Publication,
    Relations,
    OtherObjects,
    Protected,
}

/// Words that only one statement has, the numbers of its parameters' types, and of its columns'.
type Known = (&'static str, Statement, &'static [u32], &'static [u32]);

const STATEMENTS: &[Known] = &[
    (
        "max_replication_slots",
        Statement::Facts,
        &[],
        &[INT4, TEXT, TEXT, BOOL, TEXT, BOOL, BOOL, INT8, INT8, INT8, TEXT, BOOL],
    ),
    ("pg_control_system", Statement::SameSource, &[], &[TEXT, TEXT]),
    (
        "LEFT JOIN pg_stat_replication",
        Statement::Slot,
        &[NAME],
        &[INT4, TEXT, TEXT, INT8, INT8, BOOL, TEXT, TEXT, BOOL],
    ),
    ("FROM pg_event_trigger", Statement::DdlCapture, &[NAMES], &[BOOL]),
    ("SELECT described::text", Statement::Describe, &[OID], &[TEXT]),
    (
        "c.relreplident::text",
        Statement::Tables,
        &[OID],
        &[OID, NAME, NAME, TEXT, TEXT, BOOL, TEXT, BOOL, BOOL, INT8, INT8, TEXT, BOOL],
    ),
    ("FROM pg_largeobject_metadata", Statement::Nothing, &[], &[TEXT]),
    ("c.relkind = 'p' AND c.relpersistence = 'p'", Statement::Nothing, &[], &[OID]),
    ("FROM pg_sequences", Statement::Nothing, &[], &[TEXT, TEXT, INT8, BOOL]),
    ("r.prpubid = p.oid AND r.prrelid = $1", Statement::IsPublished, &[OID, NAME], &[BOOL]),
    ("SELECT format_type($1, $2)", Statement::TypeName, &[OID, INT4], &[TEXT]),
    ("SELECT c.oid, concat(c.xmin", Statement::Fingerprints, &[], &[OID, TEXT]),
    ("SELECT pg_current_wal_insert_lsn()::text", Statement::Position, &[], &[TEXT]),
    ("pg_logical_emit_message($1", Statement::Emit, &[BOOL, TEXT, BYTEA], &[TEXT]),
    ("pg_try_advisory_lock", Statement::Lock, &[TEXT], &[BOOL]),
    ("SELECT active_pid, slot_type", Statement::SlotUser, &[NAME], &[INT4, TEXT, BOOL]),
    ("SELECT confirmed_flush_lsn::text FROM", Statement::SlotPosition, &[NAME], &[TEXT]),
    ("SELECT pg_drop_replication_slot(slot_name)", Statement::DropSlot, &[NAME], &[VOID]),
    ("SELECT puballtables FROM pg_publication", Statement::PublicationKind, &[NAME], &[BOOL]),
    ("SELECT FROM pg_publication WHERE", Statement::Publication, &[NAME], &[]),
    ("SELECT oid FROM pg_class WHERE relkind", Statement::Relations, &[], &[OID]),
    ("FROM objects o, pg_identify_object", Statement::OtherObjects, &[], &[TEXT]),
    (".protect(c.oid)", Statement::Protected, &[], &[TEXT]),
];

fn known(sql: &str) -> Result<&'static Known, SqlError> {
    let found = STATEMENTS.iter().find(|(words, ..)| sql.contains(words));
    found.ok_or_else(|| ("0A000", format!("the simulated server does not know this statement: {sql}")))
}

/// The numbers of the types of a statement's parameters and columns.
pub(super) fn types(sql: &str) -> Result<(&'static [u32], &'static [u32]), SqlError> {
    known(sql).map(|(_, _, parameters, columns)| (*parameters, *columns))
}

fn text(text: impl ToString) -> Cell {
    Some(text.to_string().into_bytes())
}

fn boolean(value: bool) -> Cell {
    Some(vec![u8::from(value)])
}

fn int4(value: i32) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn int8(value: i64) -> Cell {
    Some(value.to_be_bytes().to_vec())
}

fn text_of(parameters: &[Cell], at: usize) -> String {
    String::from_utf8(parameters[at].clone().unwrap_or_default()).unwrap()
}

fn number_of(parameters: &[Cell], at: usize) -> Option<u32> {
    parameters[at].as_ref().map(|bytes| u32::from_be_bytes(bytes.as_slice().try_into().unwrap()))
}

/// Performs a statement and gives its rows.
pub(super) fn perform(
    sql: &str,
    parameters: &[Cell],
    session: &Session,
    database: &mut Database,
) -> Result<Vec<Vec<Cell>>, SqlError> {
    let (_, statement, ..) = known(sql)?;
    let state = session.snapshot.clone().unwrap_or_else(|| database.state.clone());
    Ok(match statement {
        Statement::Facts => vec![facts(session.major)],
        Statement::SameSource => vec![vec![text(SYSTEM_IDENTIFIER), text(DATABASE)]],
        Statement::Slot => slot(database, &text_of(parameters, 0), session.major),
        Statement::DdlCapture => vec![vec![boolean(database.captures_ddl)]],
        Statement::Describe => described(&state, number_of(parameters, 0)),
        Statement::Tables => tables(&state, number_of(parameters, 0)),
        Statement::Nothing => Vec::new(),
        Statement::IsPublished | Statement::Lock => vec![vec![boolean(true)]],
        Statement::TypeName => vec![vec![text(Kind::name_of(number_of(parameters, 0).unwrap_or(0)))]],
        Statement::Fingerprints => fingerprints(&state),
        Statement::Position => vec![vec![text(database.position())]],
        Statement::Emit => vec![vec![text(emit(parameters, database))]],
        Statement::SlotUser => slot_user(database, &text_of(parameters, 0)),
        Statement::SlotPosition => {
            let found = database.slots.get(&text_of(parameters, 0));
            found.map(|slot| vec![text(slot.confirmed)]).into_iter().collect()
        }
        Statement::DropSlot => return drop_slot(database, &text_of(parameters, 0)),
        Statement::PublicationKind => {
            let exists = database.publications.contains(&text_of(parameters, 0));
            if exists { vec![vec![boolean(false)]] } else { Vec::new() }
        }
        Statement::Publication => {
            if database.publications.contains(&text_of(parameters, 0)) {
                vec![Vec::new()]
            } else {
                Vec::new()
            }
        }
        Statement::OtherObjects => vec![vec![text("[]")]],
        Statement::Protected => Vec::new(),
        Statement::Relations => state.keys().map(|oid| vec![int4(*oid as i32)]).collect(),
    })
}

fn facts(major: u32) -> Vec<Cell> {
    vec![
        int4(major as i32),
        text(DATABASE),
        text("archiver"),
        boolean(false),
        text("logical"),
        boolean(true),
        boolean(true),
        int8(10),
        int8(10),
        int8(-1),
        text("UTF8"),
        boolean(true),
    ]
}

/// The server process of a connection.
fn pid(connection: u64) -> i32 {
    10_000 + connection as i32
}

fn slot(database: &Database, name: &str, major: u32) -> Vec<Vec<Cell>> {
    let Some(slot) = database.slots.get(name) else { return Vec::new() };
    let status = if slot.lost { "lost" } else { "reserved" };
    let held = database.position().0.saturating_sub(slot.confirmed.0);
    vec![vec![
        slot.active.map(pid).and_then(int4),
        text(slot.confirmed),
        text(status),
        int8(held as i64),
        None,
        boolean(false),
        None,
        None,
        (major >= 17).then(|| boolean(true)).flatten(),
    ]]
}

fn slot_user(database: &Database, name: &str) -> Vec<Vec<Cell>> {
    let found = database.slots.get(name);
    found.map(|slot| vec![slot.active.map(pid).and_then(int4), text("logical"), boolean(true)]).into_iter().collect()
}

fn drop_slot(database: &mut Database, name: &str) -> Result<Vec<Vec<Cell>>, SqlError> {
    let Some(slot) = database.slots.get(name) else { return Ok(Vec::new()) };
    if let Some(connection) = slot.active {
        return Err(("55006", format!("replication slot \"{name}\" is active for PID {}", pid(connection))));
    }
    database.slots.remove(name);
    Ok(vec![vec![Some(Vec::new())]])
}

fn described(state: &State, oid: Option<u32>) -> Vec<Vec<Cell>> {
    let table = oid.and_then(|oid| state.get(&oid));
    table.map(|table| vec![text(table.shape.described())]).into_iter().collect()
}

fn tables(state: &State, only: Option<u32>) -> Vec<Vec<Cell>> {
    let wanted: BTreeMap<&str, _> = state
        .values()
        .filter(|table| only.is_none_or(|oid| oid == table.shape.oid))
        .map(|table| (table.shape.name.as_str(), table))
        .collect();
    let row = |table: &std::sync::Arc<super::model::Table>| {
        vec![
            int4(table.shape.oid as i32),
            text("public"),
            text(&table.shape.name),
            text(table.shape.identity_letter()),
            text("p"),
            boolean(true),
            None,
            boolean(true),
            boolean(true),
            int8(8192),
            int8(1),
            text("archiver"),
            boolean(true),
        ]
    };
    wanted.into_values().map(row).collect()
}

fn fingerprints(state: &State) -> Vec<Vec<Cell>> {
    state.values().map(|table| vec![int4(table.shape.oid as i32), text(table.shape.version)]).collect()
}

fn emit(parameters: &[Cell], database: &mut Database) -> Lsn {
    let transactional = parameters[0].as_deref() == Some(&[1]);
    let content = parameters[2].clone().unwrap_or_default();
    database.emit(transactional, &text_of(parameters, 1), &content)
}
