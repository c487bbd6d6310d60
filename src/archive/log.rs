//! The archive's own tables: their columns, and their rows to and from Arrow.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout::LogTable;
use crate::failure::{Failure, Result};
use crate::model::{
    Commit, DdlRecord, GapRecord, Identity, LogicalMessage, Lsn, Mark, MarkKind, OperationCounts, Position,
    RelationEvent, RelationRecord, RelationVersion, RestoreRecord, SequenceSample, TableName, Transaction, Xid,
};

/// The columns of a log table.
pub fn schema(table: LogTable) -> SchemaRef {
    Arc::clone(match table {
        LogTable::Transactions => &TRANSACTIONS,
        LogTable::Relations => &RELATIONS,
        LogTable::Ddl => &DDL,
        LogTable::Messages => &MESSAGES,
        LogTable::Sequences => &SEQUENCES,
        LogTable::Marks => &MARKS,
        LogTable::Restores => &RESTORES,
        LogTable::Gaps => &GAPS,
        LogTable::Alerts => &ALERTS,
        LogTable::Health => &HEALTH,
    })
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

/// What a transaction did to one table.
static COUNTED: LazyLock<Fields> = LazyLock::new(|| {
    let names = [text("schema"), text("table")].into_iter();
    names.chain(["insert", "update", "delete", "truncate"].map(number)).collect()
});

fn counted_element() -> FieldRef {
    Arc::new(Field::new("element", DataType::Struct(COUNTED.clone()), true))
}

static TRANSACTIONS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        number("lsn"),
        number("end_lsn"),
        number("xid"),
        time("ts"),
        number("changes"),
        Field::new("tables", DataType::List(counted_element()), true),
        text("context"),
        text(CHAIN),
    ]))
});

/// The column of `log/transactions` with the links of [`super::chain`].
pub const CHAIN: &str = "chain";

static RELATIONS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let columns = ["schema", "table", "identity", "event", "definition", SOURCE_DEFINITION].map(text);
    Arc::new(Schema::new([["lsn", "seq", "oid"].map(number).to_vec(), columns.to_vec()].concat()))
});

/// The column of `log/relations` with what the source said of the table: long, and seldom wanted.
pub(super) const SOURCE_DEFINITION: &str = "source";

static DDL: LazyLock<SchemaRef> = LazyLock::new(|| {
    let columns = ["tag", "statement", "user", "application", "client", "objects", "dropped", "failed"].map(text);
    let place = vec![number("lsn"), number("seq"), time("ts"), number("xid")];
    Arc::new(Schema::new([place, columns.to_vec()].concat()))
});

static MESSAGES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let content = Field::new("content", DataType::Binary, true);
    Arc::new(Schema::new(vec![number("lsn"), number("seq"), time("ts"), number("xid"), text("prefix"), content]))
});

static SEQUENCES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let called = Field::new("called", DataType::Boolean, true);
    let place = vec![number("lsn"), number("seq"), time("ts"), text("schema"), text("sequence")];
    Arc::new(Schema::new([place, vec![number("value"), called]].concat()))
});

static MARKS: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![number("lsn"), time("ts"), text("name"), text("user"), text("kind")])));

static RESTORES: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![number("lsn"), time("ts"), number("xid"), text("report")])));

static GAPS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![number("lsn"), number("end_lsn"), time("ts"), time("end_ts"), text("reason")]))
});

static ALERTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let head = [text("id"), time("ts"), text("event"), text("rule"), text("severity")];
    let what = [number("lsn"), number("xid"), text("table"), number("rows"), text("tenants"), text("samples")];
    let rest = ["context", "message", "command", "user"].map(text);
    Arc::new(Schema::new([&head[..], &what[..], &rest[..]].concat()))
});

static HEALTH: LazyLock<SchemaRef> = LazyLock::new(|| {
    let head = [time("ts"), text("check"), text("status"), text("severity"), number("value"), number("limit")];
    Arc::new(Schema::new([&head[..], &["details", "resolution"].map(text)[..]].concat()))
});

/// A row of a log table in the shape of its columns.
pub(super) trait LogRow: DeserializeOwned {
    const TABLE: LogTable;
    type Value;
    fn value(self) -> Result<Self::Value>;
}

/// A row of which there are few, so that [`encode`] may take its time.
pub(super) trait RareRow: LogRow + Serialize {
    /// The commit LSN of the transaction that the row came with.
    fn lsn(value: &Self::Value) -> Lsn;
    fn of(value: &Self::Value) -> Self;
}

#[derive(Deserialize)]
pub(super) struct TransactionRow {
    lsn: i64,
    end_lsn: i64,
    xid: i64,
    ts: DateTime<Utc>,
    tables: Vec<TableRow>,
    context: Option<String>,
}

#[derive(Deserialize)]
struct TableRow {
    schema: String,
    table: String,
    #[serde(flatten)]
    counts: OperationCounts,
}

impl LogRow for TransactionRow {
    const TABLE: LogTable = LogTable::Transactions;
    type Value = Transaction;

    fn value(self) -> Result<Transaction> {
        let tables: BTreeMap<_, _> =
            self.tables.into_iter().map(|row| (TableName::new(row.schema, row.table), row.counts)).collect();
        Ok(Transaction {
            commit: Commit {
                lsn: Lsn::from_i64(self.lsn),
                end_lsn: Lsn::from_i64(self.end_lsn),
                xid: stored_xid(self.xid)?,
                time: self.ts,
            },
            tables,
            context: self.context,
        })
    }
}

fn stored_xid(xid: i64) -> Result<Xid> {
    Xid::try_from(xid).map_err(|_| Failure::failed(format!("log/transactions has the impossible xid {xid}")))
}

#[derive(Serialize, Deserialize)]
pub(super) struct RelationRow {
    lsn: i64,
    seq: i64,
    oid: i64,
    schema: String,
    table: String,
    identity: Identity,
    event: RelationEvent,
    definition: String,
    #[serde(default)]
    source: Option<String>,
}

impl LogRow for RelationRow {
    const TABLE: LogTable = LogTable::Relations;
    type Value = RelationRecord;

    fn value(self) -> Result<RelationRecord> {
        Ok(RelationRecord {
            position: position(self.lsn, self.seq),
            event: self.event,
            relation: parse_relation(&self.definition)?,
            definition: self.source,
        })
    }
}

fn position(lsn: i64, seq: i64) -> Position {
    Position { lsn: Lsn::from_i64(lsn), seq }
}

impl RareRow for RelationRow {
    fn lsn(record: &RelationRecord) -> Lsn {
        record.position.lsn
    }

    fn of(record: &RelationRecord) -> Self {
        let relation = &record.relation;
        RelationRow {
            lsn: record.position.lsn.as_i64(),
            seq: record.position.seq,
            oid: relation.oid.into(),
            schema: relation.name.schema.clone(),
            table: relation.name.table.clone(),
            identity: relation.identity,
            event: record.event,
            definition: relation_json(relation),
            source: record.definition.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct DdlRow {
    lsn: i64,
    seq: i64,
    ts: DateTime<Utc>,
    xid: i64,
    tag: String,
    statement: Option<String>,
    user: Option<String>,
    application: Option<String>,
    client: Option<String>,
    objects: String,
    dropped: String,
    failed: Option<String>,
}

impl LogRow for DdlRow {
    const TABLE: LogTable = LogTable::Ddl;
    type Value = DdlRecord;

    fn value(self) -> Result<DdlRecord> {
        Ok(DdlRecord {
            position: position(self.lsn, self.seq),
            time: self.ts,
            xid: stored_xid(self.xid)?,
            tag: self.tag,
            statement: self.statement,
            user: self.user,
            application: self.application,
            client: self.client,
            objects: self.objects,
            dropped: self.dropped,
            failed: self.failed,
        })
    }
}

impl RareRow for DdlRow {
    fn lsn(record: &DdlRecord) -> Lsn {
        record.position.lsn
    }

    fn of(record: &DdlRecord) -> Self {
        DdlRow {
            lsn: record.position.lsn.as_i64(),
            seq: record.position.seq,
            ts: record.time,
            xid: record.xid.into(),
            tag: record.tag.clone(),
            statement: record.statement.clone(),
            user: record.user.clone(),
            application: record.application.clone(),
            client: record.client.clone(),
            objects: record.objects.clone(),
            dropped: record.dropped.clone(),
            failed: record.failed.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct MessageRow {
    lsn: i64,
    seq: i64,
    ts: DateTime<Utc>,
    xid: Option<i64>,
    prefix: String,
    /// In hexadecimal, which is how bytes travel as JSON.
    content: String,
}

impl LogRow for MessageRow {
    const TABLE: LogTable = LogTable::Messages;
    type Value = LogicalMessage;

    fn value(self) -> Result<LogicalMessage> {
        let digits = self
            .content
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
        let content = digits.collect::<Option<Vec<u8>>>();
        Ok(LogicalMessage {
            position: position(self.lsn, self.seq),
            time: self.ts,
            xid: self.xid.map(stored_xid).transpose()?,
            prefix: self.prefix,
            content: content.ok_or_else(|| Failure::failed("log/messages has content that is not hexadecimal"))?,
        })
    }
}

impl RareRow for MessageRow {
    fn lsn(message: &LogicalMessage) -> Lsn {
        message.position.lsn
    }

    fn of(message: &LogicalMessage) -> Self {
        use std::fmt::Write as _;
        let content = message.content.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        MessageRow {
            lsn: message.position.lsn.as_i64(),
            seq: message.position.seq,
            ts: message.time,
            xid: message.xid.map(i64::from),
            prefix: message.prefix.clone(),
            content,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SequenceRow {
    lsn: i64,
    seq: i64,
    ts: DateTime<Utc>,
    schema: String,
    sequence: String,
    value: i64,
    called: bool,
}

impl LogRow for SequenceRow {
    const TABLE: LogTable = LogTable::Sequences;
    type Value = SequenceSample;

    fn value(self) -> Result<SequenceSample> {
        Ok(SequenceSample {
            position: position(self.lsn, self.seq),
            time: self.ts,
            name: TableName::new(self.schema, self.sequence),
            value: self.value,
            called: self.called,
        })
    }
}

impl RareRow for SequenceRow {
    fn lsn(sample: &SequenceSample) -> Lsn {
        sample.position.lsn
    }

    fn of(sample: &SequenceSample) -> Self {
        SequenceRow {
            lsn: sample.position.lsn.as_i64(),
            seq: sample.position.seq,
            ts: sample.time,
            schema: sample.name.schema.clone(),
            sequence: sample.name.table.clone(),
            value: sample.value,
            called: sample.called,
        }
    }
}

/// Key of the relation version in a data file's metadata.
pub const RELATION_KEY: &str = "afterimage.relation";

/// What a data file says of the relation version of its rows.
pub fn relation_metadata(relation: &RelationVersion) -> Vec<(String, String)> {
    vec![(RELATION_KEY.to_owned(), relation_json(relation))]
}

/// A relation version as the archive writes it, in `log/relations` and into every data file.
pub fn relation_json(relation: &RelationVersion) -> String {
    serde_json::to_string(relation).unwrap_or_default()
}

/// The reverse of [`relation_json`].
pub fn parse_relation(json: &str) -> Result<RelationVersion> {
    serde_json::from_str(json).map_err(|error| Failure::failed(format!("a relation version of the archive: {error}")))
}

#[derive(Serialize, Deserialize)]
pub(super) struct MarkRow {
    lsn: i64,
    ts: DateTime<Utc>,
    name: String,
    user: Option<String>,
    /// Missing in archives that were written before there were kinds.
    kind: Option<MarkKind>,
}

impl LogRow for MarkRow {
    const TABLE: LogTable = LogTable::Marks;
    type Value = Mark;

    fn value(self) -> Result<Mark> {
        let kind = self.kind.unwrap_or_default();
        Ok(Mark { name: self.name, kind, lsn: Lsn::from_i64(self.lsn), time: self.ts, user: self.user })
    }
}

impl RareRow for MarkRow {
    fn lsn(mark: &Mark) -> Lsn {
        mark.lsn
    }

    fn of(mark: &Mark) -> Self {
        let (name, user) = (mark.name.clone(), mark.user.clone());
        MarkRow { lsn: mark.lsn.as_i64(), ts: mark.time, name, user, kind: Some(mark.kind) }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct RestoreRow {
    lsn: i64,
    ts: DateTime<Utc>,
    xid: i64,
    report: String,
}

impl LogRow for RestoreRow {
    const TABLE: LogTable = LogTable::Restores;
    type Value = RestoreRecord;

    fn value(self) -> Result<RestoreRecord> {
        Ok(RestoreRecord {
            lsn: Lsn::from_i64(self.lsn),
            time: self.ts,
            xid: stored_xid(self.xid)?,
            report: self.report,
        })
    }
}

impl RareRow for RestoreRow {
    fn lsn(record: &RestoreRecord) -> Lsn {
        record.lsn
    }

    fn of(record: &RestoreRecord) -> Self {
        RestoreRow { lsn: record.lsn.as_i64(), ts: record.time, xid: record.xid.into(), report: record.report.clone() }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct GapRow {
    lsn: i64,
    end_lsn: i64,
    ts: DateTime<Utc>,
    end_ts: DateTime<Utc>,
    reason: String,
}

impl LogRow for GapRow {
    const TABLE: LogTable = LogTable::Gaps;
    type Value = GapRecord;

    fn value(self) -> Result<GapRecord> {
        Ok(GapRecord {
            lsn: Lsn::from_i64(self.lsn),
            end_lsn: Lsn::from_i64(self.end_lsn),
            time: self.ts,
            end_time: self.end_ts,
            reason: self.reason,
        })
    }
}

impl RareRow for GapRow {
    fn lsn(gap: &GapRecord) -> Lsn {
        gap.commit_lsn()
    }

    fn of(gap: &GapRecord) -> Self {
        let (lsn, end_lsn) = (gap.lsn.as_i64(), gap.end_lsn.as_i64());
        GapRow { lsn, end_lsn, ts: gap.time, end_ts: gap.end_time, reason: gap.reason.clone() }
    }
}

/// Transactions as one batch: column by column, since there can be as many as changes. The last has the link of their
/// publication.
pub(super) fn encode_transactions(transactions: &[Transaction], link: Option<&str>) -> Result<RecordBatch> {
    let each = || transactions.iter();
    let number = |of: fn(&Transaction) -> i64| numbers(each().map(of));
    let times = TimestampMicrosecondArray::from_iter_values(each().map(|one| one.commit.time.timestamp_micros()));
    let columns: Vec<ArrayRef> = vec![
        number(|one| one.commit.lsn.as_i64()),
        number(|one| one.commit.end_lsn.as_i64()),
        number(|one| one.commit.xid.into()),
        Arc::new(times.with_timezone("UTC")),
        number(|one| one.total().total() as i64),
        Arc::new(encode_tables(transactions)?),
        Arc::new(StringArray::from_iter(each().map(|one| one.context.as_deref()))),
        Arc::new(StringArray::from_iter((1..=transactions.len()).map(|at| link.filter(|_| at == transactions.len())))),
    ];
    RecordBatch::try_new(Arc::clone(&TRANSACTIONS), columns).map_err(not_encoded)
}

/// What each transaction did to which tables.
fn encode_tables(transactions: &[Transaction]) -> Result<ListArray> {
    let each = || transactions.iter().flat_map(|one| &one.tables);
    let count = |of: fn(&OperationCounts) -> u64| numbers(each().map(|(_, counts)| of(counts) as i64));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(each().map(|(name, _)| Some(&name.schema)))),
        Arc::new(StringArray::from_iter(each().map(|(name, _)| Some(&name.table)))),
        count(|counts| counts.insert),
        count(|counts| counts.update),
        count(|counts| counts.delete),
        count(|counts| counts.truncate),
    ];
    let rows = StructArray::try_new(COUNTED.clone(), columns, None).map_err(not_encoded)?;
    let offsets = OffsetBuffer::from_lengths(transactions.iter().map(|one| one.tables.len()));
    ListArray::try_new(counted_element(), offsets, Arc::new(rows), None).map_err(not_encoded)
}

fn numbers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn not_encoded(error: ArrowError) -> Failure {
    Failure::failed(format!("log/{}: {error}", LogTable::Transactions.name()))
}

/// Rows as one batch of the table's columns.
pub(super) fn encode<'a, R: RareRow<Value: 'a>>(values: impl IntoIterator<Item = &'a R::Value>) -> Result<RecordBatch> {
    let fail = |error: ArrowError| Failure::failed(format!("log/{}: {error}", R::TABLE.name()));
    let schema = schema(R::TABLE);
    let rows: Vec<R> = values.into_iter().map(R::of).collect();
    let mut decoder =
        ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(rows.len().max(1)).build_decoder().map_err(fail)?;
    decoder.serialize(&rows).map_err(fail)?;
    Ok(decoder.flush().map_err(fail)?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}

/// The reverse of [`encode`].
pub(super) fn decode<R: LogRow>(batch: &RecordBatch) -> Result<Vec<R::Value>> {
    let fail = |error: &dyn std::fmt::Display| Failure::failed(format!("log/{}: {error}", R::TABLE.name()));
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| fail(&error))?;
    let lines = writer.into_inner();
    let rows = serde_json::Deserializer::from_slice(&lines).into_iter::<R>();
    rows.map(|row| row.map_err(|error| fail(&error)).and_then(R::value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_come_back_as_they_were() {
        let counts = OperationCounts { insert: 1, delete: 7, ..OperationCounts::default() };
        let commit = |xid| Commit {
            lsn: Lsn(0x16_B374_D848),
            end_lsn: Lsn(0x16_B374_D878),
            xid,
            time: "2025-10-09T14:03:00.123456Z".parse().unwrap(),
        };
        let tables = |names: &[&str]| names.iter().map(|name| (TableName::new("public", *name), counts)).collect();
        let transactions = [
            Transaction { commit: commit(742), tables: tables(&["a \"b\""]), context: Some("{\"user\":\"x\"}".into()) },
            Transaction { commit: commit(Xid::MAX), tables: BTreeMap::new(), context: None },
            Transaction { commit: commit(3), tables: tables(&["c", "d"]), context: None },
        ];
        let batch = encode_transactions(&transactions, None).unwrap();
        assert_eq!(decode::<TransactionRow>(&batch).unwrap(), transactions);
    }

    #[test]
    fn messages_keep_their_bytes() {
        let message = LogicalMessage {
            position: Position { lsn: Lsn(7), seq: 3 },
            time: "2025-10-09T14:03:00.123456Z".parse().unwrap(),
            xid: None,
            prefix: "bytes".into(),
            content: (0..=255).collect(),
        };
        let batch = encode::<MessageRow>([&message]).unwrap();
        assert_eq!(decode::<MessageRow>(&batch).unwrap(), [message]);
    }
}
