//! The source connection: sockets only.
//!
//! ```text
//!   conninfo ── passfile          what the user wrote, and libpq's environment
//!        └──────┬──────┘
//!             Source              whom to connect to, with which password and TLS rules
//!               │
//!           transport ── tls      one way to open a socket, for both kinds of connection
//!          ┌────┴──────┐
//!       Session   ReplicationConnection, CopyConnection ─ wire ─ frame
//!          │           │
//!     copy, message  ReplicationStream
//! ```
//!
//! A session is tokio-postgres over our transport; the replication connection speaks the protocol
//! itself, since no released client knows the copy in both directions. Both reach the server by the
//! same rules (hosts, timeouts, TLS, authentication) and run with the same [`PINNED_SETTINGS`], so
//! that a value read by a query and the same value in the log have the same text.
//!
//! Nothing here reads what a change says: the stream hands on bytes. Errors are
//! [`Failure`](crate::failure::Failure)s by the one table in `diagnosis`.

mod authentication;
mod conninfo;
mod copy;
mod copy_out;
mod diagnosis;
mod frame;
mod message;
mod passfile;
mod replication;
mod session;
mod settings;
mod source;
mod throttle;
mod timeline;
mod tls;
mod transport;
mod wire;

pub use copy::{CopyIn, copy_in};
pub use copy_out::CopyConnection;
pub use diagnosis::diagnose;
pub use message::{MessageKind, emit_message};
pub use replication::{
    CreatedSlot, ReplicationConnection, ReplicationStream, StreamEvent, SystemIdentity, begin_snapshot,
};
pub use session::{Canceller, Session};
pub use settings::{PINNED_SETTINGS, RAW_WHERE_UNKNOWN};
pub use source::Source;
pub use throttle::Throttle;
pub use timeline::Timeline;
#[cfg(test)]
pub(crate) use transport::{Dial, Dialer, Pipe};
