pub mod failure;
pub mod model;
