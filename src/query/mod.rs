//! SQL over the archive: an embedded DataFusion session that reads exactly the files it is given.
//!
//! ```text
//!   SQL ── session ── catalog ──(a name is mentioned)──▶ Tables::open ──▶ TableFiles
//!             │                                                            │
//!             └───────────── scan: listed Parquet files, nothing above the watermark
//! ```
//!
//! The session never lists a directory and never looks at a table that no query names: [`Tables`]
//! says which files belong to a table and how far they may be seen. A [`Tables`] value is one view
//! of the archive at one watermark, so that a query over several tables sees each transaction whole.
//!
//! Names, for `K` either `changes` or `images`:
//!
//! | SQL | table |
//! |---|---|
//! | `K.orders` | the source's `public.orders` |
//! | `K.tenant_1.orders`, `K."tenant_1.orders"` | the source's `tenant_1.orders` |
//! | `log.transactions` | the archive's own log |
//!
//! The session only reads: anything but a query, EXPLAIN, SHOW or DESCRIBE is refused.

mod archived;
mod catalog;
mod errors;
mod guarded;
mod lsn_functions;
mod memory;
mod prepared;
mod reader;
mod restricted;
mod scan;
mod session;
mod suggestion;
mod tables;

#[cfg(test)]
mod tests;

pub use archived::ArchivedTables;
pub use prepared::Described;
pub use restricted::{Access, RestrictedTables};
pub use scan::ArchivedTable;
pub use session::{Limits, ONLY_READ, QueryResult, Session};
pub use tables::{DataFile, TableFiles, TableRef, Tables};
