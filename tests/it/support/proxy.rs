//! A TCP proxy on loopback, which breaks as networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Passes connections on until it is told otherwise. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    wire: Arc<Wire>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections stay open and bring nothing.
    Stalled,
    /// Connections break, new ones too.
    Cut,
}

#[derive(Debug)]
struct Wire {
    target: u16,
    state: Mutex<State>,
    changed: Condvar,
    open: Mutex<Vec<TcpStream>>,
    loss: Mutex<Option<Loss>>,
}

/// What is lost of a statement, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    /// Bytes by which it is known where it is sent to be executed at once.
    pub(crate) statement: &'static str,
    /// It is executed, and the answer is lost; else what would execute it is.
    pub(crate) executed: bool,
}

impl Proxy {
    /// To a port of this machine.
    pub(crate) fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Wire {
            target,
            state: Mutex::new(State::Whole),
            changed: Condvar::new(),
            open: Mutex::default(),
            loss: Mutex::default(),
        };
        let wire = Arc::new(wire);
        let serving = Arc::clone(&wire);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                serving.connect(client);
            }
        });
        Proxy { port, wire }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn cut(&self) {
        self.wire.set(State::Cut);
        for stream in self.wire.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn stall(&self) {
        self.wire.set(State::Stalled);
    }

    /// Breaks the connection that prepares the statement next, at its execution.
    pub(crate) fn lose(&self, loss: Loss) {
        *self.wire.loss.lock().unwrap() = Some(loss);
    }

    pub(crate) fn heal(&self) {
        self.wire.set(State::Whole);
    }
}

impl Wire {
    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        let state = self.state.lock().unwrap();
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        if *state == State::Cut {
            return;
        }
        // Under the lock of the state, so that a cut finds every connection that it must break.
        let mut open = self.open.lock().unwrap();
        // What has ended on both sides has no peer any more, and holds a descriptor.
        open.retain(|socket| socket.peer_addr().is_ok());
        open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        drop(open);
        let lost = Arc::new(AtomicBool::new(false));
        self.pump(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&lost), true);
        self.pump(server, client, lost, false);
    }

    /// Passes on what comes; `lost` says that nothing more goes to the client.
    fn pump(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, lost: Arc<AtomicBool>, to_server: bool) {
        let wire = Arc::clone(self);
        thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                wire.wait_while_stalled();
                if to_server {
                    let is_it = |loss: &mut Loss| {
                        let wanted = loss.statement.as_bytes();
                        bytes[..length].windows(wanted.len()).any(|found| found == wanted)
                    };
                    let found = wire.loss.lock().unwrap().take_if(is_it);
                    if let Some(Loss { executed, .. }) = found {
                        lost.store(true, Ordering::SeqCst);
                        if executed && to.write_all(&bytes[..length]).is_ok() {
                            // Long enough for what a test commits.
                            thread::sleep(Duration::from_secs(1));
                        }
                        // Both halves: the client must see the end, and the server too.
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                        return;
                    }
                } else if lost.load(Ordering::SeqCst) {
                    continue;
                }
                if to.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
            // The end of one direction, as the other side sees it.
            let _ = to.shutdown(Shutdown::Write);
        });
    }

    fn wait_while_stalled(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| *state == State::Stalled).unwrap());
    }
}
