pub mod cli;
pub mod failure;
pub mod model;
