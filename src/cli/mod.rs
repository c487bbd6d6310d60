//! The command line: one file per command, and the forms in which commands print.

pub mod output;
