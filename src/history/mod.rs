//! From the archive to rows as of a point.
//!
//! [`resolve`] turns what somebody wrote into a [`Cut`] of history; [`TableAt`] reads a table there.

mod changes;
mod chronicle;
mod export;
mod gaps;
mod gathering;
mod key_table;
mod keys;
mod known;
mod latest;
mod lives;
mod overlaid;
mod overlay;
mod parts;
mod point;
mod row_set;
mod spill;
mod table_at;
mod typed;

#[cfg(test)]
mod tests;

pub use changes::{Condition, Key, KeySet};
pub use chronicle::{Chronicle, Cleared, EventKind, EventSink, KIND, LIFE, NEW, RangeOf, Telling};
pub use export::{ExportFormat, export, json_row};
pub use gaps::{Gap, gaps};
pub use gathering::Gather;
pub use known::{Known, table_name};
pub use lives::{Account, Lives, account_schema};
pub use overlay::{TouchedKeys, Write, touched_keys, writes};
pub use parts::{BaseParts, ChangeParts, ImagePart, Part, StateParts};
pub use point::{Cut, Resolver, resolve, shown_time, source_position};
pub use table_at::{TableAt, identity_kind, key_fields, key_of_fields, places_in, rearrange};
pub use typed::{TypedRows, row_schema};
