//! A fresh directory for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// An empty directory, removed when dropped. A failing test leaves it for whoever looks into the failure.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    left_after_failure: bool,
}

impl Directory {
    pub(crate) fn new() -> Directory {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("afterimage-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Directory { path, left_after_failure: true }
    }

    /// Removes it after a failure too; for what the failure's own message shows.
    pub(super) fn always_removed(mut self) -> Directory {
        self.left_after_failure = false;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The URL of an archive inside.
    pub(crate) fn archive(&self) -> String {
        format!("file://{}/archive", self.path.display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.left_after_failure && std::thread::panicking() {
            println!("left for inspection: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
