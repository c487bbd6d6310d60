//! Every test that needs more than the compiler, in one binary: linking DataFusion is slow.

#![allow(clippy::unwrap_used, reason = "a test reports by its panic")]

mod architecture;
mod cli;
mod console;
mod context;
mod definitions;
mod demo;
mod dependencies;
mod deploy;
mod elsewhere;
mod endurance;
mod failovers;
mod faults;
mod formats;
mod freshness;
mod gaps;
mod guard;
mod histories;
mod in_progress;
mod init;
mod interruptions;
mod kill;
mod maintenance;
mod readers;
mod regress;
mod scenarios;
mod scratch;
mod serve;
mod slots;
mod standby;
mod stores;
mod support;
mod synchronous;
mod types;
mod writers;
