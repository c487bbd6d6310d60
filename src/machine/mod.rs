//! What the program takes from the machine that it runs on: time, chance, and other threads.
//!
//! Everything that decides what is stored, or when, asks for it here, so that a simulation (tests only) can run the same
//! code with a clock, a dice and a scheduler of its own. In the program these are tokio's and the system's, with nothing
//! in between.

#[cfg(not(test))]
mod actual;
#[cfg(not(test))]
pub(crate) use actual::*;

#[cfg(test)]
mod simulated;
#[cfg(test)]
pub(crate) use simulated::*;
