//! Whether what the source would send now follows what the archive has.
//!
//! A standby that is promoted, or a server that is restored from a backup, goes on under a new timeline. What the old one
//! wrote behind the switch is in the archive and not in the source, and what the new one writes has the same positions: they
//! would be taken for archived.

use super::run::LostSlot;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::Lsn;
use crate::postgres::{ReplicationConnection, SystemIdentity, Timeline};

/// The source's timeline; and where its log is not the one that the archive has, what was lost.
///
/// # Errors
/// Refused where the source stands before the watermark on the same timeline. Else as the source and the store say.
pub(super) async fn succession(
    replication: &mut ReplicationConnection,
    archive: &Archive,
    watermark: Lsn,
) -> Result<(u32, Option<LostSlot>)> {
    let server = replication.identify_system().await?;
    let Some(noted) = archive.timeline().await?.filter(|noted| *noted != server.timeline) else {
        require_not_behind(&server, watermark)?;
        return Ok((server.timeline, None));
    };
    let timeline = Timeline::of(&server, replication).await?;
    let shared = timeline.shares(noted);
    Ok((timeline.number, lost(&timeline, noted, shared, watermark)))
}

fn lost(timeline: &Timeline, noted: u32, shared: Option<Lsn>, watermark: Lsn) -> Option<LostSlot> {
    let cause = match shared {
        Some(until) if until >= watermark => return None,
        Some(until) => {
            format!("the source left timeline {noted} at {until}, and the archive has it up to {watermark}")
        }
        None => format!("the source is on timeline {}, which does not come from {noted}", timeline.number),
    };
    Some(LostSlot { cause: format!("{cause}: what was archived in between is not in the source"), usable: true })
}

/// Refuses before anything is touched: what the source will write next has positions that the archive has already.
pub(super) fn require_not_behind(server: &SystemIdentity, watermark: Lsn) -> Result<()> {
    if server.position >= watermark {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "the source is at {}, the archive has history up to {watermark}: the source was restored from an older backup",
        server.position
    ))
    .remedy(
        "the history so far stays readable; begin a new archive with afterimage init and another --archive, or run again when the source has written beyond that position",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(position: u64) -> SystemIdentity {
        SystemIdentity { system_identifier: 7, timeline: 1, position: Lsn(position), database: "d".into() }
    }

    #[test]
    fn a_source_behind_the_archive_is_refused() {
        assert!(require_not_behind(&server(100), Lsn(100)).is_ok());
        assert!(require_not_behind(&server(99), Lsn(100)).is_err());
    }
}
