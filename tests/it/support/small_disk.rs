//! A disk that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of a size (`8m`) over a directory, which is made where it is not there. Nothing where this user may not mount.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=777"), "afterimage"], path);
        if !mounted {
            println!("skipped: this user may not mount a file system");
        }
        mounted.then(|| SmallDisk { path: path.to_owned() })
    }

    pub(crate) fn resize(&self, size: &str) {
        assert!(mount(&["-o", &format!("remount,size={size}")], &self.path));
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    Command::new("mount").args(arguments).arg(path).output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until he ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
