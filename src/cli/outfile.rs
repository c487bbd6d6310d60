//! Files that a command's results are written to.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// A device or a pipe is written to as it is; a file is written beside and renamed, so that a half-written one never has
/// the name asked for.
pub(super) struct OutFile {
    out: BufWriter<File>,
    path: PathBuf,
    /// What is written so far, and the name that it shall have.
    partial: Option<(Partial, PathBuf)>,
}

impl OutFile {
    pub(super) fn create(path: &Path) -> Result<OutFile> {
        let fail = |error: io::Error| unwritable(path, &error);
        // A link's target is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (file, partial) = match fs::metadata(&target) {
            Ok(found) if found.is_dir() => return Err(unwritable(path, &io::ErrorKind::IsADirectory.into())),
            // What /dev names is open already, whatever it is.
            Ok(found) if !found.is_file() || path.starts_with("/dev") => (File::create(&target).map_err(fail)?, None),
            _ => {
                let partial = Partial::beside(&target);
                (File::create_new(&partial.0).map_err(fail)?, Some((partial, target)))
            }
        };
        Ok(OutFile { out: BufWriter::new(file), path: path.to_owned(), partial })
    }

    pub(super) fn is_device(&self) -> bool {
        self.partial.is_none()
    }

    /// Gives the file its name. Without this nothing of it stays.
    pub(super) fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|error| unwritable(&self.path, &error))?;
        if let Some((partial, target)) = &self.partial {
            fs::rename(&partial.0, target).map_err(|error| unwritable(&self.path, &error))?;
        }
        Ok(())
    }
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("writing {}: {error}", path.display()))
        .remedy("name a file in a directory that exists and that this user may write to")
}

/// A file on its way; removed when dropped, unless it has its own name by then.
struct Partial(PathBuf);

impl Partial {
    fn beside(target: &Path) -> Partial {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        Partial(name.into())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing to remove, and otherwise the failure matters more.
        let _ = fs::remove_file(&self.0);
    }
}
