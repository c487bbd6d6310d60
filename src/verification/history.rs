//! The list of transactions against itself: in order, each once, within the archive's bounds.

use super::{Finding, Verified};
use crate::archive::Archive;
use crate::model::Transaction;

pub(super) fn look_at(archive: &Archive, transactions: &[Transaction], verified: &mut Verified) {
    let start = archive.identity().start_lsn;
    for transaction in transactions {
        let commit = &transaction.commit;
        if commit.lsn < start {
            verified.find(Finding::new(
                commit.lsn,
                format!("the transaction is older than the archive, which begins at {start}"),
            ));
        }
        if commit.end_lsn <= commit.lsn {
            verified.find(Finding::new(
                commit.lsn,
                format!("the transaction ends at {}, before it commits", commit.end_lsn),
            ));
        }
    }
    for pair in transactions.windows(2) {
        let [one, next] = [&pair[0].commit, &pair[1].commit];
        if next.lsn == one.lsn {
            verified.find(Finding::new(one.lsn, "the transaction is listed twice"));
        } else if next.lsn < one.end_lsn {
            verified.find(Finding::new(next.lsn, format!("the transaction overlaps that of {}", one.lsn)));
        }
    }
}
