//! The relation versions that the archive knows.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{Lsn, RelationEvent, RelationRecord, RelationVersion};

/// The latest relation version of each table, kept by the committer and seen by whoever encodes rows before it.
#[derive(Debug, Clone)]
pub(super) struct KnownRelations(Arc<RwLock<HashMap<u32, Arc<RelationVersion>>>>);

impl KnownRelations {
    pub(super) fn new(known: HashMap<u32, RelationVersion>) -> KnownRelations {
        let known = known.into_iter().map(|(oid, relation)| (oid, Arc::new(relation)));
        KnownRelations(Arc::new(RwLock::new(known.collect())))
    }

    pub(super) fn get(&self, oid: u32) -> Option<Arc<RelationVersion>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&oid).cloned()
    }

    pub(super) fn insert(&self, relation: RelationVersion) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(relation.oid, Arc::new(relation));
    }

    pub(super) fn remove(&self, oid: u32) -> Option<Arc<RelationVersion>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&oid)
    }
}

/// The latest relation version of each table up to the watermark, and the tables that have no base from which their rows
/// could be known now.
pub(super) async fn known_tables(
    archive: &Archive,
    watermark: Lsn,
) -> Result<(HashMap<u32, RelationVersion>, HashSet<u32>)> {
    let start = archive.identity().start_lsn;
    let records = archive.relations().await?;
    let published = |record: &&RelationRecord| record.position.lsn < watermark || record.position.lsn == start;
    let mut known: HashMap<u32, RelationVersion> = HashMap::new();
    let mut unseen: HashMap<u32, Lsn> = HashMap::new();
    for RelationRecord { position, event, relation, .. } in records.iter().filter(published) {
        let oid = relation.oid;
        match event {
            RelationEvent::Unseen => drop(unseen.insert(oid, position.lsn)),
            RelationEvent::Created | RelationEvent::Rewritten | RelationEvent::Dropped => drop(unseen.remove(&oid)),
            RelationEvent::Described => {}
        }
        match event {
            RelationEvent::Dropped => known.remove(&oid),
            _ => known.insert(oid, relation.clone()),
        };
    }
    let mut without_base = HashSet::new();
    for (oid, since) in unseen {
        let image = archive.image(&known[&oid].name, watermark).await?;
        if image.is_none_or(|image| image.lsn <= since) {
            without_base.insert(oid);
        }
    }
    Ok((known, without_base))
}
