//! The replication connection: slots, and the stream of the log.
//!
//! ```text
//! connect ─▶ ReplicationConnection ─ identify_system, create_slot, simple_query
//!                     │ start_replication
//!                     ▼
//!             ReplicationStream ─ next ◀─▶ send_status ─ stop
//! ```
//!
//! After `START_REPLICATION` both sides send copy data (PostgreSQL manual, "Streaming Replication
//! Protocol"): the server pieces of log and keepalives, we standby status updates.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, DATA_ROW_TAG, ERROR_RESPONSE_TAG, NOTICE_RESPONSE_TAG,
    PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;

use crate::failure::{Context, Failure, Result};
use crate::machine;
use crate::model::{Lsn, quote_identifier, quote_literal};

use super::authentication::{Applicant, authenticate};
use super::diagnosis::ServerReport;
use super::frame::{Fields, Frame, Malformed, data_row};
use super::session::unknown_version;
use super::settings::{RAW_WHERE_UNKNOWN, late_settings, major_version};
use super::source::{Secret, Source};
use super::transport::{Address, Greeting, Setback, Transport, check_session_kind, reach};
use super::wire::Wire;

/// The name under which the server shows a replication connection, unless the source names another.
const APPLICATION_NAME: &str = "afterimage";
/// The answer to `START_REPLICATION`, which postgres-protocol does not know.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';
/// How long [`ReplicationStream::stop`] waits for the server.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// PostgreSQL counts time from 2000-01-01, this long after 1970-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);
/// The first major version that takes slot options in parentheses.
const FIRST_WITH_SLOT_OPTIONS: u32 = 15;

/// A connection in replication mode to the source's database.
///
/// A method that is dropped before it is done leaves its answer on the wire: drop the connection then.
#[derive(Debug)]
pub struct ReplicationConnection {
    wire: Wire,
    server_major: u32,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The number that `initdb` gave the cluster; its copies share it.
    pub system_identifier: u64,
    pub timeline: u32,
    /// Up to where the server has flushed its log.
    pub position: Lsn,
    pub database: String,
}

/// A new slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    pub name: String,
    /// Every transaction that commits after this will be streamed; every one before is in the snapshot.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` in other sessions, until the next command on this connection.
    pub snapshot: Option<String>,
}

/// SQL that begins a transaction which sees what an exported snapshot shows, and only reads.
///
/// Row security would silently hide rows; with it off PostgreSQL refuses instead.
pub fn begin_snapshot(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; SET LOCAL row_security = off",
        quote_literal(snapshot)
    )
}

impl ReplicationConnection {
    /// Connects and authenticates. Settings such as `wal_sender_timeout` come from
    /// [`Source::with_setting`].
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says.
    pub async fn connect(source: &Source) -> Result<Self> {
        let mut connection = reach(source, &ReplicationGreeting { source }).await?;
        let late = [Some(RAW_WHERE_UNKNOWN), late_settings(connection.server_major)];
        for statement in late.into_iter().flatten() {
            connection.simple_query(statement).await.context("cannot set up the replication connection")?;
        }
        Ok(connection)
    }

    /// The server's major version, such as 16.
    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    /// Whether the connection is under TLS.
    pub fn is_encrypted(&self) -> bool {
        self.wire.is_encrypted()
    }

    /// Asks which cluster and database this is, and how far its log reaches.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.simple_query("IDENTIFY_SYSTEM").await?;
        parse_identity(&rows).ok_or_else(|| Malformed.into())
    }

    /// Creates a logical slot for pgoutput, temporary (gone with this connection) or lasting, and exports its
    /// snapshot if asked to.
    ///
    /// Waits until every transaction that was running when it was called has ended, however long that takes.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says; a slot of that name is one of them.
    pub async fn create_slot(&mut self, name: &str, temporary: bool, export_snapshot: bool) -> Result<CreatedSlot> {
        let command = create_slot_command(name, temporary, export_snapshot, self.server_major);
        let rows = self.simple_query(&command).await.context(format_args!("cannot create slot {name}"))?;
        parse_created_slot(&rows).ok_or_else(|| Malformed.into())
    }

    /// Asks for a slot to be kept on standbys too, so that it survives a failover (version 17 on).
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says: a standby cannot, nor can a slot that is in use.
    pub async fn set_failover(&mut self, slot: &str) -> Result<()> {
        let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", quote_identifier(slot));
        self.simple_query(&command).await.map(drop)
    }

    /// Runs a replication command or an SQL statement and returns its rows as text.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says; the connection stays usable after an error of the statement.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        simple_query(&mut self.wire, sql).await
    }

    /// Starts streaming from a slot at `from`, or at the slot's own confirmed position if that is later. The
    /// options are pgoutput's, written as they are.
    ///
    /// # Errors
    /// [`Category::Refused`](crate::failure::Category::Refused) where another process streams from the slot, or
    /// the slot has lost what it should deliver.
    pub async fn start_replication(
        mut self,
        slot: &str,
        from: Lsn,
        options: &[(&str, String)],
    ) -> Result<ReplicationStream> {
        let command = start_command(slot, from, options);
        self.wire.enqueue(|out| frontend::query(&command, out))?;
        self.wire.flush().await?;
        loop {
            let frame = self.wire.receive().await?;
            match frame.tag {
                COPY_BOTH_RESPONSE_TAG => return Ok(ReplicationStream { wire: self.wire, ended: false }),
                ERROR_RESPONSE_TAG => {
                    return Err(reported(&frame).context(format_args!("cannot stream from slot {slot}")));
                }
                NOTICE_RESPONSE_TAG => log_notice(&frame)?,
                PARAMETER_STATUS_TAG => {}
                _ => return Err(Malformed.into()),
            }
        }
    }
}

/// Runs a statement and returns its rows as text.
pub(super) async fn simple_query(wire: &mut Wire, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    wire.enqueue(|out| frontend::query(sql, out))?;
    wire.flush().await?;
    let (mut rows, mut error) = (Vec::new(), None);
    loop {
        let frame = wire.receive().await?;
        match frame.tag {
            DATA_ROW_TAG => rows.push(data_row(&frame.body)?),
            ERROR_RESPONSE_TAG => error = Some(fatal_or_kept(&frame)?),
            NOTICE_RESPONSE_TAG => log_notice(&frame)?,
            READY_FOR_QUERY_TAG => return error.map_or(Ok(rows), Err),
            _ => {}
        }
    }
}

/// An error ends a statement, and `ReadyForQuery` follows; a fatal one ends the connection, and nothing does.
fn fatal_or_kept(frame: &Frame) -> Result<Failure> {
    let report = ServerReport::read(&frame.body)?;
    let fatal = matches!(report.severity.as_str(), "FATAL" | "PANIC");
    if fatal { Err(report.into()) } else { Ok(report.into()) }
}

pub(super) fn reported(frame: &Frame) -> Failure {
    ServerReport::read(&frame.body).map_or_else(Failure::from, Failure::from)
}

pub(super) fn log_notice(frame: &Frame) -> Result<()> {
    tracing::debug!("{}", notice_line(&ServerReport::read(&frame.body)?));
    Ok(())
}

fn notice_line(report: &ServerReport) -> String {
    format!("{}: {}", report.severity, report.line())
}

fn create_slot_command(name: &str, temporary: bool, export_snapshot: bool, server_major: u32) -> String {
    let lifetime = if temporary { " TEMPORARY" } else { "" };
    let snapshot = match (server_major >= FIRST_WITH_SLOT_OPTIONS, export_snapshot) {
        (true, true) => "(SNAPSHOT 'export')",
        (true, false) => "(SNAPSHOT 'nothing')",
        (false, true) => "EXPORT_SNAPSHOT",
        (false, false) => "NOEXPORT_SNAPSHOT",
    };
    format!("CREATE_REPLICATION_SLOT {}{lifetime} LOGICAL pgoutput {snapshot}", quote_identifier(name))
}

fn start_command(slot: &str, from: Lsn, options: &[(&str, String)]) -> String {
    // The walsender's own grammar knows no E'…' strings: a backslash is itself, a quote is doubled.
    let option = |(name, value): &(&str, String)| format!("{} '{}'", quote_identifier(name), value.replace('\'', "''"));
    let options: Vec<_> = options.iter().map(option).collect();
    let list = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
    format!("START_REPLICATION SLOT {} LOGICAL {from}{list}", quote_identifier(slot))
}

fn parse_identity(rows: &[Vec<Option<String>>]) -> Option<SystemIdentity> {
    let [Some(system_identifier), Some(timeline), Some(position), Some(database)] = rows.first()?.get(..4)? else {
        return None;
    };
    Some(SystemIdentity {
        system_identifier: system_identifier.parse().ok()?,
        timeline: timeline.parse().ok()?,
        position: position.parse().ok()?,
        database: database.clone(),
    })
}

fn parse_created_slot(rows: &[Vec<Option<String>>]) -> Option<CreatedSlot> {
    let [Some(name), Some(consistent_point), snapshot] = rows.first()?.get(..3)? else { return None };
    Some(CreatedSlot {
        name: name.clone(),
        consistent_point: consistent_point.parse().ok()?,
        snapshot: snapshot.clone(),
    })
}

struct ReplicationGreeting<'a> {
    source: &'a Source,
}

impl Greeting for ReplicationGreeting<'_> {
    type Outcome = ReplicationConnection;

    async fn greet(
        &self,
        transport: Transport,
        _: &Address,
        password: Option<Secret>,
    ) -> Result<ReplicationConnection, Setback> {
        let name = self.source.application_name.as_deref().unwrap_or(APPLICATION_NAME);
        let (wire, server_major) =
            log_in(self.source, transport, password, name, &[("replication", "database")]).await?;
        Ok(ReplicationConnection { wire, server_major })
    }
}

/// Begins a session on a transport, with further parameters of the start-up message; gives the server's major version
/// too.
pub(super) async fn log_in(
    source: &Source,
    transport: Transport,
    password: Option<Secret>,
    application_name: &str,
    further: &[(&str, &str)],
) -> Result<(Wire, u32), Setback> {
    let mut wire = Wire::new(transport);
    let options = source.startup_options();
    let parameters = [
        ("user", source.user()),
        ("database", source.database()),
        ("client_encoding", "UTF8"),
        ("application_name", application_name),
        ("options", &options),
    ];
    let parameters = parameters.into_iter().chain(further.iter().copied());
    wire.enqueue(|out| frontend::startup_message(parameters, out))?;
    wire.flush().await?;
    authenticate(&mut wire, &Applicant { user: source.user(), password, channel_binding: source.channel_binding })
        .await?;
    let parameters = read_parameters(&mut wire).await?;
    check_session_kind(source.session_kind, |name| parameters.get(name).map(String::as_str))?;
    let version = parameters.get("server_version").map(String::as_str).unwrap_or_default();
    let server_major = major_version(version).ok_or_else(|| unknown_version(version))?;
    Ok((wire, server_major))
}

/// Reads what follows authentication until the server is ready.
async fn read_parameters(wire: &mut Wire) -> Result<BTreeMap<String, String>, Setback> {
    let mut parameters = BTreeMap::new();
    loop {
        let frame = wire.receive().await?;
        match frame.tag {
            PARAMETER_STATUS_TAG => {
                let (name, value) = parameter(&frame.body).map_err(Failure::from)?;
                parameters.insert(name, value);
            }
            ERROR_RESPONSE_TAG => return Err(ServerReport::read(&frame.body).map_err(Failure::from)?.into()),
            READY_FOR_QUERY_TAG => return Ok(parameters),
            _ => {}
        }
    }
}

fn parameter(body: &[u8]) -> Result<(String, String), Malformed> {
    let mut fields = Fields(body);
    Ok((fields.text()?.to_owned(), fields.text()?.to_owned()))
}

/// What the stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// One message of the output plugin.
    WalData {
        /// The message's own position; zero for some kinds of message.
        start: Lsn,
        /// How far the server's log reached when it sent this.
        end: Lsn,
        /// When the server sent it: microseconds since 2000-01-01, by its clock.
        sent: i64,
        /// Shares the read buffer's memory: whoever keeps a few of many bodies for long should copy them.
        body: Bytes,
    },
    /// A sign of life between messages.
    Keepalive {
        /// Everything before this has been streamed, or holds nothing for us.
        end: Lsn,
        /// Microseconds since 2000-01-01, by the server's clock.
        sent: i64,
        /// The server wants a status now, and ends the connection if none comes (`wal_sender_timeout`); a
        /// server that shuts down asks until the whole log is confirmed.
        reply_requested: bool,
    },
    /// A notice or warning on one line, with its severity (never translated) in front and its SQLSTATE at the end.
    Notice(String),
}

/// A running stream. One task uses both directions: [`next`](Self::next) and [`send_status`](Self::send_status)
/// may each be dropped half-way in a `select!` and called again.
///
/// A status must go out before the server's `wal_sender_timeout` (60 s unless set) passes without one, so whoever
/// waits for something slower than the stream selects over that and a timer.
#[derive(Debug)]
pub struct ReplicationStream {
    wire: Wire,
    ended: bool,
}

impl ReplicationStream {
    /// The next event, at once if one is buffered; `None` when the server has ended the stream, as it does when
    /// it shuts down and everything is confirmed.
    ///
    /// # Errors
    /// What the server reports; [`Category::Transient`](crate::failure::Category::Transient) where the connection breaks or the server goes away.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>> {
        while !self.ended {
            let frame = self.wire.receive().await?;
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The next event if it has arrived already; never waits.
    ///
    /// # Errors
    /// What the server reports.
    pub fn buffered(&mut self) -> Result<Option<StreamEvent>> {
        while !self.ended {
            let Some(frame) = self.wire.buffered()? else { break };
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn event(&mut self, frame: Frame) -> Result<Option<StreamEvent>> {
        match frame.tag {
            COPY_DATA_TAG => return Ok(Some(stream_event(frame.body)?)),
            NOTICE_RESPONSE_TAG => {
                return Ok(Some(StreamEvent::Notice(notice_line(&ServerReport::read(&frame.body)?))));
            }
            ERROR_RESPONSE_TAG => return Err(reported(&frame)),
            // A server that shuts down leaves out CopyDone.
            COPY_DONE_TAG | COMMAND_COMPLETE_TAG => self.ended = true,
            PARAMETER_STATUS_TAG => {}
            _ => return Err(Malformed.into()),
        }
        Ok(None)
    }

    /// Tells the server how far we are. Up to `flushed` it may forget its log: pass nothing there that is not
    /// durable in the archive. With `request_reply` a keepalive comes back.
    ///
    /// # Errors
    /// [`Category::Transient`](crate::failure::Category::Transient) where the connection is gone.
    pub async fn send_status(&mut self, written: Lsn, flushed: Lsn, applied: Lsn, request_reply: bool) -> Result<()> {
        let status = standby_status([written, flushed, applied], postgres_now(), request_reply);
        self.wire.enqueue(|out| frontend::CopyData::new(status).map(|data| data.write(out)))?;
        self.wire.flush().await
    }

    /// Ends the stream in good order, after which the slot is free. Events that are still under way are dropped:
    /// they come again.
    ///
    /// # Errors
    /// [`Category::Transient`](crate::failure::Category::Transient) where the server does not end it within 10 seconds, as when it is in the
    /// middle of a huge transaction. The connection is closed all the same, and the server frees the slot when
    /// it notices.
    pub async fn stop(mut self) -> Result<()> {
        let ended = machine::timeout(STOP_LIMIT, self.end()).await;
        ended.unwrap_or_else(|_| {
            Err(Failure::transient("the server did not end the stream in time")
                .remedy("none is needed: the slot becomes free when the server notices"))
        })
    }

    async fn end(&mut self) -> Result<()> {
        self.wire.enqueue(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.wire.flush().await?;
        loop {
            let frame = self.wire.receive().await?;
            match frame.tag {
                READY_FOR_QUERY_TAG => break,
                ERROR_RESPONSE_TAG => return Err(reported(&frame)),
                _ => {}
            }
        }
        self.wire.enqueue(|out| {
            frontend::terminate(out);
            Ok(())
        })?;
        self.wire.flush().await
    }
}

/// Reads the inside of one `CopyData`.
fn stream_event(mut body: Bytes) -> Result<StreamEvent, Malformed> {
    let mut fields = Fields(&body);
    let event = match fields.u8()? {
        b'w' => {
            let (start, end, sent) = (Lsn(fields.u64()?), Lsn(fields.u64()?), fields.i64()?);
            let header = body.len() - fields.0.len();
            body.advance(header);
            return Ok(StreamEvent::WalData { start, end, sent, body });
        }
        b'k' => {
            StreamEvent::Keepalive { end: Lsn(fields.u64()?), sent: fields.i64()?, reply_requested: fields.u8()? != 0 }
        }
        _ => return Err(Malformed),
    };
    if fields.0.is_empty() { Ok(event) } else { Err(Malformed) }
}

fn standby_status(positions: [Lsn; 3], now: i64, request_reply: bool) -> Bytes {
    let mut status = BytesMut::with_capacity(34);
    status.put_u8(b'r');
    for position in positions {
        status.put_u64(position.0);
    }
    status.put_i64(now);
    status.put_u8(u8::from(request_reply));
    status.freeze()
}

/// For `pg_stat_replication.reply_time` only: nothing is decided by it.
fn postgres_now() -> i64 {
    let since_1970 = SystemTime::from(machine::now()).duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.saturating_sub(POSTGRES_EPOCH).as_micros()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
