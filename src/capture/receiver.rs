//! The socket's reader: hands on what arrives in batches, and tells the source what is durable.
//!
//! It never decodes. A status goes out when the durable position has moved, when the source asks, and
//! from a timer, also while the next stage is busy: otherwise the source would take us for dead.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::freshness::FreshnessMeter;
use super::heartbeat::Reached;
use super::spool::{Hold, acknowledgeable};
use crate::archive::DurableLsn;
use crate::failure::{Failure, Result};
use crate::machine::{Interval, interval};
use crate::model::Lsn;
use crate::postgres::{ReplicationStream, StreamEvent};

/// How often the source hears from us at least. Its default patience is 60 s.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Events handed on at once, at most.
const BATCH_EVENTS: usize = 2048;
/// Bytes handed on at once, at most, a single larger event aside.
const BATCH_BYTES: usize = 1 << 20;

/// Events in the order in which they arrived.
pub(super) type EventBatch = Vec<StreamEvent>;

/// Reads until the next stage hangs up or the source ends the stream.
///
/// # Errors
/// What the connection says; transient where it broke.
pub(super) async fn receive(
    mut stream: ReplicationStream,
    events: mpsc::Sender<EventBatch>,
    durable: watch::Receiver<DurableLsn>,
    holds: watch::Receiver<Vec<Hold>>,
    freshness: Arc<FreshnessMeter>,
    reached: Reached,
) -> Result<()> {
    let mut sender = Acknowledger { durable, holds, freshness, reached, timer: status_timer(), received: Lsn::ZERO };
    loop {
        let Some(batch) = next_batch(&mut stream, &mut sender, &events).await? else { break };
        sender.reached.received(sender.received);
        if !sender.hand_on(&mut stream, &events, batch).await? {
            break;
        }
    }
    // What becomes durable last is acknowledged before the connection goes.
    while sender.durable.changed().await.is_ok() {}
    sender.send(&mut stream).await?;
    stream.stop().await
}

fn status_timer() -> Interval {
    let mut timer = interval(STATUS_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Waits for one event and takes what else is buffered; `None` when nobody wants more.
async fn next_batch(
    stream: &mut ReplicationStream,
    sender: &mut Acknowledger,
    events: &mpsc::Sender<EventBatch>,
) -> Result<Option<EventBatch>> {
    let mut batch = EventBatch::new();
    let mut bytes = 0;
    loop {
        if batch.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES {
            return Ok(Some(batch));
        }
        let event = if batch.is_empty() {
            tokio::select! {
                // A status goes out however fast messages come.
                biased;
                due = sender.due() => match due {
                    Due::Status => {
                        sender.send(stream).await?;
                        continue;
                    }
                    Due::End => return Ok(None),
                },
                () = events.closed() => return Ok(None),
                event = stream.next() => Some(event?.ok_or_else(ended)?),
            }
        } else {
            stream.buffered()?
        };
        let Some(event) = event else { return Ok(Some(batch)) };
        if batch.is_empty() {
            sender.note_arrival(&event);
        }
        match &event {
            StreamEvent::WalData { end, body, .. } => {
                bytes += body.len();
                sender.received = sender.received.max(*end);
            }
            StreamEvent::Keepalive { end, reply_requested, .. } => {
                sender.received = sender.received.max(*end);
                if *reply_requested {
                    sender.send(stream).await?;
                }
            }
            StreamEvent::Notice(_) => {}
        }
        batch.push(event);
    }
}

fn ended() -> Failure {
    Failure::transient("the source ended the replication stream")
        .remedy("it is being shut down; capture goes on when it is back")
}

/// Says what is durable, and nothing more.
struct Acknowledger {
    durable: watch::Receiver<DurableLsn>,
    holds: watch::Receiver<Vec<Hold>>,
    freshness: Arc<FreshnessMeter>,
    reached: Reached,
    timer: Interval,
    received: Lsn,
}

impl Acknowledger {
    fn note_arrival(&self, event: &StreamEvent) {
        match event {
            StreamEvent::WalData { sent, .. } | StreamEvent::Keepalive { sent, .. } => self.freshness.arrived(*sent),
            StreamEvent::Notice(_) => {}
        }
    }

    /// Waits until there is something to do.
    async fn due(&mut self) -> Due {
        tokio::select! {
            biased;
            _ = self.timer.tick() => Due::Status,
            changed = self.durable.changed() => if changed.is_ok() { Due::Status } else { Due::End },
        }
    }

    async fn send(&mut self, stream: &mut ReplicationStream) -> Result<()> {
        let durable = *self.durable.borrow_and_update();
        let durable = acknowledgeable(durable, &self.holds.borrow()).lsn();
        stream.send_status(self.received.max(durable), durable, durable, false).await
    }

    /// Passes a batch on, however long that takes; false where nobody wants it.
    async fn hand_on(
        &mut self,
        stream: &mut ReplicationStream,
        events: &mpsc::Sender<EventBatch>,
        batch: EventBatch,
    ) -> Result<bool> {
        loop {
            let permit = tokio::select! {
                biased;
                due = self.due() => match due {
                    Due::Status => {
                        self.send(stream).await?;
                        continue;
                    }
                    Due::End => return Ok(false),
                },
                permit = events.reserve() => permit,
            };
            return Ok(permit.map(|permit| permit.send(batch)).is_ok());
        }
    }
}

enum Due {
    /// A status should be sent.
    Status,
    /// Nothing will become durable any more, for a reason that the committer knows.
    End,
}
