//! Proof that an archive is whole, and that it holds what the live tables hold.
//!
//! Whatever could not be looked at is a finding: silence never passes.

mod chain;
mod files;
mod history;
mod live;
mod sums;

use serde::Serialize;

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, TableName};

pub use chain::{Chained, verify_chain};
pub use live::{LiveSnapshot, LiveTable, compare_all};
pub use sums::RowKey;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, the table or the transaction.
    pub subject: String,
    pub finding: String,
}

impl Finding {
    pub fn new(subject: impl ToString, finding: impl Into<String>) -> Finding {
        Finding { subject: subject.to_string(), finding: finding.into() }
    }
}

/// Findings that are told one by one, at most; of more, the number.
const MOST_FINDINGS: usize = 100;

/// All findings of a look, of which the first are told one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    #[serde(rename = "findings")]
    pub count: u64,
    pub told: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.told.len() < MOST_FINDINGS {
            self.told.push(finding);
        }
    }
}

/// What was found of an archive.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// Up to here history was looked at.
    pub watermark: Lsn,
    pub files: u64,
    pub bytes: u64,
    /// Files whose content is proven by a checksum.
    pub proven: u64,
    pub transactions: u64,
    pub changes: u64,
    #[serde(flatten)]
    pub findings: Findings,
}

impl Verified {
    fn find(&mut self, finding: Finding) {
        self.findings.add(finding);
    }
}

/// Looks at every file of the archive and holds its history against itself.
///
/// # Errors
/// Failed where nothing of it could be looked at: an archive that is not there, or has no history, is not whole.
pub async fn verify(archive: &Archive) -> Result<Verified> {
    let watermark = archive.watermark().await?.lsn;
    let mut verified = Verified {
        watermark,
        files: 0,
        bytes: 0,
        proven: 0,
        transactions: 0,
        changes: 0,
        findings: Findings::default(),
    };
    let transactions = archive.transactions(watermark).await?;
    verified.transactions = transactions.len() as u64;
    history::look_at(archive, &transactions, &mut verified);
    let mut names: Vec<TableName> = archive.tables_ever().await?.into_keys().collect();
    names.sort();
    files::look_at(archive, &names, &transactions, &mut verified).await?;
    if verified.files == 0 {
        return Err(Failure::failed(format!("archive {} has no data files", archive.store()))
            .remedy("an archive without a base image cannot be verified: afterimage init"));
    }
    Ok(verified)
}
