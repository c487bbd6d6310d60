//! The simulated server's side of the replication stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{Mutex, watch};

use super::connection::{Session, frame, send};
use super::decoding::{Decoder, Sent};
use super::protocol::{self, Bytes, Form, POSTGRES_EPOCH};
use super::world::World;
use crate::machine;
use crate::model::Lsn;

/// Silence after which the server wants to hear something, and after which it gives up: halves of `wal_sender_timeout`.
const PATIENCE: Duration = Duration::from_secs(30);

/// What both directions of one stream know.
struct Shared {
    slot: String,
    /// The client wants no more.
    done: watch::Sender<bool>,
    /// When it was heard last.
    heard: Mutex<tokio::time::Instant>,
}

pub(super) async fn stream(
    world: &Arc<World>,
    session: &mut Session,
    mut stream: DuplexStream,
    sql: &str,
) -> io::Result<DuplexStream> {
    let mut words = sql.split(' ').skip(2);
    let slot = words.next().unwrap_or_default().trim_matches('"').to_owned();
    let from: Lsn = words.nth(1).and_then(|lsn| lsn.parse().ok()).unwrap_or(Lsn::ZERO);
    let is_on = |option: &str| sql.contains(&format!("\"{option}\" '"));
    let (start, two_phase_at) = match activate(world, session, &slot, from, is_on("two_phase")) {
        Ok(begun) => begun,
        Err((code, message)) => {
            let mut out = protocol::error("ERROR", code, &message);
            out.extend(protocol::ready());
            send(world, &mut stream, &out).await?;
            return Ok(stream);
        }
    };
    let form = Form { binary: is_on("binary"), streaming: is_on("streaming"), messages: is_on("messages") };
    send(world, &mut stream, &Bytes::tagged(b'W').u8(0).i16(0).framed()).await?;
    let shared = Shared { slot: slot.clone(), done: watch::Sender::new(false), heard: Mutex::new(machine::instant()) };
    let (mut reading, mut writing) = tokio::io::split(stream);
    {
        let decoder = Decoder::new(form, start, two_phase_at, world.knobs.decoding_bytes, world.knobs.stray_aborts);
        let written = write(world, &shared, decoder, &mut writing);
        let read = read(world, &shared, &mut reading);
        tokio::pin!(written, read);
        tokio::select! {
            biased;
            read = &mut read => read?,
            written = &mut written => return written.and(Err(io::ErrorKind::TimedOut.into())),
        }
        // What is being written is written whole.
        written.await?;
    }
    let mut out = Bytes::tagged(b'c').framed();
    out.extend(protocol::complete("COPY 0"));
    out.extend(protocol::ready());
    send(world, &mut writing, &out).await?;
    if let Some(slot) = world.database().slots.get_mut(&slot) {
        slot.active = None;
    }
    Ok(reading.unsplit(writing))
}

fn activate(
    world: &World,
    session: &Session,
    name: &str,
    from: Lsn,
    two_phase: bool,
) -> Result<(Lsn, Option<Lsn>), (&'static str, String)> {
    let mut database = world.database();
    let slot = database.slots.get_mut(name);
    let slot = slot.ok_or_else(|| ("42704", format!("replication slot \"{name}\" does not exist")))?;
    if let Some(other) = slot.active {
        return Err(("55006", format!("replication slot \"{name}\" is active for PID {other}")));
    }
    if slot.lost {
        return Err(("55000", format!("can no longer get changes from replication slot \"{name}\"")));
    }
    slot.active = Some(session.number);
    // From before that nothing is sent, whatever is asked for.
    let start = slot.confirmed.max(from);
    if two_phase {
        slot.two_phase_at.get_or_insert(start);
    }
    Ok((start, slot.two_phase_at))
}

/// Reads what the client says of how far it is, until it wants to end.
async fn read(world: &World, shared: &Shared, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    loop {
        let (tag, body) = frame(stream).await?;
        *shared.heard.lock().await = machine::instant();
        match tag {
            b'd' if body.first() == Some(&b'r') => {
                let flushed = Lsn(u64::from_be_bytes(body[9..17].try_into().unwrap()));
                world.acknowledged(&shared.slot, flushed);
            }
            b'c' => {
                shared.done.send_replace(true);
                return Ok(());
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Sends the log as it grows, and signs of life.
async fn write(
    world: &World,
    shared: &Shared,
    mut decoder: Decoder,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut grown = world.log.subscribe();
    let mut done = shared.done.subscribe();
    loop {
        if *done.borrow() {
            return Ok(());
        }
        let mut sent = Vec::new();
        let position = {
            let database = world.database();
            let left = database.log.len() - decoder.next;
            for record in &database.log[decoder.next..][..left.min(world.knobs.records_at_once)] {
                decoder.read(record, &mut sent);
            }
            database.log[..decoder.next].last().map_or(Lsn::ZERO, |record| record.end)
        };
        let caught_up = decoder.next == world.database().log.len();
        for Sent { start, body } in sent {
            send(world, stream, &protocol::wal_data(start, now(), &body)).await?;
        }
        if !caught_up {
            continue;
        }
        let behind = world.database().slots.get(&shared.slot).is_some_and(|slot| slot.confirmed < position);
        if behind && world.chance(1, 2) {
            send(world, stream, &protocol::keepalive(position, now(), false)).await?;
        }
        tokio::select! {
            biased;
            _ = done.changed() => return Ok(()),
            _ = grown.changed() => world.delay(world.knobs.network_ms).await,
            () = machine::sleep(PATIENCE / 3) => {
                let silence = machine::instant() - *shared.heard.lock().await;
                if silence > 2 * PATIENCE {
                    return Ok(());
                }
                send(world, stream, &protocol::keepalive(position, now(), silence > PATIENCE)).await?;
            }
        }
    }
}

fn now() -> i64 {
    machine::now().timestamp_micros() - POSTGRES_EPOCH
}
