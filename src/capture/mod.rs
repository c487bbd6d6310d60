//! Reading the source into the archive.
//!
//! ```text
//!           messages         whole               batches             files, then
//!                         transactions                                 commits
//!  receiver ───────► spool ───────► assembler ──────────► committer ───────────► archive
//!     ▲                              (rows into            (encodes,                │
//!     │                               columns)              publishes)              │
//!     └── acknowledges ◄───────────── DurableLsn ◄──────────────────────────────────┘
//! ```
//!
//! Beside the spool an encoder prepares the files of large transactions while these run; where they commit as expected,
//! the files go on in place of their messages.
//!
//! The queues between the stages are short, so memory is bounded and a slow store slows the source's
//! walsender, never the source's sessions. Only a [`crate::archive::DurableLsn`] can be acknowledged.

mod add;
mod addition;
mod assembler;
mod base_image;
pub mod catalog;
mod committer;
mod context;
mod copy_ranges;
mod decoder;
mod definitions;
mod early;
mod fresh;
mod freshness;
mod heartbeat;
mod init;
mod known;
mod observer;
mod open_file;
mod privileges;
mod receiver;
mod resent;
mod run;
mod settings;
mod slot_bound;
pub mod source_check;
mod spool;
mod successor;
mod synchronous;
mod terms;

pub use add::{Asked, add, begins_at, captures_ddl};
pub use base_image::{ImageProgress, StagedImage};
pub use context::{ContextReport, ContextWish, LITERALS};
pub use fresh::{Fresh, images_anew};
pub use init::{Chosen, InitReport, InitSteps, init};
pub use observer::{Samples, sample_sequences};
pub use run::{LostSlot, Outcome, RunEvents, SlotState, require_same_source, run, slot_state};
pub use settings::{CaptureSettings, OnLostSlot};
pub use slot_bound::bound_slot;
