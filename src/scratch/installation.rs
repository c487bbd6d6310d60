//! Where PostgreSQL's server programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};

/// The environment variable that names a directory of server programs.
const VARIABLE: &str = "AFTERIMAGE_PG_BIN";

/// Debian, Ubuntu and their kin put each major version's programs into `<major>/bin` below this.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Whoever has these has a server.
const NEEDED: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// A directory with PostgreSQL's server programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin_dir: PathBuf,
    major: u32,
}

impl Installation {
    /// Finds server programs: in the `named` directory; else in the one that `AFTERIMAGE_PG_BIN` names; else the
    /// newest below `/usr/lib/postgresql`; else on the `PATH`.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where there are none, or where the directory that was named has none.
    pub fn find(named: Option<&Path>) -> Result<Installation> {
        let chosen = named.map(Path::to_owned).or_else(|| env::var_os(VARIABLE).map(PathBuf::from));
        if let Some(bin_dir) = chosen {
            return Installation::at(&bin_dir);
        }
        let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        let candidates = newest_first(Path::new(DEBIAN)).into_iter().chain::<Vec<PathBuf>>(on_path);
        candidates
            .filter(|directory| has_server(directory))
            .find_map(|directory| Installation::at(&directory).ok())
            .ok_or_else(nowhere)
    }

    /// The installation whose programs are in exactly this directory.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where programs are missing or do not say which version they are.
    pub fn at(bin_dir: &Path) -> Result<Installation> {
        if !has_server(bin_dir) {
            return Err(Failure::failed(format!("{} has no {}", bin_dir.display(), NEEDED.join(", ")))
                .remedy(format!("name the directory of PostgreSQL's server programs, by {VARIABLE} for instance")));
        }
        let bin_dir = fs::canonicalize(bin_dir)
            .map_err(|error| Failure::failed(format!("cannot resolve {}: {error}", bin_dir.display())))?;
        let major = major_version(&bin_dir.join("postgres"))?;
        Ok(Installation { bin_dir, major })
    }

    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The path of one of its programs, whether it exists or not.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// The major version: 18 for 18.4.
    pub fn major(&self) -> u32 {
        self.major
    }
}

fn nowhere() -> Failure {
    Failure::failed("there are no PostgreSQL server programs (initdb, pg_ctl, postgres) on this machine")
        .remedy(format!("apt-get install postgresql, or set {VARIABLE} to the directory that has them"))
}

fn has_server(bin_dir: &Path) -> bool {
    NEEDED.iter().all(|program| bin_dir.join(program).is_file())
}

fn newest_first(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors.into_iter().map(|major| root.join(major.to_string()).join("bin")).collect()
}

fn major_version(postgres: &Path) -> Result<u32> {
    let wrong = |why: String| Failure::failed(format!("{} --version: {why}", postgres.display()));
    let output = Command::new(postgres).arg("--version").output().map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_major(&text).ok_or_else(|| wrong(format!("{:?} names no version", text.trim())))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 19devel`, `… 18beta1`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version.len() - version.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Category;

    #[test]
    fn reads_every_way_to_state_a_version() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 19devel"), Some(19));
        assert_eq!(parse_major("something else 3"), None);
    }

    #[test]
    fn newest_is_by_number_not_by_text() {
        let root = env::temp_dir().join(format!("afterimage-newest-{}", std::process::id()));
        for name in ["9", "18", "15", "common"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let found = newest_first(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, ["18", "15", "9"].map(|major| root.join(major).join("bin")));
    }

    #[test]
    fn a_named_directory_without_a_server_is_not_silently_replaced() {
        let failure = Installation::find(Some(Path::new("/nonexistent"))).unwrap_err();
        assert_eq!(failure.category(), Category::Failed);
        assert!(failure.cause().starts_with("/nonexistent has no"), "{failure}");
    }
}
