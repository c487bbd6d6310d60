pub mod cli;
pub mod failure;
pub mod model;
pub mod query;
