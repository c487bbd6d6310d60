pub mod columnar;
pub mod failure;
pub mod model;
