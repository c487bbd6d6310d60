//! Every test that needs more than the compiler, in one binary: linking DataFusion is slow.

#![allow(clippy::unwrap_used, reason = "a test reports by its panic")]

mod architecture;
mod cli;
mod dependencies;
mod scratch;
mod support;
