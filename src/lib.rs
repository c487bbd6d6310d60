pub mod columnar;
pub mod copy_format;
pub mod failure;
pub mod model;
