//! Going on after the source's log was lost; and the drill, which shows that what is archived comes back.
//!
//! ```text
//!   archived ─────────┤  gap: nobody saw it  ├───────── archived again
//!           watermark ▲                      ▲ base images of every table
//!                     └─ rows that differ ───┘ are changes of one transaction without a number
//! ```
//!
//! The gap is recorded, and no point inside it can be asked for. What it did is found by comparing the rows on both sides of
//! it, and archived as changes at the gap's last position: so whoever asks for differences over the gap, or restores to a
//! point before it, misses nothing. Which transactions did it, when and in which order nobody knows.

mod difference;
mod drill;
mod unlisted;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::archive::{Archive, ArchiveWriter, DurableLsn, Publication, StagedFile, Store, Watermark};
use crate::capture::{CaptureSettings, Fresh, ImageProgress, LostSlot, StagedImage, images_anew};
use crate::columnar::{change_schema, image_table_schema};
use crate::failure::{Context as _, Failure, Result};
use crate::history::TableAt;
use crate::machine;
use crate::model::{
    Commit, GapRecord, Lsn, OperationCounts, Position, RelationEvent, RelationRecord, RelationVersion, TableName,
    Transaction,
};
use crate::postgres::Source;

pub use drill::{Drilled, drill};

use difference::{Changes, changes};
use unlisted::unlisted;

/// Records the gap that a lost slot leaves and prepares the source and the archive for capture to go on. Gives what it
/// published; nothing where nothing was lost.
///
/// # Errors
/// Refused where the source is behind the archive, or has no publication any more. Transient as the source and the store
/// say; it can then be done again.
pub async fn resume(
    source: &Source,
    store: &Store,
    settings: &CaptureSettings,
    lost: &LostSlot,
    progress: Arc<ImageProgress>,
) -> Result<Option<Publication>> {
    let archive = Archive::open(store).await?;
    let watermark = archive.watermark().await?;
    let fresh = images_anew(source, &archive, settings, lost, progress).await?;
    if fresh.lsn == watermark.lsn {
        return Ok(None);
    }
    let gap = GapRecord {
        lsn: watermark.lsn,
        end_lsn: fresh.lsn,
        time: watermark.time,
        end_time: fresh.time,
        reason: lost.cause.clone(),
    };
    let present = present_tables(source).await?;
    let resumption = Resumption { archive, settings, watermark, gap };
    resumption.publish(fresh, &present).await.map(Some)
}

/// Numbers of the tables that the source has, archived or not.
async fn present_tables(source: &Source) -> Result<HashSet<u32>> {
    let session = source.without_waiting().connect("afterimage run").await?;
    let rows = session.query("SELECT oid FROM pg_class WHERE relkind IN ('r', 'p')", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A gap that is being closed.
struct Resumption<'a> {
    archive: Archive,
    settings: &'a CaptureSettings,
    watermark: Watermark,
    gap: GapRecord,
}

impl Resumption<'_> {
    async fn publish(&self, fresh: Fresh, present: &HashSet<u32>) -> Result<Publication> {
        let mut writer = ArchiveWriter::claim(self.archive.store()).await?;
        if writer.durable().map(DurableLsn::lsn) != Some(self.watermark.lsn) {
            return Err(Failure::transient("the archive moved on while base images were taken"));
        }
        writer.on_timeline(fresh.timeline);
        let before = self.archive.tables_before(self.watermark.lsn).await?;
        let before: HashMap<u32, RelationVersion> =
            before.into_values().map(|relation| (relation.oid, relation)).collect();
        let mut publication = Publication {
            end: fresh.lsn,
            time: fresh.time,
            relations: self.relations(&before, &fresh, present),
            ddl: fresh.ddl.into_iter().collect(),
            gaps: vec![self.gap.clone()],
            transactions: unlisted(&self.archive, self.watermark.lsn).await?,
            ..Publication::default()
        };
        let (mut tables, mut seq) = (BTreeMap::new(), 0);
        for table in fresh.tables {
            let name = table.relation.name.clone();
            let (files, counts) = self.table(&mut writer, table, &before, &mut seq).await.context(&name)?;
            if !files.is_empty() {
                tables.insert(name.clone(), counts);
                publication.changes.push((name, files));
            }
        }
        if !tables.is_empty() {
            publication.transactions.push(self.transaction(tables));
        }
        publish_in_time(&mut writer, &publication).await?;
        Ok(publication)
    }

    /// What is known of the tables: nothing of their rows from the gap's beginning on, and at its end what the source says.
    fn relations(
        &self,
        before: &HashMap<u32, RelationVersion>,
        fresh: &Fresh,
        present: &HashSet<u32>,
    ) -> Vec<RelationRecord> {
        // At the very beginning of an archive a version holds from there on; the gap begins after it.
        let start = Position::before(Lsn(self.gap.lsn.0 + 1));
        let end = Position::before(self.gap.commit_lsn());
        let record = |position: Position, event: RelationEvent, relation: &RelationVersion| RelationRecord {
            position,
            event,
            relation: relation.clone(),
            definition: None,
        };
        let with_rows = || before.values().filter(|relation| !relation.partitioned);
        let unseen = with_rows().map(|relation| record(start, RelationEvent::Unseen, relation));
        let gone = before.values().filter(|relation| !present.contains(&relation.oid));
        let gone = gone.map(|relation| record(end, RelationEvent::Dropped, relation));
        let described = fresh.tables.iter().map(|table| {
            RelationRecord::described(self.gap.commit_lsn(), table.relation.clone(), table.definition.clone())
        });
        unseen.chain(gone).chain(described).chain(fresh.parents.iter().cloned()).collect()
    }

    /// Adds a table's image, and gives what the gap did to its rows.
    async fn table(
        &self,
        writer: &mut ArchiveWriter,
        table: StagedImage,
        before: &HashMap<u32, RelationVersion>,
        seq: &mut i64,
    ) -> Result<(Vec<StagedFile>, OperationCounts)> {
        let relation = &table.relation;
        writer.add_image(&relation.name, &image_table_schema(relation), &table.files).await?;
        // What an attempt that was cut off has published of this table counts as known.
        let applied = writer.prepare(&relation.name, &change_schema(relation)).await?;
        let state = match before.get(&relation.oid) {
            None => None,
            Some(known) => match self.state(known, relation, applied.max(self.watermark.lsn)).await {
                Ok(state) => state,
                Err(failure) if failure.is_transient() => return Err(failure),
                // Its rows were not known before the gap either.
                Err(_) => return Ok((Vec::new(), OperationCounts::default())),
            },
        };
        let images = self.archive.images(&relation.name, self.gap.end_lsn).await?;
        let image = images.into_iter().find(|image| image.lsn == self.gap.end_lsn);
        let image = image.ok_or_else(|| Failure::failed("the base image that was added is not there"))?;
        let asked = Changes { archive: &self.archive, gap: &self.gap, relation, memory: self.settings.memory };
        changes(&asked, state.as_ref(), &image, seq).await
    }

    async fn state(&self, known: &RelationVersion, now: &RelationVersion, cut: Lsn) -> Result<Option<TableAt>> {
        match TableAt::find(&self.archive, &known.name, cut).await? {
            Some(state) => Ok(Some(state)),
            None => TableAt::find(&self.archive, &now.name, cut).await,
        }
    }

    fn transaction(&self, tables: BTreeMap<TableName, OperationCounts>) -> Transaction {
        let gap = &self.gap;
        let context = json!([{ "gap": { "from": gap.lsn, "to": gap.end_lsn, "reason": gap.reason } }]);
        let commit = Commit { lsn: gap.commit_lsn(), end_lsn: gap.end_lsn, xid: 0, time: gap.end_time };
        Transaction { commit, tables, context: Some(context.to_string()) }
    }
}

/// How often a publication is tried while the store does not answer.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_secs(2);

/// A publication that is cut off leaves a part of the gap's changes in some tables: better to insist.
async fn publish_in_time(writer: &mut ArchiveWriter, publication: &Publication) -> Result<()> {
    let mut attempts = 0;
    loop {
        match writer.publish(publication).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.is_transient() && !writer.is_overtaken() && attempts < ATTEMPTS => {
                tracing::warn!("the gap cannot be published yet: {failure}");
                attempts += 1;
                machine::sleep(PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}
