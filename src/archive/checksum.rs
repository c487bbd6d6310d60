//! What the name of a data file says of its content: `<UUID>-<SHA-256>.zstd.parquet`.
//!
//! In the name it is known wherever the file is, needs no place in the Delta log, and cannot be lost apart from it.

use bytes::Bytes;
use ring::digest::SHA256_OUTPUT_LEN;

use super::delta::DataFile;
use super::reader::Archive;
use crate::columnar::{digest, hexadecimal};
use crate::failure::Result;
use crate::machine;

/// The end of every data file's name.
pub(super) const DATA_FILE: &str = ".zstd.parquet";

/// What became of a file that an archive needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It is there; of a file that an older version wrote, nothing says what it should hold.
    Whole {
        content: Bytes,
        proven: bool,
    },
    /// Another content than was written.
    Altered,
    /// So many bytes instead of those that the Delta log names.
    Resized(u64),
    Missing,
}

/// A new name for a file with this content.
pub(super) fn name(content: &[u8]) -> String {
    format!("{}-{}{DATA_FILE}", machine::unique(), checksum(content))
}

impl Archive {
    /// Fetches a data file whole and holds it against what was written.
    ///
    /// # Errors
    /// As the store says, a missing file excepted.
    pub async fn fetch(&self, file: &DataFile) -> Result<Fetched> {
        let Some(content) = self.store().read(&file.path).await?.map(Bytes::from) else { return Ok(Fetched::Missing) };
        if content.len() as u64 != file.size {
            return Ok(Fetched::Resized(content.len() as u64));
        }
        Ok(match written(&file.path) {
            None => Fetched::Whole { content, proven: false },
            Some(said) if said == checksum(&content) => Fetched::Whole { content, proven: true },
            Some(_) => Fetched::Altered,
        })
    }
}

/// The checksum in a file's name.
fn written(path: &str) -> Option<&str> {
    let name = path.strip_suffix(DATA_FILE)?;
    let checksum = name.get(name.len().checked_sub(2 * SHA256_OUTPUT_LEN)?..)?;
    checksum.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(checksum)
}

fn checksum(content: &[u8]) -> String {
    hexadecimal(&digest(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_the_file_holds_and_older_names_say_nothing() {
        let name = format!("changes/public/t/{}", name(b"abc"));
        let checksum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(written(&name), Some(checksum));
        assert_eq!(written("changes/public/t/3c9dd5a5-9d3f-4a51-b8a7-3a2a8f0a0b3e.zstd.parquet"), None);
        assert_eq!(written("changes/public/t/other"), None);
    }
}
