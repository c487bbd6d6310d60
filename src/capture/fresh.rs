//! Everything anew in an archive that exists: where the slot cannot give what follows the watermark, base images at one
//! later place in history, from which capture can go on.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::base_image::{ImageCopy, ImageProgress, StagedImage};
use super::decoder::Slots;
use super::init::{describe_source, drop_slot, initial_definitions, notice_our_end};
use super::run::LostSlot;
use super::settings::CaptureSettings;
use super::source_check;
use super::successor::require_not_behind;
use crate::archive::{Archive, Store};
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::{DdlRecord, Lsn, RelationRecord};
use crate::postgres::{ReplicationConnection, Source, Throttle};

/// See the module's documentation.
pub struct Fresh {
    /// Transactions that committed before this are in the images, and no others. The slot gives all that follow.
    pub lsn: Lsn,
    /// The source's timeline.
    pub timeline: u32,
    /// When it was, by our clock.
    pub time: DateTime<Utc>,
    pub tables: Vec<StagedImage>,
    /// Partitioned tables, as they were described before this place.
    pub parents: Vec<RelationRecord>,
    /// The definitions of what is no table, where those are captured.
    pub ddl: Option<DdlRecord>,
}

/// Makes the slot usable and copies every published table. A slot that lost its log is dropped and made anew; one that
/// stands too far keeps what it has.
///
/// # Errors
/// Refused where the source is behind the archive: it was restored from an older backup. Else as the source says; a slot
/// that was made anew stays, and keeps the log from being lost further.
pub async fn images_anew(
    source: &Source,
    archive: &Archive,
    settings: &CaptureSettings,
    lost: &LostSlot,
    progress: Arc<ImageProgress>,
) -> Result<Fresh> {
    // What the archiver itself does must not wait for the archiver.
    let source = &source.without_waiting();
    let session = source.connect("afterimage run").await?;
    let facts = source_check::facts(&session).await?;
    facts.require_archivable()?;
    let (identity, store): (_, &Store) = (archive.identity(), archive.store());
    require_publication(&session, &identity.publication).await?;
    let slots = Slots::of(source, &session).await?;
    let mut replication = ReplicationConnection::connect(source.decoder()).await?;
    let server = replication.identify_system().await?;
    require_not_behind(&server, archive.watermark().await?.lsn)?;
    notice_our_end(&mut replication).await;
    let created = if lost.usable {
        let temporary = format!("{}_image", identity.slot);
        slots.create(&session, &mut replication, &temporary, true).await?
    } else {
        drop_slot(&slots, &identity.slot).await?;
        slots.create(&session, &mut replication, &identity.slot, false).await?
    };
    let (lsn, timeline) = (created.consistent_point, server.timeline);
    let snapshot = created.snapshot.ok_or_else(|| Failure::failed("the source exported no snapshot"))?;
    let described = describe_source(source.decoder(), store, &identity.publication, &snapshot).await?;
    let time = machine::now();
    let copy = ImageCopy {
        source: source.decoder(),
        store,
        snapshot: &snapshot,
        lsn,
        workers: settings.copy_workers,
        throttle: settings.throttle.map(Throttle::new),
        progress,
    };
    let tables = copy.run(described.jobs).await?;
    let before = Lsn(lsn.0.saturating_sub(1));
    let parents = described
        .parents
        .into_iter()
        .map(|parent| RelationRecord::described(before, parent.relation(), parent.json().to_string()));
    Ok(Fresh {
        lsn,
        timeline,
        time,
        tables,
        parents: parents.collect(),
        ddl: described.others.map(|objects| initial_definitions(before, time, "GAP", objects)),
    })
}

async fn require_publication(client: &tokio_postgres::Client, publication: &str) -> Result<()> {
    let sql = "SELECT FROM pg_publication WHERE pubname = $1";
    match client.query_opt(sql, &[&publication]).await? {
        Some(_) => Ok(()),
        None => Err(Failure::refused(format!("the publication {publication} does not exist any more"))
            .remedy("create it again for the tables that are to be archived, and run again")),
    }
}
