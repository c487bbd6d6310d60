//! From the archive to rows as of a point.
//!
//! [`resolve`] turns what somebody wrote into a [`Cut`] of history; [`TableAt`] reads a table there.

mod overlay;
mod point;
mod table_at;

#[cfg(test)]
mod tests;

pub use overlay::{KeySet, TouchedKeys, touched_keys};
pub use point::{Cut, Resolver, resolve};
pub use table_at::TableAt;
