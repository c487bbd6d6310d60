//! What tests stand on: servers, databases, the program itself, oracles. Its own tests are in [`tests`].

mod certificate;
mod directory;
mod faulty_store;
mod load;
mod oracle;
mod postgres;
mod program;
mod proxy;
mod python;
mod s3;
mod site;
mod small_disk;
mod tests;
mod watcher;

pub(crate) use certificate::{CERTIFICATE, KEY, UNTRUSTED_CERTIFICATE, UNTRUSTED_KEY};
pub(crate) use directory::Directory;
pub(crate) use faulty_store::FaultyStore;
pub(crate) use load::Load;
pub(crate) use oracle::{Snapshot, copy_query};
pub(crate) use postgres::{Database, Release, connect, own_postgres, postgres};
pub(crate) use program::{End, Program, Running, target_directory};
pub(crate) use proxy::{Loss, Proxy};
pub(crate) use python::{delta_jars, executable, node, python, python_program};
pub(crate) use s3::{Bucket, s3};
pub(crate) use site::{PATIENCE, Site, State, difference};
pub(crate) use small_disk::SmallDisk;
pub(crate) use watcher::Watcher;

use std::thread;
use std::time::{Duration, Instant};

/// Asks until the answer is yes.
///
/// # Panics
/// After `patience`, saying what was waited for.
#[track_caller]
pub(crate) fn wait_for(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
