//! Afterimage keeps every row change of a PostgreSQL database, for ever, as Parquet, and brings any of it back.
//!
//! Data flows from the source to the archive and back; each module may use those above it in this list.

// -- foundation: no I/O
pub mod failure;
mod machine;
pub mod model;
// -- stages: each consumes the one above it
pub mod archive;
pub mod columnar;
pub mod copy_format;
pub mod pgoutput;
pub mod postgres;
pub mod scratch;
pub mod transaction;
// -- flows
pub mod capture;
pub mod foreign;
pub mod guard;
pub mod history;
pub mod maintenance;
pub mod query;
pub mod recovery;
pub mod restore;
pub mod verification;
// -- surfaces
pub mod cli;
pub mod config;
pub mod console;
pub mod http;
pub mod serve;
pub mod telemetry;

#[cfg(test)]
mod simulation;
