//! One run of the program: what it does with the world goes through here, and ends here when it is killed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Notify, watch};

use super::connection;
use super::world::World;
use crate::postgres::{Dial, Dialer, Pipe, Source};

/// A process that may be killed at any of its steps. What is left of it afterwards goes on in memory, as tasks that nobody
/// hears of: it reaches neither the source nor the store.
pub(super) struct Process {
    pub(super) world: Weak<World>,
    pub(super) number: u64,
    dead: AtomicBool,
    /// Its network leads nowhere, and it has not noticed.
    cut_off: AtomicBool,
    steps: AtomicU64,
    /// The step at which it is killed; zero for none.
    dies_at: AtomicU64,
    pub(super) died: Notify,
    /// Its connections, for the server: they are closed when this turns true.
    pub(super) closed: watch::Sender<bool>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.number)
    }
}

impl Process {
    pub(super) fn start(world: &Arc<World>, number: u64, dies_at: u64) -> Arc<Process> {
        Arc::new(Process {
            world: Arc::downgrade(world),
            number,
            dead: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            dies_at: AtomicU64::new(dies_at),
            died: Notify::new(),
            closed: watch::Sender::new(false),
        })
    }

    /// Takes one step with the outside; false where there is none any more.
    pub(super) fn step(&self) -> bool {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if self.dies_at.load(Ordering::Relaxed) == step {
            self.kill();
        }
        !self.is_dead()
    }

    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn outlives_all(&self) {
        self.dies_at.store(0, Ordering::Relaxed);
    }

    /// The server sees its connections end; the process hears nothing.
    pub(super) fn cut_off(&self) {
        self.cut_off.store(true, Ordering::Relaxed);
        self.closed.send_replace(true);
    }

    pub(super) fn source(self: &Arc<Self>) -> Source {
        Source::simulated(Dialer(Arc::new(Line(Arc::clone(self)))), super::database::DATABASE)
    }
}

/// The way to the server.
struct Line(Arc<Process>);

impl Dial for Line {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Pipe>>> {
        async {
            let world = self.0.world.upgrade().ok_or(io::ErrorKind::ConnectionRefused)?;
            if !self.0.step() || self.0.cut_off.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let (ours, theirs) = tokio::io::duplex(world.pipe_bytes());
            connection::accept(&world, &self.0, theirs).await?;
            Ok(Box::new(Wire { stream: ours, process: Arc::clone(&self.0) }) as Box<dyn Pipe>)
        }
        .boxed()
    }
}

#[derive(Debug)]
struct Wire {
    stream: DuplexStream,
    process: Arc<Process>,
}

impl Wire {
    fn leads_nowhere(&self) -> bool {
        self.process.is_dead() || self.process.cut_off.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.leads_nowhere() {
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() && (self.leads_nowhere() || !self.process.step()) {
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.leads_nowhere() || !self.process.step() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Pipe for Wire {}
