pub mod archive;
pub mod failure;
pub mod model;
