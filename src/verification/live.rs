//! The archived state of a table against the live table, row by row, at one place in history.
//!
//! A temporary slot exports a snapshot and says where in history it stands; the archive is read at that place and the
//! source in that snapshot, so that both show the same transactions and traffic goes on. The rows of both are summed up
//! by their keys; only where sums differ are rows held against each other.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::Finding;
use super::sums::{Buckets, RowKey, hash};
use crate::archive::Archive;
use crate::capture::require_same_source;
use crate::columnar::RowText;
use crate::copy_format::TextRow;
use crate::failure::{Context as _, Failure, Result};
use crate::history::TableAt;
use crate::model::{Lsn, RelationVersion, TableName, quote_identifier};
use crate::postgres::{CopyConnection, ReplicationConnection, Source, Throttle, begin_snapshot};

/// A snapshot of the source; it lasts as long as this.
pub struct LiveSnapshot {
    /// The archive's state before this is what the snapshot shows.
    pub lsn: Lsn,
    connection: CopyConnection,
    throttle: Option<Throttle>,
    /// Exports the snapshot, and holds the temporary slot, where there is one.
    _exporter: Option<ReplicationConnection>,
}

/// How a table compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveTable {
    pub table: TableName,
    pub live_rows: u64,
    pub archived_rows: u64,
    /// Whether both have the same rows; if not, the numbers below are of those that were held against each other.
    pub equal: bool,
    /// Rows that only the source has, only the archive has, or that differ.
    pub missing: u64,
    pub surplus: u64,
    pub different: u64,
    /// Keys of some of them.
    pub samples: Vec<String>,
}

const SAMPLES: usize = 5;

/// Keys of buckets that differ that are held against each other, at most.
const MOST_ROWS: usize = 100_000;

impl LiveSnapshot {
    /// Opens a snapshot, to be read at no more than so many bytes in a second. Waits until the transactions that run now
    /// have ended.
    ///
    /// # Errors
    /// Refused where the source is another database's than the archive's; else as the server says, a lack of free
    /// replication slots among it.
    pub async fn open(source: &Source, archive: &Archive, throttle: Option<u64>) -> Result<LiveSnapshot> {
        require_same_source(&*source.connect("afterimage verify").await?, archive.identity()).await?;
        let mut exporter = ReplicationConnection::connect(source).await?;
        let name = format!("afterimage_verify_{}", uuid::Uuid::new_v4().simple());
        let slot = exporter.create_slot(&name, true, true).await?;
        let snapshot = slot.snapshot.ok_or_else(|| Failure::failed("the server exported no snapshot"))?;
        let mut connection = CopyConnection::connect(source, "afterimage verify").await?;
        let begin = format!("{}; SAVEPOINT table_at_hand", begin_snapshot(&snapshot));
        connection.execute(&begin).await.context("cannot read in the exported snapshot")?;
        let throttle = throttle.map(Throttle::new);
        Ok(LiveSnapshot { lsn: slot.consistent_point, connection, throttle, _exporter: Some(exporter) })
    }

    /// A snapshot of a copy that nobody writes to, which has the archive's state before this place.
    ///
    /// # Errors
    /// As the server says.
    pub async fn of_copy(copy: &Source, lsn: Lsn) -> Result<LiveSnapshot> {
        let mut connection = CopyConnection::connect(copy, "afterimage drill").await?;
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SAVEPOINT table_at_hand").await?;
        Ok(LiveSnapshot { lsn, connection, throttle: None, _exporter: None })
    }

    /// Gives every row of a table, its fields in the order of the relation's columns.
    async fn for_each_row(
        &mut self,
        relation: &RelationVersion,
        take: &mut (dyn FnMut(&TextRow) -> Result<()> + Send),
    ) -> Result<()> {
        let columns: Vec<String> = relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let table = relation.name.to_sql();
        let copy = format!("COPY (SELECT {} FROM ONLY {table}) TO STDOUT", columns.join(", "));
        if let Err(failure) = self.connection.start(&copy).await {
            // One table that cannot be read must not keep the others from it.
            self.connection.execute("ROLLBACK TO SAVEPOINT table_at_hand").await?;
            return Err(failure);
        }
        let mut row = TextRow::new();
        let mut line = |bytes: &[u8]| {
            row.read(bytes, columns.len())?;
            take(&row)
        };
        while let Some(bytes) = self.connection.next(&mut line).await? {
            if let Some(throttle) = &self.throttle {
                throttle.pass(bytes).await;
            }
        }
        Ok(())
    }
}

/// Compares tables, one after the other, and says which begins; gives what was compared, and what could not be, and why.
///
/// # Errors
/// Transient, as the source and the archive say.
pub async fn compare_all(
    snapshot: &mut LiveSnapshot,
    archive: &Archive,
    names: &[&TableName],
    begins: impl Fn(&TableName),
) -> Result<(Vec<LiveTable>, Vec<Finding>)> {
    let (mut compared, mut not_compared) = (Vec::new(), Vec::new());
    for name in names {
        begins(name);
        match compare(snapshot, archive, name).await {
            Ok(table) => compared.push(table),
            Err(failure) if failure.is_transient() => return Err(failure),
            Err(failure) => not_compared.push(Finding::new(name, failure.to_string())),
        }
    }
    Ok((compared, not_compared))
}

/// Compares a table that both sides have; the archive must have caught up with the snapshot.
///
/// # Errors
/// As the source and the archive say: what could not be compared is not equal.
async fn compare(snapshot: &mut LiveSnapshot, archive: &Archive, name: &TableName) -> Result<LiveTable> {
    let state = TableAt::find(archive, name, snapshot.lsn).await?;
    let state = state.ok_or_else(|| Failure::failed(format!("{name} is not in the archive at {}", snapshot.lsn)))?;
    let relation = state.relation().clone();
    let key = RowKey::of(&relation);
    let (mut live, mut archived) = (Buckets::new(), Buckets::new());
    snapshot
        .for_each_row(&relation, &mut |row| {
            live.add_row(&key, row.fields());
            Ok(())
        })
        .await
        .context(format_args!("reading {name}"))?;
    let mut add = |row: &RowText| {
        archived.add_row(&key, row.fields());
        Ok(())
    };
    state.for_each_row(None, &mut add).await?;
    let mut table = LiveTable {
        table: name.clone(),
        live_rows: live.rows,
        archived_rows: archived.rows,
        equal: live.equal(&archived),
        missing: 0,
        surplus: 0,
        different: 0,
        samples: Vec::new(),
    };
    if !table.equal {
        hold_against(snapshot, &state, &key, |bucket| live.agree(&archived, bucket), &mut table).await?;
    }
    Ok(table)
}

/// The texts of a key's columns.
type KeyText = Vec<Option<Vec<u8>>>;

/// Rows of one key: of the source how many more than of the archive, by their hashes.
type Copies = BTreeMap<u128, i64>;

/// Counts the rows that are on one side only.
async fn hold_against(
    snapshot: &mut LiveSnapshot,
    state: &TableAt,
    key: &RowKey,
    agree: impl Fn(usize) -> bool + Sync,
    table: &mut LiveTable,
) -> Result<()> {
    let mut rows: BTreeMap<KeyText, Copies> = BTreeMap::new();
    // Both sides must leave out the same keys.
    let mut left_out: HashSet<usize> = HashSet::new();
    let mut note = |(key, row): (Vec<Option<&[u8]>>, u128), by: i64| {
        let bucket = Buckets::of(hash(&key));
        if agree(bucket) || left_out.contains(&bucket) {
            return;
        }
        let key: KeyText = key.into_iter().map(|field| field.map(<[u8]>::to_vec)).collect();
        if rows.len() >= MOST_ROWS && !rows.contains_key(&key) {
            left_out.insert(bucket);
            rows.retain(|known, _| Buckets::of(hash(known)) != bucket);
            return;
        }
        *rows.entry(key).or_default().entry(row).or_default() += by;
    };
    let relation = state.relation();
    let mut live = |row: &TextRow| {
        note(key.of_row(row.fields()), 1);
        Ok(())
    };
    snapshot.for_each_row(relation, &mut live).await?;
    let mut archived = |row: &RowText| {
        note(key.of_row(row.fields()), -1);
        Ok(())
    };
    state.for_each_row(None, &mut archived).await?;
    for (text, copies) in rows {
        let count = |positive: bool| {
            let of_side = copies.values().filter(|copies| (**copies > 0) == positive);
            of_side.map(|copies| copies.unsigned_abs()).sum::<u64>()
        };
        let (missing, surplus) = (count(true), count(false));
        if missing + surplus == 0 {
            continue;
        }
        let both = missing.min(surplus);
        table.different += both;
        table.missing += missing - both;
        table.surplus += surplus - both;
        if table.samples.len() < SAMPLES {
            let what = if both > 0 {
                "differs"
            } else if missing > 0 {
                "is not archived"
            } else {
                "is archived only"
            };
            table.samples.push(format!("{}: {what}", shown(&text)));
        }
    }
    Ok(())
}

fn shown(key: &KeyText) -> String {
    let field = |field: &Option<Vec<u8>>| match field {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "NULL".to_owned(),
    };
    key.iter().map(field).collect::<Vec<_>>().join(", ")
}
