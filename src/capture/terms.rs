//! What a session asks of the source, as far as sessions before have found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::columnar::BinaryForm;
use crate::failure::Failure;
use crate::model::{Lsn, RelationVersion};

/// Shared by a run's sessions. Whoever finds that other terms are needed says so here and ends the session.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    whole_up_to: AtomicU64,
    text: AtomicBool,
}

impl Terms {
    /// What would be asked now, to see whether it changes.
    pub(super) fn now(&self) -> (Lsn, bool) {
        (self.whole_up_to(), self.0.text.load(Ordering::Relaxed))
    }

    /// Up to where transactions are needed whole.
    pub(super) fn whole_up_to(&self) -> Lsn {
        Lsn(self.0.whole_up_to.load(Ordering::Relaxed))
    }

    /// The failure is for ending this session.
    pub(super) fn want_whole_up_to(&self, lsn: Lsn, why: &str) -> Failure {
        self.0.whole_up_to.store(lsn.0, Ordering::Relaxed);
        Failure::transient(why)
    }

    /// Whether values of these tables can be asked for in binary, which spares both sides the text: as long as what each
    /// type's text would have been is known.
    pub(super) fn allow_binary<'r>(&self, mut relations: impl Iterator<Item = &'r RelationVersion>) -> bool {
        !self.0.text.load(Ordering::Relaxed) && relations.all(can_be_binary)
    }

    /// The failure is for ending this session.
    pub(super) fn want_text(&self, relation: &RelationVersion) -> Failure {
        self.0.text.store(true, Ordering::Relaxed);
        Failure::transient(format!("{} has a type whose values must come as text", relation.name))
    }
}

/// Whether the binary form of every value says what its text would have been.
pub(super) fn can_be_binary(relation: &RelationVersion) -> bool {
    relation.columns.iter().all(|column| BinaryForm::of_column(column) != BinaryForm::Converted)
}
