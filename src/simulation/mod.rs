//! Deterministic simulation: the real capture, archive, maintenance and history code between a simulated PostgreSQL, a
//! simulated object store and simulated time, all of one seed.
//!
//! ```text
//!   workload ──► database ──► decoding ──► walsender ─┐ bytes                    ┌─► store (InMemory, with faults)
//!      │        (the model)                connection ─┴─► capture, archive, … ──┤
//!      │                                   catalogue        in a Process          └─► maintenance
//!      └──────────────► auditor ◄───────────────── history ◄── a reader of its own
//! ```
//!
//! One seed is one history: what users do, when connections break, what the store forgets to answer, at which of its steps
//! a process is killed. The auditor keeps the tables of every commit, and holds against them what a reader of the archive
//! finds, by the numbers of DESIGN.md's invariants.

mod accounts;
mod archiver;
mod auditor;
mod catalogue;
mod connection;
mod database;
mod decoding;
mod definitions;
mod history;
mod model;
mod plan;
mod process;
mod protocol;
mod store;
mod tests;
mod value;
mod walsender;
mod workload;
mod world;
