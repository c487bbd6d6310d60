//! The last stage: encodes rows into files, publishes, and announces what is durable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::{mpsc, oneshot, watch};

use super::assembler::same_source_relation;
use super::catalog::{self, StoredNames};
use super::run::{Backoff, RunEvents, sleep_or_stop};
use crate::archive::{
    ArchiveWriter, DurableLsn, FileContent, Publication, RELATION_KEY, StagedFile, TablePath, log, stage,
};
use crate::columnar::change_schema;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, RelationRecord, RelationVersion, TableName};
use crate::postgres::Session;

/// What the assembler asks for, in order.
pub(super) enum Job {
    /// Make a table ready for rows of a relation version that holds from `since` on.
    Prepare { relation: RelationVersion, since: Lsn, reply: oneshot::Sender<Prepared> },
    /// Rows that become visible with the next publication.
    Rows { relation: Arc<RelationVersion>, batch: RecordBatch },
    /// Make everything so far durable and visible.
    Publish(Publication),
}

/// A table that is ready.
pub(super) struct Prepared {
    /// With its stored names and type names.
    pub(super) relation: RelationVersion,
    pub(super) applied: Lsn,
    /// To be published, where the archive does not know this version yet.
    pub(super) record: Option<RelationRecord>,
}

/// See the module's documentation.
pub(super) struct Committer<'a> {
    pub(super) writer: ArchiveWriter,
    /// For what the stream does not say, such as the names of types.
    pub(super) catalog: Session,
    /// The latest relation version of each table that the archive knows.
    pub(super) known: HashMap<u32, RelationVersion>,
    pub(super) durable: watch::Sender<DurableLsn>,
    pub(super) events: &'a dyn RunEvents,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) staged: HashMap<TableName, Vec<StagedFile>>,
}

impl Committer<'_> {
    /// Works until the assembler hangs up.
    ///
    /// # Errors
    /// What waiting cannot mend. A store that does not answer is waited for.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<()> {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Prepare { relation, since, reply } => {
                    let prepared = self.prepare(relation, since).await?;
                    // A receiver that is gone has stopped for a reason of its own.
                    let _ = reply.send(prepared);
                }
                Job::Rows { relation, batch } => self.stage(&relation, batch).await?,
                Job::Publish(publication) => self.publish(publication).await?,
            }
        }
        Ok(())
    }

    async fn prepare(&mut self, mut relation: RelationVersion, since: Lsn) -> Result<Prepared> {
        let known = self.known.get(&relation.oid).filter(|known| same_source_relation(known, &relation));
        let mut record = None;
        if let Some(known) = known {
            relation = known.clone();
        } else {
            for column in &mut relation.columns {
                column.type_name = catalog::type_name(&self.catalog, column.type_oid, column.type_modifier).await?;
            }
            relation.left_out = catalog::generated_columns(&self.catalog, relation.oid).await?;
            let existing = self.writer.existing_columns(&relation.name).await?;
            StoredNames { existing: existing.as_ref() }.assign(&mut relation);
            record = Some(RelationRecord { lsn: since, relation: relation.clone() });
            self.known.insert(relation.oid, relation.clone());
        }
        let applied = self.writer.prepare(&relation.name, &change_schema(&relation)).await?;
        Ok(Prepared { relation, applied, record })
    }

    async fn stage(&mut self, relation: &RelationVersion, batch: RecordBatch) -> Result<()> {
        let path = TablePath::Changes(relation.name.clone());
        let metadata = vec![(RELATION_KEY.to_owned(), log::relation_json(relation))];
        let mut waiting = Waiting::new(self.events, self.stop.clone());
        let file = loop {
            let content = FileContent { batches: vec![batch.clone()], metadata: metadata.clone(), image_lsn: None };
            match stage(self.writer.store(), &path, content).await {
                Err(failure) if failure.is_transient() => waiting.wait(failure).await?,
                staged => break staged?,
            }
        };
        waiting.over();
        self.staged.entry(relation.name.clone()).or_default().push(file);
        Ok(())
    }

    async fn publish(&mut self, mut publication: Publication) -> Result<()> {
        publication.changes = std::mem::take(&mut self.staged).into_iter().collect();
        let mut waiting = Waiting::new(self.events, self.stop.clone());
        let durable = loop {
            match self.writer.publish(&publication).await {
                // What another writer has added must not be added again: only a new session can go on.
                Err(failure) if self.writer.is_overtaken() => return Err(failure),
                Err(failure) if failure.is_transient() => waiting.wait(failure).await?,
                published => break published?,
            }
        };
        waiting.over();
        self.events.published(&publication);
        self.durable.send_replace(durable);
        Ok(())
    }
}

/// Waiting for a store, said once.
struct Waiting<'a> {
    events: &'a dyn RunEvents,
    stop: watch::Receiver<bool>,
    backoff: Backoff,
    said: bool,
}

impl<'a> Waiting<'a> {
    fn new(events: &'a dyn RunEvents, stop: watch::Receiver<bool>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        Waiting { events, stop, backoff, said: false }
    }

    /// Pauses before another attempt; gives the failure back when the archiver is to stop.
    async fn wait(&mut self, failure: Failure) -> Result<()> {
        if !std::mem::replace(&mut self.said, true) {
            self.events.interrupted(&failure);
        }
        if sleep_or_stop(self.backoff.next(), self.stop.clone()).await { Err(failure) } else { Ok(()) }
    }

    fn over(&self) {
        if self.said {
            self.events.resumed();
        }
    }
}
