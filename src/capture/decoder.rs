//! Where the source's log is decoded: by itself, or, so that it does not even have to read its own log for us, by one of its
//! standbys (PostgreSQL manual, "Logical Decoding Concepts"; version 16 on). Whatever is written is still written to the
//! source.

use std::ops::Deref;
use std::time::Duration;

use tokio_postgres::Client;

use super::source_check::{self, SourceFacts};
use crate::failure::{Context as _, Failure, Result};
use crate::machine;
use crate::model::Lsn;
use crate::postgres::{CreatedSlot, ReplicationConnection, Session, Source};

/// Standbys decode from this version on.
const STANDBYS_SINCE: i32 = 16;

/// How long a standby may be behind where a place in history is wanted.
const REPLAY_PATIENCE: Duration = Duration::from_secs(300);

/// A session with the server that has the archive's slot.
pub(super) enum Slots<'a> {
    Source(&'a Client),
    Standby(Box<Session>),
}

impl Deref for Slots<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Slots::Source(client) => client,
            Slots::Standby(session) => session,
        }
    }
}

impl<'a> Slots<'a> {
    /// Of a source, with which there is a session.
    ///
    /// # Errors
    /// Failed or refused where the standby cannot decode, or is another source's.
    pub(super) async fn of(source: &Source, session: &'a Client) -> Result<Slots<'a>> {
        let Some(standby) = source.standby() else { return Ok(Slots::Source(session)) };
        let there = standby.connect("afterimage").await.context("the standby that decodes")?;
        require_standby(&source_check::facts(&there).await?)?;
        if system_of(&there).await? != system_of(session).await? {
            return Err(Failure::refused("the server of --decode-from is no standby of the source")
                .remedy("name a standby of --source, or leave --decode-from out"));
        }
        Ok(Slots::Standby(Box::new(there)))
    }

    /// Says what would cost the slot.
    ///
    /// # Errors
    /// As the standby says.
    pub(super) async fn warn(&self) -> Result<()> {
        let Slots::Standby(standby) = self else { return Ok(()) };
        let row = standby.query_one("SELECT current_setting('hot_standby_feedback')", &[]).await?;
        if row.get::<_, &str>(0) != "on" {
            tracing::warn!(
                "hot_standby_feedback is off on the standby that decodes: a vacuum of the source's catalogue can cost its slot, and leave a gap"
            );
        }
        Ok(())
    }

    /// Creates a slot and exports its snapshot, which shows everything that the source has committed by now.
    ///
    /// # Errors
    /// Transient where a standby does not come after; else as the server says.
    pub(super) async fn create(
        &self,
        source: &Client,
        replication: &mut ReplicationConnection,
        name: &str,
        temporary: bool,
    ) -> Result<CreatedSlot> {
        let creating = replication.create_slot(name, temporary, true);
        let Slots::Standby(standby) = self else { return creating.await };
        wait_for_replay(source, standby).await?;
        tokio::select! {
            created = creating => created,
            () = note_what_runs(source) => Err(Failure::failed("nobody notes what runs any more")),
        }
    }
}

fn require_standby(facts: &SourceFacts) -> Result<()> {
    let (version, role) = (facts.version, crate::model::quote_identifier(&facts.role));
    let checks = [
        (
            facts.in_recovery,
            "the server of --decode-from is no standby (any more)".to_owned(),
            "name it with --source, and leave --decode-from out, if it was promoted".to_owned(),
        ),
        (
            version >= STANDBYS_SINCE,
            format!("a standby of PostgreSQL {version} does not decode; from version {STANDBYS_SINCE} on it does"),
            "leave --decode-from out".to_owned(),
        ),
        (
            facts.wal_level == "logical",
            format!("the standby's wal_level is {}, decoding there needs logical", facts.wal_level),
            "ALTER SYSTEM SET wal_level = 'logical' on the standby too; then restart it".to_owned(),
        ),
        (
            facts.replication_role,
            format!("the role {role} may not replicate"),
            format!("as a superuser: ALTER ROLE {role} REPLICATION;"),
        ),
    ];
    match checks.into_iter().find(|(holds, _, _)| !holds) {
        Some((_, cause, remedy)) => Err(Failure::failed(cause).remedy(remedy)),
        None => Ok(()),
    }
}

async fn system_of(client: &Client) -> Result<(String, String)> {
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Waits until a standby has all that its source has by now.
async fn wait_for_replay(source: &Client, standby: &Client) -> Result<()> {
    let place = |row: tokio_postgres::Row| row.get::<_, String>(0).parse::<Lsn>().unwrap_or(Lsn::ZERO);
    let wanted = place(source.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?);
    let deadline = machine::instant() + REPLAY_PATIENCE;
    loop {
        let reached = place(standby.query_one("SELECT COALESCE(pg_last_wal_replay_lsn(), '0/0')::text", &[]).await?);
        if reached >= wanted {
            return Ok(());
        }
        if machine::instant() >= deadline {
            let behind = wanted.0 - reached.0;
            return Err(Failure::transient(format!("the standby is {behind} bytes of log behind its source")));
        }
        machine::sleep(Duration::from_millis(200)).await;
    }
}

/// A standby finds a place to decode from only where its source has noted which transactions run, which it does now and then
/// by itself, and at once where the role may ask for it.
async fn note_what_runs(source: &Client) {
    loop {
        if let Err(error) = source.execute("SELECT pg_log_standby_snapshot()", &[]).await {
            tracing::debug!("the source notes in its own time what runs: {error}");
        }
        machine::sleep(Duration::from_secs(1)).await;
    }
}
