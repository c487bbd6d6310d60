//! COPY out of the server, as fast as it sends: rows are read where they lie in the socket's buffer.
//!
//! A connection of its own, since tokio-postgres hands on each row as a message of its own, which costs as much as reading
//! the row does.

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, COPY_OUT_RESPONSE_TAG, ERROR_RESPONSE_TAG, NOTICE_RESPONSE_TAG,
    PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;

use crate::failure::{Context, Result};

use super::frame::Malformed;
use super::replication::{log_in, log_notice, reported, simple_query};
use super::settings::{RAW_WHERE_UNKNOWN, late_settings};
use super::source::{Secret, Source};
use super::transport::{Address, Greeting, Setback, Transport, reach};
use super::wire::Wire;

/// An SQL session that copies out of the server. Dropping it ends the session.
#[derive(Debug)]
pub struct CopyConnection {
    wire: Wire,
}

impl CopyConnection {
    /// Connects, under `application_name` unless the source names another.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says.
    pub async fn connect(source: &Source, application_name: &str) -> Result<CopyConnection> {
        let (wire, server_major) = reach(source, &CopyGreeting { source, application_name }).await?;
        let mut connection = CopyConnection { wire };
        let late = [Some(RAW_WHERE_UNKNOWN), late_settings(server_major)];
        for statement in late.into_iter().flatten() {
            connection.execute(statement).await.context("cannot set up the connection that copies")?;
        }
        Ok(connection)
    }

    /// Runs SQL whose rows nobody wants.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says.
    pub async fn execute(&mut self, sql: &str) -> Result<()> {
        simple_query(&mut self.wire, sql).await.map(drop)
    }

    /// Starts a `COPY … TO STDOUT`, in whatever format `sql` names. [`CopyConnection::next`] gives its data, to the end.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says.
    pub async fn start(&mut self, sql: &str) -> Result<()> {
        self.wire.enqueue(|out| frontend::query(sql, out))?;
        self.wire.flush().await?;
        loop {
            let frame = self.wire.receive().await?;
            match frame.tag {
                COPY_OUT_RESPONSE_TAG => return Ok(()),
                ERROR_RESPONSE_TAG => return Err(reported(&frame)),
                NOTICE_RESPONSE_TAG => log_notice(&frame)?,
                PARAMETER_STATUS_TAG => {}
                _ => return Err(Malformed.into()),
            }
        }
    }

    /// Waits for data and gives `take` every message that has arrived whole: in the binary format one row each, the first
    /// with the format's header before it. Returns the bytes of them; `None` after the last.
    ///
    /// # Errors
    /// What `take` says, or what [`diagnose`](super::diagnose) does; what was taken before is not the whole result.
    pub async fn next(&mut self, take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send)) -> Result<Option<u64>> {
        loop {
            let taken = self.wire.take_bodies(COPY_DATA_TAG, take)?;
            if taken > 0 {
                return Ok(Some(taken));
            }
            let Some(frame) = self.wire.receive_unless(COPY_DATA_TAG).await? else { continue };
            match frame.tag {
                READY_FOR_QUERY_TAG => return Ok(None),
                ERROR_RESPONSE_TAG => return Err(reported(&frame)),
                NOTICE_RESPONSE_TAG => log_notice(&frame)?,
                COPY_DONE_TAG | COMMAND_COMPLETE_TAG | PARAMETER_STATUS_TAG => {}
                _ => return Err(Malformed.into()),
            }
        }
    }
}

struct CopyGreeting<'a> {
    source: &'a Source,
    application_name: &'a str,
}

impl Greeting for CopyGreeting<'_> {
    type Outcome = (Wire, u32);

    async fn greet(&self, transport: Transport, _: &Address, password: Option<Secret>) -> Result<(Wire, u32), Setback> {
        let name = self.source.application_name.as_deref().unwrap_or(self.application_name);
        log_in(self.source, transport, password, name, &[]).await
    }
}
