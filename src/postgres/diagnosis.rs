//! What an error of the server, the socket or TLS means for a caller: the one table of categories and remedies.
//!
//! Messages of the server may be in any language, so the decision is by SQLSTATE and, where one
//! SQLSTATE means several things, by the server's routine; never by text.

use std::error::Error;
use std::io;

use crate::failure::{Category, Failure};

use super::frame::{Fields, Malformed};

/// An error or a notice as the server reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerReport {
    pub(super) severity: String,
    pub(super) code: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    routine: Option<String>,
}

impl ServerReport {
    /// Reads the body of an `ErrorResponse` or a `NoticeResponse`.
    pub(super) fn read(body: &[u8]) -> Result<ServerReport, Malformed> {
        let mut fields = Fields(body);
        let mut report = ServerReport::default();
        loop {
            let kind = fields.u8()?;
            if kind == 0 {
                return Ok(report);
            }
            // Before authentication the server cannot know our encoding, so bytes are taken as they come.
            report.set(kind, String::from_utf8_lossy(take_text(&mut fields)?).into_owned());
        }
    }

    fn set(&mut self, kind: u8, value: String) {
        match kind {
            // V is S without translation, and comes after it.
            b'S' | b'V' => self.severity = value,
            b'C' => self.code = value,
            b'M' => self.message = value,
            b'D' => self.detail = Some(value),
            b'H' => self.hint = Some(value),
            b'R' => self.routine = Some(value),
            _ => {}
        }
    }

    fn routine_is(&self, names: &[&str]) -> bool {
        self.routine.as_deref().is_some_and(|routine| names.contains(&routine))
    }

    /// Message, detail, hint and SQLSTATE on one line.
    pub(super) fn line(&self) -> String {
        let mut line = self.message.clone();
        for (label, part) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if let Some(part) = part {
                line.push_str(&format!("; {label}: {part}"));
            }
        }
        line.push_str(&format!(" (SQLSTATE {})", self.code));
        one_line(&line)
    }
}

fn take_text<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], Malformed> {
    let end = fields.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
    let text = fields.bytes(end)?;
    fields.u8()?;
    Ok(text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<&tokio_postgres::error::DbError> for ServerReport {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        ServerReport {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            routine: error.routine().map(str::to_owned),
        }
    }
}

impl From<ServerReport> for Failure {
    fn from(report: ServerReport) -> Failure {
        let (category, remedy) = judge(&report);
        with_remedy(Failure::new(category, report.line()), remedy)
    }
}

fn with_remedy(failure: Failure, remedy: Option<String>) -> Failure {
    match remedy {
        Some(remedy) => failure.remedy(remedy),
        None => failure,
    }
}

/// The category of a server's error and what to do about it.
fn judge(report: &ServerReport) -> (Category, Option<String>) {
    use Category::{Failed, Transient};
    let (category, remedy) = match report.code.as_str() {
        "08P01" => (
            Failed,
            "connect to the PostgreSQL server itself: connection poolers pass neither start-up options nor replication",
        ),
        "57P01" | "57P02" | "57P03" => (Transient, "wait until the server accepts connections again"),
        "57P05" | "25P03" | "25P04" => (Transient, "run the command again"),
        "53300" => (Transient, "free a connection, or raise max_connections or max_wal_senders"),
        "53200" => (Transient, "the server is out of memory: wait, or lower its load"),
        "40001" | "40P01" => (Transient, "run the command again: it met a concurrent transaction"),
        "55P03" => (Transient, "run the command again when the lock's holder is done (pg_locks names it)"),
        "28P01" => (Failed, "check user and password: in the URL, in PGPASSWORD or in the password file"),
        "28000" => (
            Failed,
            "let this user, database and address in by a line in pg_hba.conf, and check that the role exists and may log in",
        ),
        "3D000" | "57P04" => (Failed, "name a database that exists: psql -l lists them"),
        "42501" => return (Failed, Some(privilege_remedy(report))),
        "53100" => (Failed, "the server's disk is full: free space there"),
        "53400" => (Failed, "raise max_replication_slots and restart the server, or drop a slot that nobody uses"),
        "25006" => (Failed, "connect to the primary: this server or session is read-only"),
        "55006" if report.routine_is(&["ReplicationSlotAcquire"]) => return slot_in_use(report),
        "55000" if report.routine_is(WAL_LEVEL_ROUTINES) => (Failed, "set wal_level = logical and restart the server"),
        "55000" if report.routine_is(LOST_SLOT_ROUTINES) => return (Category::Refused, Some(LOST_SLOT.into())),
        "58P01" if report.routine_is(LOST_WAL_ROUTINES) => return (Category::Refused, Some(LOST_SLOT.into())),
        "42704" if report.routine_is(&["ReplicationSlotAcquire"]) => {
            return (Category::Refused, Some(LOST_SLOT.into()));
        }
        "42710" if report.routine_is(&["ReplicationSlotCreate"]) => {
            (Failed, "use the slot that is there, or drop it with pg_drop_replication_slot if nobody does")
        }
        "57014" => (Failed, "run the command again: somebody cancelled its statement"),
        code if code.starts_with("08") => (Transient, "check the network between here and the server"),
        _ => return (Failed, None),
    };
    (category, Some(remedy.to_owned()))
}

const WAL_LEVEL_ROUTINES: &[&str] = &["CheckLogicalDecodingRequirements"];
const LOST_SLOT_ROUTINES: &[&str] =
    &["CreateDecodingContext", "ReplicationSlotAcquire", "RaiseSlotInvalidationError", "StartLogicalReplication"];
const LOST_WAL_ROUTINES: &[&str] = &["WalSndSegmentOpen", "wal_segment_open", "XLogReadDetermineTimeline"];
const LOST_SLOT: &str = "the slot can no longer deliver what follows the watermark: `afterimage doctor` says what is lost, and `afterimage run` resumes with a recorded gap where on_lost_slot allows it";

fn privilege_remedy(report: &ServerReport) -> String {
    if report.routine_is(&["InitPostgres", "CheckSlotPermissions", "check_permissions"]) {
        return "give the role what it needs to read the log: ALTER ROLE … REPLICATION".to_owned();
    }
    "grant the connecting role what the message names, or connect as a role that has it".to_owned()
}

fn slot_in_use(report: &ServerReport) -> (Category, Option<String>) {
    let holder = last_number(&report.message).map_or(String::new(), |pid| format!(" (process {pid} of the server)"));
    (
        Category::Refused,
        Some(format!(
            "stop the other archiver that streams from this slot{holder}, or wait until the server notices that it is gone"
        )),
    )
}

/// The last run of digits: the process id stands there in every translation, after the slot's name.
fn last_number(text: &str) -> Option<&str> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = text[..end]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    Some(&text[start..end])
}

/// What an error of a [`Session`](super::Session)'s client means. Also used by `?` and `.context(…)`.
///
/// A slot that another process holds or that lost its log is
/// [`Category::Refused`]; a server that is not there, restarts or has no connection left is
/// [`Category::Transient`]; everything else is [`Category::Failed`]. The cause holds the server's
/// message, detail and hint on one line, and never a password.
pub fn diagnose(error: &tokio_postgres::Error) -> Failure {
    if let Some(reported) = error.as_db_error() {
        return ServerReport::from(reported).into();
    }
    if error.is_closed() {
        return closed();
    }
    match error.source() {
        Some(cause) => match cause.downcast_ref::<io::Error>() {
            Some(io) => diagnose_io(io),
            None if cause.to_string() == "password missing" => password_missing(),
            None => Failure::failed(one_line(&format!("{error}: {}", chain(cause)))),
        },
        None => Failure::failed(error.to_string()),
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        diagnose(&error)
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The server ended the connection without saying why.
pub(super) fn closed() -> Failure {
    Failure::transient("the server closed the connection").remedy("look into the server's log for the reason")
}

pub(super) fn password_missing() -> Failure {
    Failure::failed("the server asks for a password and none is given")
        .remedy("put it into PGPASSWORD, the password file ~/.pgpass, or the URL")
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Failure {
        Failure::failed(malformed.to_string())
            .remedy("check that the address is a PostgreSQL server's and not a pooler's or a proxy's")
    }
}

/// What an error of a socket, or of TLS over one, means.
pub(super) fn diagnose_io(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return diagnose_tls(tls);
    }
    match error.kind() {
        Kind::UnexpectedEof
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected => Failure::transient(format!("the connection broke: {error}"))
            .remedy("look into the server's log for the reason"),
        // A server's socket file is away while it restarts.
        Kind::ConnectionRefused | Kind::NotFound => Failure::transient(format!("no server listens there: {error}"))
            .remedy("check that the server runs and that host and port are right"),
        Kind::TimedOut
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::AddrNotAvailable => Failure::transient(format!("the server cannot be reached: {error}"))
            .remedy("check host, port, network and firewall"),
        Kind::InvalidData => {
            Failure::failed(error.to_string()).remedy("check that the address is a PostgreSQL server's")
        }
        Kind::PermissionDenied => {
            Failure::failed(error.to_string()).remedy("let this operating-system user use the server's socket")
        }
        _ => Failure::failed(one_line(&chain(error))),
    }
}

/// What a failed look-up of a host name means.
pub(super) fn diagnose_lookup(host: &str, error: &io::Error) -> Failure {
    let cause = format!("host name {host:?} does not resolve: {error}");
    // The resolver's error has no kind of its own; "temporary" (EAI_AGAIN) is when no name server answers.
    let temporary = error.to_string().contains("Temporary failure");
    let failure = if temporary { Failure::transient(cause) } else { Failure::failed(cause) };
    failure.remedy("check the host's name and this machine's name servers")
}

/// What a failed TLS handshake means.
fn diagnose_tls(error: &rustls::Error) -> Failure {
    use rustls::{CertificateError as Certificate, Error as Tls};
    let remedy = match error {
        Tls::InvalidCertificate(Certificate::UnknownIssuer) => {
            "name the certificate of the authority that signed it, or the server's own if it signed itself: sslrootcert=FILE"
        }
        Tls::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            "connect by a name in the certificate, or use sslmode=verify-ca if its issuer signs only for your servers"
        }
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        Tls::InvalidCertificate(_) => "give the server a version 3 certificate whose subjectAltName holds its name",
        Tls::AlertReceived(_) => {
            "the server's log says what it refused; if it asks for a client certificate, name it with sslcert and sslkey"
        }
        Tls::PeerIncompatible(_) => "the server must offer TLS 1.2 or later",
        _ => "check that the address is a PostgreSQL server's, with ssl = on",
    };
    Failure::failed(format!("TLS: {}", one_line(&error.to_string()))).remedy(remedy)
}

#[cfg(test)]
mod tests;
