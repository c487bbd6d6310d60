pub mod archive;
pub mod failure;
pub mod model;
pub mod postgres;
