//! What the simulated source holds: tables, transactions that run, and what every commit left. This is what the auditor
//! believes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::value::{Kind, Value};
use crate::model::{Identity, Lsn, Operation, OperationCounts, TableName, Xid};

pub(super) type Row = Vec<Value>;

/// Which row it is, whatever its values: two can be alike.
pub(super) type RowId = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnDefinition {
    pub(super) number: i16,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) key: bool,
    /// What rows from before it was added show.
    pub(super) missing: Value,
}

/// A table's shape, from one statement to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) columns: Vec<ColumnDefinition>,
    /// Counts its changes.
    pub(super) version: u64,
}

impl Shape {
    pub(super) fn table(&self) -> TableName {
        TableName::new("public", self.name.as_str())
    }

    pub(super) fn has_primary_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }

    /// Whether a column is one of the replica identity's.
    pub(super) fn identifies(&self, column: &ColumnDefinition) -> bool {
        self.identity == Identity::Full || column.key
    }

    pub(super) fn identity_letter(&self) -> char {
        if self.identity == Identity::Full { 'f' } else { 'd' }
    }

    /// What `describe.sql` says of it.
    pub(super) fn described(&self) -> Json {
        let column = |column: &ColumnDefinition| {
            let mut described = json!({
                "number": column.number, "name": column.name, "type_oid": column.kind.oid(), "type": column.kind.name(),
                "modifier": -1, "local": true, "storage": "x",
            });
            if self.identifies(column) {
                described["key"] = json!(true);
            }
            if let Some(missing) = &column.missing {
                described["missing"] = json!(missing);
                described["default"] = json!(format!("'{missing}'"));
            }
            described
        };
        json!({
            "oid": self.oid, "schema": "public", "name": self.name, "kind": "r", "persistence": "p",
            "identity": self.identity_letter(), "owner": "archiver",
            "columns": self.columns.iter().map(column).collect::<Vec<_>>(),
        })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) shape: Arc<Shape>,
    pub(super) rows: BTreeMap<RowId, Row>,
}

/// All tables, by number. Sharing what did not change makes keeping one for every commit cheap.
pub(super) type State = BTreeMap<u32, Arc<Table>>;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Insert { shape: Arc<Shape>, id: RowId, new: Row },
    Update { shape: Arc<Shape>, id: RowId, old: Row, new: Row },
    Delete { shape: Arc<Shape>, id: RowId, old: Row },
    Truncate { shapes: Vec<Arc<Shape>> },
    Message { prefix: String, content: Vec<u8> },
}

impl Change {
    /// What it does, table by table.
    pub(super) fn operations(&self) -> Vec<(TableName, Operation)> {
        match self {
            Change::Insert { shape, .. } => vec![(shape.table(), Operation::Insert)],
            Change::Update { shape, .. } => vec![(shape.table(), Operation::Update)],
            Change::Delete { shape, .. } => vec![(shape.table(), Operation::Delete)],
            Change::Truncate { shapes } => shapes.iter().map(|shape| (shape.table(), Operation::Truncate)).collect(),
            Change::Message { .. } => Vec::new(),
        }
    }

    /// About as much as the server's decoding holds of it.
    pub(super) fn bytes(&self) -> usize {
        let size = |row: &Row| row.iter().flatten().map(String::len).sum::<usize>() + 8 * row.len();
        match self {
            Change::Insert { new, .. } => 32 + size(new),
            Change::Update { old, new, .. } => 32 + size(old) + size(new),
            Change::Delete { old, .. } => 32 + size(old),
            Change::Truncate { .. } => 32,
            Change::Message { content, .. } => 32 + content.len(),
        }
    }

    pub(super) fn apply(&self, state: &mut State) {
        let mut rows_of = |shape: &Arc<Shape>, change: &dyn Fn(&mut BTreeMap<RowId, Row>)| {
            // Whoever dropped the table since has dropped its rows with it.
            if let Some(table) = state.get_mut(&shape.oid) {
                change(&mut Arc::make_mut(table).rows);
            }
        };
        match self {
            Change::Insert { shape, id, new } | Change::Update { shape, id, new, .. } => {
                rows_of(shape, &|rows| drop(rows.insert(*id, new.clone())));
            }
            Change::Delete { shape, id, .. } => rows_of(shape, &|rows| drop(rows.remove(id))),
            Change::Truncate { shapes } => shapes.iter().for_each(|shape| rows_of(shape, &|rows| rows.clear())),
            Change::Message { .. } => {}
        }
    }
}

/// A transaction that runs.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// The subtransactions that are open, innermost last; the transaction itself is the first.
    pub(super) open: Vec<Xid>,
    /// What it did and did not roll back.
    pub(super) done: Vec<(Xid, Change)>,
    /// Rows that it changed, which others wait for to the end, and tables that it has to itself.
    pub(super) rows: BTreeSet<RowId>,
    pub(super) tables: BTreeSet<u32>,
    /// It is prepared: it can only be committed or rolled back, and outlives a restart.
    pub(super) prepared: bool,
}

/// A transaction that committed.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    pub(super) lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) xid: Xid,
    /// Microseconds since 1970.
    pub(super) time: i64,
    pub(super) changes: Vec<Change>,
    /// What it left.
    pub(super) state: State,
}

impl Committed {
    pub(super) fn counts(&self) -> BTreeMap<TableName, OperationCounts> {
        let mut counts: BTreeMap<TableName, OperationCounts> = BTreeMap::new();
        for (table, operation) in self.changes.iter().flat_map(Change::operations) {
            counts.entry(table).or_default().add(operation);
        }
        counts
    }
}
