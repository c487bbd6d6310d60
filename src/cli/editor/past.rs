//! What was typed before, in this run and in earlier ones.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// So many lines are kept.
const MOST_LINES: usize = 1000;

/// Lines typed before, oldest first.
#[derive(Debug, Default)]
pub(super) struct Past {
    lines: Vec<String>,
    file: Option<PathBuf>,
}

impl Past {
    /// What a file holds; it is made with the first line where it does not exist.
    pub(super) fn read(file: PathBuf) -> Past {
        // Without what was typed before, everything else works.
        let text = fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let plain = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
        let mut lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(MOST_LINES));
        Past { lines, file: Some(file) }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&str> {
        self.lines.get(at).map(String::as_str)
    }

    /// The newest line before this place that has the text in it.
    pub(super) fn find(&self, text: &str, before: usize) -> Option<usize> {
        self.lines[..before.min(self.lines.len())].iter().rposition(|line| line.contains(text))
    }

    /// Remembers a line, unless it is the one before again or is meant not to be, by a blank in front of it.
    pub(super) fn add(&mut self, line: &str) {
        if line.trim().is_empty() || line.starts_with(' ') || self.lines.last().is_some_and(|last| last == line) {
            return;
        }
        self.lines.push(line.to_owned());
        if let Some(file) = &self.file {
            // Where it cannot be written, it is remembered until the end.
            let _ = append(file, line);
        }
    }
}

/// The file is readable for its owner alone, since statements can hold what is nobody else's business.
fn append(file: &Path, line: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut out = File::options().append(true).create(true).mode(0o600).open(file)?;
    out.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_outlive_a_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("below/history");
        let mut past = Past::read(file.clone());
        for line in ["SELECT 1;", "SELECT 1;", "", " secret", "\\d t"] {
            past.add(line);
        }
        let past = Past::read(file);
        assert_eq!((past.len(), past.get(0), past.get(1)), (2, Some("SELECT 1;"), Some("\\d t")));
        assert_eq!((past.find("1", 2), past.find("1", 0), past.find("x", 2)), (Some(0), None, None));
    }
}
