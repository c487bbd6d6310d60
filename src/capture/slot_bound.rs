//! The archive's slot lets go of the source's log before the source's disk is full.
//!
//! A slot keeps every log file that its reader may still want (PostgreSQL manual, 26.2.6 "Replication Slots"), for ever where
//! `max_slot_wal_keep_size` does not say otherwise. That setting is the whole server's; this bound is the archive's own. What
//! it costs is a gap, which capture records when it finds the slot gone.

use std::time::Duration;

use super::init::drop_slot;
use super::run::slot_in;
use crate::archive::ArchiveIdentity;
use crate::failure::Result;
use crate::machine;
use crate::postgres::Source;

/// How often it is looked how much the slot holds back.
const LOOKS: Duration = Duration::from_secs(5);

/// Within this time the server process of a reader has ended that was told to.
const ENDED_WITHIN_MS: i64 = 5000;

/// Drops the archive's slot whenever it holds back more than so many bytes of log, until it is aborted.
pub async fn bound_slot(source: Source, identity: ArchiveIdentity, most: u64) {
    loop {
        if let Err(failure) = look(&source, &identity, most).await {
            tracing::warn!("how much log the slot {} holds back is not known: {failure}", identity.slot);
        }
        machine::sleep(LOOKS).await;
    }
}

async fn look(source: &Source, identity: &ArchiveIdentity, most: u64) -> Result<()> {
    let session = source.decoder().without_waiting().connect("afterimage run").await?;
    let Some(slot) = slot_in(&session, identity).await? else { return Ok(()) };
    let held = u64::try_from(slot.held_bytes).unwrap_or(0);
    if held <= most {
        return Ok(());
    }
    tracing::error!(
        "the slot {} holds back {held} bytes of log, max_slot_lag is {most}: it is dropped, so that the source's disk does not fill",
        slot.name
    );
    if let Some(reader) = slot.active_pid {
        session.query("SELECT pg_terminate_backend($1, $2)", &[&reader, &ENDED_WITHIN_MS]).await?;
    }
    // Its reader may have come back meanwhile: then it is told again at the next look.
    drop_slot(&session, &slot.name).await
}
