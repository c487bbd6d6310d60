//! The arguments of `afterimage restore`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::context::{parse_pattern, parse_point};
use crate::config::Span;
use crate::model::{Point, TablePattern};
use crate::restore::{Class, Mapping, OnConflict, OnReject};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without --apply nothing is changed: the plan is shown and saved.
Examples:
  afterimage restore orders --to '15m ago' --only deleted
  afterimage restore --undo 742 --on-reject quarantine --apply
  afterimage restore --entity customers 4711 --to before:742 --with-parents --apply
  afterimage restore 'tenant_7.*' --to before:742 --into tenant_7_then --apply")]
pub(in super::super) struct RestoreArgs {
    /// Tables: orders, sales.*, "Quoted"."Name"
    #[arg(value_name = "TABLE", value_parser = parse_pattern, required_unless_present_any = ["plan", "quarantined", "undo", "tenant", "entity"])]
    pub(super) tables: Vec<TablePattern>,
    /// The state that is wanted: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME
    #[arg(long, value_name = "POINT", value_parser = parse_point, required_unless_present_any = ["plan", "quarantined", "undo"])]
    pub(super) to: Option<Point>,
    /// Only rows to which this happened since
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) only: Vec<Only>,
    /// Only rows that meet an SQL condition, as they were at the point (new ones: as they are)
    #[arg(long = "where", value_name = "SQL")]
    pub(super) filter: Option<String>,
    /// Undo exactly these transactions (xid or commit LSN), whoever came after; tables named restrict it
    #[arg(long, value_name = "TXN", value_delimiter = ',', value_parser = parse_transaction, conflicts_with_all = ["to", "quarantined"])]
    pub(super) undo: Vec<Point>,
    /// What to do where later transactions wrote the same rows, or hang on them
    #[arg(long, value_enum, default_value = "abort", value_name = "WHAT", requires = "undo")]
    pub(super) on_conflict: Conflicting,
    /// Rows that an earlier restore put into quarantine, instead of those of a point
    #[arg(long, conflicts_with_all = ["to", "only"])]
    pub(super) quarantined: bool,
    /// Only rows of this tenant: by the columns that restore.tenant_columns names, or by the rows that they refer to
    #[arg(long, value_name = "TENANT", conflicts_with = "quarantined")]
    pub(super) tenant: Option<String>,
    /// One row and everything below it, by foreign keys: --entity core_entities 4711
    #[arg(long, num_args = 2, value_names = ["TABLE", "KEY"], conflicts_with_all = ["tables", "tenant", "undo", "quarantined"])]
    pub(super) entity: Vec<String>,
    /// Bring back what restored rows refer to as well, where it is gone
    #[arg(long, conflicts_with = "quarantined")]
    pub(super) with_parents: bool,
    /// What becomes of rows that a constraint of today forbids
    #[arg(long, value_enum, default_value = "abort", value_name = "WHAT")]
    pub(super) on_reject: Rejected,
    /// Transform a column on the way in: 'code = lower(code)', or 'table.code = …'; can be repeated
    #[arg(long = "map", value_name = "COLUMN = SQL", value_parser = parse_mapping)]
    pub(super) maps: Vec<Mapping>,
    /// Into this schema beside the live tables, which stay as they are: whole tables as they were
    #[arg(long, value_name = "SCHEMA", requires = "apply", conflicts_with_all = IN_PLACE)]
    pub(super) into: Option<String>,
    /// Into another database, made where it is not there: whole tables as they were
    #[arg(long, value_name = "URL", requires = "apply", conflicts_with_all = IN_PLACE, conflicts_with = "into")]
    pub(super) target: Option<String>,
    /// As SQL that psql runs anywhere: whole tables as they were
    #[arg(long, value_name = "FILE", conflicts_with_all = IN_PLACE, conflicts_with_all = ["into", "target", "apply"])]
    pub(super) output: Option<PathBuf>,
    /// Perform the plan, in one transaction
    #[arg(long)]
    pub(super) apply: bool,
    /// Perform exactly this saved plan, or nothing if rows that it touches have changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tables", "to", "only", "filter", "save", "quarantined", "undo", "maps", "tenant", "entity", "with_parents"], requires = "apply")]
    pub(super) plan: Option<PathBuf>,
    /// Where the plan is saved; in the user's state directory by default
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    pub(super) save: Option<PathBuf>,
    /// In transactions of so many rows at most, for very large damage; stopped, it goes on where it was when run again
    #[arg(long, value_name = "N", requires = "apply", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) batch_rows: Option<u64>,
    /// Between batches rest, so that no more rows than this are restored in a second
    #[arg(long, value_name = "ROWS/s", requires = "batch_rows", value_parser = parse_rate)]
    pub(super) throttle: Option<u64>,
    /// Refuse to touch more rows than this
    #[arg(long, value_name = "N")]
    pub(super) max_rows: Option<u64>,
    /// How long a statement may run; for ever by default
    #[arg(long, value_name = "DURATION")]
    pub(super) statement_timeout: Option<Span>,
    /// How long to wait for a lock; 5s by default
    #[arg(long, value_name = "DURATION")]
    pub(super) lock_timeout: Option<Span>,
    /// Let user triggers fire
    #[arg(long)]
    pub(super) keep_triggers: bool,
}

/// What makes sense only where the live tables are.
const IN_PLACE: [&str; 9] =
    ["only", "undo", "quarantined", "tenant", "entity", "with_parents", "maps", "plan", "keep_triggers"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Only {
    Deleted,
    Updated,
    Inserted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Rejected {
    /// Nothing is restored
    Abort,
    /// They go into the side table afterimage_quarantine.rows, with the reason
    Quarantine,
    /// CHECKs and foreign keys that forbid them become NOT VALID
    NotValid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Conflicting {
    /// Nothing is undone; the plan names each such transaction
    Abort,
    /// Those rows stay as they are
    Skip,
    /// Those transactions are undone too
    Cascade,
}

impl From<Conflicting> for OnConflict {
    fn from(conflicting: Conflicting) -> OnConflict {
        match conflicting {
            Conflicting::Abort => OnConflict::Abort,
            Conflicting::Skip => OnConflict::Skip,
            Conflicting::Cascade => OnConflict::Cascade,
        }
    }
}

/// Reads `5000` or `5000/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse() {
        Ok(rate) if rate > 0 => Ok(rate),
        _ => Err("a number of rows in a second: 5000".to_owned()),
    }
}

/// Reads a transaction as the point before it.
fn parse_transaction(text: &str) -> Result<Point, String> {
    parse_point(&format!("before:{text}"))
}

impl From<Rejected> for OnReject {
    fn from(rejected: Rejected) -> OnReject {
        match rejected {
            Rejected::Abort => OnReject::Abort,
            Rejected::Quarantine => OnReject::Quarantine,
            Rejected::NotValid => OnReject::NotValid,
        }
    }
}

fn parse_mapping(text: &str) -> Result<Mapping, String> {
    Mapping::parse(text).map_err(|failure| failure.to_string())
}

impl From<Only> for Class {
    fn from(only: Only) -> Class {
        match only {
            Only::Deleted => Class::Deleted,
            Only::Updated => Class::Updated,
            Only::Inserted => Class::Inserted,
        }
    }
}
