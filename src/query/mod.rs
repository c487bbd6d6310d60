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
//! | `orders`, `tenant_1.orders` | the rows at the session's point |
//! | `orders FOR SYSTEM_TIME AS OF 'P'`, `as_of('orders', 'P')` | the rows at a point |
//! | `changes('orders', 'P', 'Q')`, `versions(…)`, `diff(…)` | its history between two points |
//! | `K.orders` | the files of the source's `public.orders` as they lie in the archive |
//! | `K.tenant_1.orders`, `K."tenant_1.orders"` | those of the source's `tenant_1.orders` |
//! | `afterimage.transactions` | the archive's own log |
//! | `afterimage.gaps` | where the rows of a table are not known, as the archive's logs tell it |
//!
//! The session only reads: anything but a query, EXPLAIN, SHOW or DESCRIBE is refused.

mod account;
mod archived;
mod bare;
mod catalog;
mod conditions;
mod counted;
mod derived;
mod dialect;
mod emission;
mod errors;
mod gaps;
mod guarded;
mod json;
mod lsn_functions;
mod memory;
mod prepared;
mod reader;
mod restricted;
mod scan;
mod session;
mod sought;
mod state;
mod suggestion;
mod tables;
mod telling;

#[cfg(test)]
mod tests;

pub use archived::ArchivedTables;
pub use derived::{Derived, Function};
pub use prepared::Described;
pub use restricted::{Access, RestrictedTables};
pub use scan::ArchivedTable;
pub use session::{Limits, ONLY_READ, QueryResult, Session};
pub use sought::{PrimaryKeys, Sought, row_key};
pub use tables::{DataFile, TableFiles, TableRef, Tables};
pub use telling::{Told, json_change, setter, tell};
