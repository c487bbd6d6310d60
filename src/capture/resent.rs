//! Transactions that the source sends once more, compared with what the archive has of them.
//!
//! The slot mostly stands before the watermark, and what lies between comes again with every session. A source whose disk was
//! put back to an earlier snapshot goes on under the same timeline: what it writes has positions that the archive has already,
//! and would be taken for archived.

use std::collections::HashMap;

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Xid};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Resent {
    /// Before this the archive does not have every transaction.
    from: Lsn,
    /// Everything below is in the archive.
    watermark: Lsn,
    archived: HashMap<Lsn, Xid>,
    slot: String,
}

impl Resent {
    /// # Errors
    /// As the store says.
    pub(super) async fn read(archive: &Archive, slot_stands: Lsn, watermark: Lsn) -> Result<Resent> {
        let mut from = slot_stands;
        if from < watermark
            && let Some(gap) = archive.gaps(watermark).await?.last()
        {
            from = from.max(gap.end_lsn);
        }
        let mut archived = HashMap::new();
        if from < watermark {
            let commits = archive.commits_from(from, watermark).await?;
            archived.extend(commits.into_iter().map(|commit| (commit.lsn, commit.xid)));
        }
        Ok(Resent { from, watermark, archived, slot: archive.identity().slot.clone() })
    }

    /// Requires that the archive has a transaction with rows.
    ///
    /// # Errors
    /// Refused where it has another one, or none, at that position.
    pub(super) fn require(&self, commit: Lsn, xid: Xid) -> Result<()> {
        if commit < self.from || commit >= self.watermark || self.archived.get(&commit) == Some(&xid) {
            return Ok(());
        }
        let archived = match self.archived.get(&commit) {
            Some(other) => format!("transaction {other}"),
            None => "none".to_owned(),
        };
        Err(Failure::refused(format!(
            "the source sends transaction {xid}, committed at {commit}, and the archive, which reaches up to {}, has {archived} there: the source was put back to an earlier state and has another history since",
            self.watermark
        ))
        .remedy(format!(
            "drop the slot {} in the source and run again: a gap is recorded, and capture goes on",
            self.slot
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_transaction_at_a_known_position_is_refused() {
        let resent = Resent {
            from: Lsn(10),
            watermark: Lsn(50),
            archived: HashMap::from([(Lsn(20), 7), (Lsn(40), 8)]),
            slot: "s".into(),
        };
        for (commit, xid) in [(5, 1), (20, 7), (50, 9)] {
            assert!(resent.require(Lsn(commit), xid).is_ok());
        }
        assert!(resent.require(Lsn(30), 7).unwrap_err().to_string().contains("has none there"));
        assert!(resent.require(Lsn(40), 7).unwrap_err().to_string().contains("has transaction 8 there"));
    }
}
