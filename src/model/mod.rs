//! The words of the contract as types: no I/O, no PostgreSQL protocol, no Arrow.

mod alert;
mod freshness;
mod lsn;
mod name;
mod partitions;
mod point;
mod relation;
mod said;
mod transaction;

pub use alert::{AlertEvent, AlertRecord, HealthRecord, HealthStatus, Severity};
pub use freshness::Freshness;
pub use lsn::{Lsn, Xid};
pub use name::{TableName, TablePattern, quote_identifier, quote_literal};
pub use partitions::Partitions;
pub use point::{Point, PointSyntax};
pub use relation::{BaseType, Column, Identity, Operation, RelationVersion};
pub use said::{ContextFilter, Said, one_line};
pub use transaction::{
    Commit, DdlRecord, GapRecord, LogicalMessage, Mark, MarkKind, OperationCounts, Position, RelationEvent,
    RelationRecord, RestoreRecord, SequenceSample, Transaction,
};
