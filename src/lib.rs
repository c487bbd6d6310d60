pub mod failure;
pub mod model;
pub mod scratch;
