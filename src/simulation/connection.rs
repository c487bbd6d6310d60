//! One connection to the simulated server, at the level of bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use super::catalogue::{self, SqlError};
use super::database::{SYSTEM_IDENTIFIER, Slot};
use super::model::State;
use super::process::Process;
use super::protocol::{self, Bytes};
use super::walsender;
use super::world::World;

/// What a session has.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) major: u32,
    /// What its transaction sees, where that is set.
    pub(super) snapshot: Option<State>,
    statements: BTreeMap<String, String>,
    /// The statement that is bound, and its parameters.
    bound: Option<(String, Vec<Option<Vec<u8>>>)>,
    /// After an error everything up to the next Sync is skipped.
    failed: bool,
}

/// Takes a connection in, unless the server is down.
pub(super) async fn accept(world: &Arc<World>, process: &Arc<Process>, stream: DuplexStream) -> io::Result<()> {
    world.delay(3).await;
    if !world.is_up() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (world, mut closed, mut cuts) = (Arc::clone(world), process.closed.subscribe(), world.cuts.subscribe());
    cuts.mark_unchanged();
    tokio::spawn(async move {
        let number = world.next_connection();
        tokio::select! {
            biased;
            _ = cuts.changed() => {}
            _ = closed.wait_for(|closed| *closed) => {}
            // However it ends, the client sees that it has.
            _ = serve(&world, number, stream) => {}
        }
        world.database().disconnected(number);
    });
    Ok(())
}

pub(super) async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let length = stream.read_i32().await?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// The texts of a body, each ended by a zero byte.
fn texts(body: &[u8]) -> Vec<String> {
    body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

async fn serve(world: &Arc<World>, number: u64, mut stream: DuplexStream) -> io::Result<()> {
    let length = stream.read_i32().await?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    let major = world.knobs.major;
    let mut out = Bytes::tagged(b'R').i32(0).framed();
    let version = format!("{major}.4");
    for (name, value) in [("server_version", version.as_str()), ("client_encoding", "UTF8"), ("in_hot_standby", "off")]
    {
        out.extend(Bytes::tagged(b'S').text(name).text(value).framed());
    }
    out.extend(Bytes::tagged(b'K').i32(number as i32).i32(1).framed());
    out.extend(protocol::ready());
    send(world, &mut stream, &out).await?;
    let mut session =
        Session { number, major, snapshot: None, statements: BTreeMap::new(), bound: None, failed: false };
    let mut answer = Vec::new();
    loop {
        let (tag, body) = frame(&mut stream).await?;
        match tag {
            b'X' => return Ok(()),
            b'Q' => {
                let sql = texts(&body).swap_remove(0);
                stream = simple(world, &mut session, stream, &sql).await?;
            }
            b'S' => {
                session.failed = false;
                answer.extend(protocol::ready());
                send(world, &mut stream, &std::mem::take(&mut answer)).await?;
            }
            _ if session.failed => {}
            _ => {
                if let Err((code, message)) = session.extended(world, tag, &body, &mut answer) {
                    answer.extend(protocol::error("ERROR", code, &message));
                    session.failed = true;
                }
            }
        }
    }
}

/// Sends bytes in one piece or several, after a while.
pub(super) async fn send(world: &World, stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    world.delay(2).await;
    world.trace("send", bytes);
    stream.write_all(bytes).await
}

impl Session {
    /// A message of the extended query protocol.
    fn extended(&mut self, world: &World, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), SqlError> {
        match tag {
            b'P' => {
                let parts = texts(body);
                if parts[1].contains(".installation()") {
                    return Err(("42883", "function does not exist".to_owned()));
                }
                catalogue::types(&parts[1]).inspect_err(|(_, message)| world.violation(message.clone()))?;
                self.statements.insert(parts[0].clone(), parts[1].clone());
                out.extend(Bytes::tagged(b'1').framed());
            }
            b'D' => {
                let sql = &self.statements[&texts(&body[1..])[0]];
                let (parameters, columns) = catalogue::types(sql)?;
                let head = Bytes::tagged(b't').i16(parameters.len() as i16);
                out.extend(parameters.iter().fold(head, |bytes, oid| bytes.u32(*oid)).framed());
                out.extend(row_description(columns));
            }
            b'B' => {
                self.bound = Some(self.bind(body));
                out.extend(Bytes::tagged(b'2').framed());
            }
            b'E' => {
                let Some((sql, parameters)) = self.bound.take() else { return Ok(()) };
                let rows = catalogue::perform(&sql, &parameters, self, &mut world.database())?;
                world.log_grew();
                let count = rows.len();
                for row in rows {
                    out.extend(data_row(&row));
                }
                out.extend(protocol::complete(&format!("SELECT {count}")));
            }
            b'C' => out.extend(Bytes::tagged(b'3').framed()),
            _ => {}
        }
        Ok(())
    }

    fn bind(&self, body: &[u8]) -> (String, Vec<Option<Vec<u8>>>) {
        let portal = body.iter().position(|byte| *byte == 0).unwrap() + 1;
        let name = body[portal..].iter().position(|byte| *byte == 0).unwrap();
        let statement = String::from_utf8_lossy(&body[portal..portal + name]).into_owned();
        let mut rest = &body[portal + name + 1..];
        let mut number = |bytes: usize| {
            let (head, tail) = rest.split_at(bytes);
            rest = tail;
            head.to_vec()
        };
        let short = |bytes: Vec<u8>| i16::from_be_bytes(bytes.try_into().unwrap());
        let formats = short(number(2));
        number(2 * formats as usize);
        let count = short(number(2));
        let parameters = (0..count).map(|_| {
            let length = i32::from_be_bytes(number(4).try_into().unwrap());
            (length >= 0).then(|| number(length as usize))
        });
        let parameters = parameters.collect();
        (self.statements[&statement].clone(), parameters)
    }
}

fn row_description(columns: &[u32]) -> Vec<u8> {
    let head = Bytes::tagged(b'T').i16(columns.len() as i16);
    let column = |bytes: Bytes, oid: &u32| bytes.text("c").i32(0).i16(0).u32(*oid).i16(-1).i32(-1).i16(1);
    columns.iter().fold(head, column).framed()
}

fn data_row(row: &[Option<Vec<u8>>]) -> Vec<u8> {
    let head = Bytes::tagged(b'D').i16(row.len() as i16);
    row.iter().fold(head, |bytes, cell| bytes.sized(cell.as_deref())).framed()
}

/// A statement or command of the simple protocol; gives the stream back unless that is at its end.
async fn simple(
    world: &Arc<World>,
    session: &mut Session,
    mut stream: DuplexStream,
    sql: &str,
) -> io::Result<DuplexStream> {
    let mut out = Vec::new();
    if sql == "IDENTIFY_SYSTEM" {
        let position = world.database().position().to_string();
        let row = [SYSTEM_IDENTIFIER.to_string(), "1".into(), position, super::database::DATABASE.into()];
        out.extend(text_rows(&[row.map(Some).to_vec()]));
    } else if let Some(rest) = sql.strip_prefix("CREATE_REPLICATION_SLOT ") {
        match create_slot(world, session, rest).await {
            Ok(row) => out.extend(text_rows(&[row])),
            Err((code, message)) => out.extend(protocol::error("ERROR", code, &message)),
        }
    } else if sql.starts_with("START_REPLICATION ") {
        return walsender::stream(world, session, stream, sql).await;
    } else if sql.starts_with("COPY ") {
        copy(world, session, sql, &mut out);
    } else if let Err((code, message)) = session.statement(world, sql) {
        out.extend(protocol::error("ERROR", code, &message));
    } else {
        out.extend(protocol::complete("SELECT 0"));
    }
    out.extend(protocol::ready());
    send(world, &mut stream, &out).await?;
    Ok(stream)
}

fn text_rows(rows: &[Vec<Option<String>>]) -> Vec<u8> {
    let mut out = row_description(&vec![25; rows.first().map_or(0, Vec::len)]);
    for row in rows {
        let cells: Vec<Option<Vec<u8>>> = row.iter().map(|cell| cell.clone().map(String::into_bytes)).collect();
        out.extend(data_row(&cells));
    }
    out.extend(protocol::complete("SELECT"));
    out
}

/// The parts of a text between single quotes.
fn quoted(sql: &str) -> Vec<&str> {
    sql.split('\'').skip(1).step_by(2).collect()
}

impl Session {
    /// SQL that gives no rows that anybody reads.
    fn statement(&mut self, world: &World, sql: &str) -> Result<(), SqlError> {
        let mut database = world.database();
        if sql.contains("SET TRANSACTION SNAPSHOT") {
            let name = quoted(sql)[0];
            let found = database.snapshots.get(name).cloned();
            self.snapshot = Some(found.ok_or(("22023", format!("invalid snapshot identifier: \"{name}\"")))?);
        } else if sql.contains("CREATE EVENT TRIGGER") {
            database.captures_ddl = true;
        } else if sql.contains("CREATE PUBLICATION") || sql.contains("ALTER PUBLICATION") {
            database.publications.insert("afterimage".to_owned());
        } else if sql.contains("pg_copy_logical_replication_slot") {
            let names = quoted(sql);
            let copied = database.slots.get(names[0]).cloned();
            let copied = copied.ok_or(("42704", format!("replication slot \"{}\" does not exist", names[0])))?;
            if database.slots.contains_key(names[1]) {
                return Err(("42710", format!("replication slot \"{}\" already exists", names[1])));
            }
            database.slots.insert(names[1].to_owned(), Slot { temporary: None, active: None, ..copied });
        } else {
            let harmless = ["SET ", "BEGIN", "COMMIT", "ROLLBACK", "LOCK TABLE", "SELECT set_config", "SELECT"];
            if !harmless.iter().any(|words| sql.starts_with(words)) {
                let message = format!("the simulated server does not know this statement: {sql}");
                world.violation(message.clone());
                return Err(("0A000", message));
            }
        }
        Ok(())
    }
}

/// Waits for the transactions that run, and exports what is committed then.
async fn create_slot(world: &World, session: &Session, rest: &str) -> Result<Vec<Option<String>>, SqlError> {
    let name = rest.split(' ').next().unwrap_or_default().trim_matches('"').to_owned();
    if world.database().slots.contains_key(&name) {
        return Err(("42710", format!("replication slot \"{name}\" already exists")));
    }
    // What runs is written down (`LogStandbySnapshot`), so no two slots begin at the same place.
    world.database().write_other();
    let running: Vec<u32> = world.database().running.keys().copied().collect();
    while running.iter().any(|xid| world.database().running.contains_key(xid)) {
        crate::machine::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut database = world.database();
    let (position, state) = (database.position(), database.state.clone());
    let temporary = rest.contains("TEMPORARY").then_some(session.number);
    let slot =
        Slot { confirmed: position, persisted: position, active: None, temporary, lost: false, two_phase_at: None };
    database.slots.insert(name.clone(), slot);
    let snapshot = format!("{:08X}-1", session.number);
    database.snapshots.insert(snapshot.clone(), state);
    Ok(vec![Some(name), Some(position.to_string()), Some(snapshot), Some("pgoutput".to_owned())])
}

/// `COPY (SELECT … FROM ONLY table) TO STDOUT (FORMAT binary)`: every column, in order.
fn copy(world: &World, session: &Session, sql: &str, out: &mut Vec<u8>) {
    let name = sql.split("FROM ONLY ").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
    let name = name.rsplit('.').next().unwrap_or_default().trim().trim_matches('"');
    let state = session.snapshot.clone().unwrap_or_else(|| world.database().state.clone());
    let Some(table) = state.values().find(|table| table.shape.name == name) else {
        out.extend(protocol::error("ERROR", "42P01", &format!("relation {name} does not exist")));
        return;
    };
    out.extend(Bytes::tagged(b'H').u8(1).i16(0).framed());
    let mut header = Bytes::default().raw(b"PGCOPY\n\xff\r\n\0").i32(0).i32(0);
    for row in table.rows.values() {
        let cells = table.shape.columns.iter().zip(row);
        let bytes = cells.fold(std::mem::take(&mut header).i16(row.len() as i16), |bytes, (column, value)| {
            bytes.sized(value.as_ref().map(|text| column.kind.binary(text)).as_deref())
        });
        out.extend(protocol::copy_data(&bytes.0));
    }
    out.extend(protocol::copy_data(&std::mem::take(&mut header).i16(-1).0));
    out.extend(Bytes::tagged(b'c').framed());
    out.extend(protocol::complete("COPY"));
}
