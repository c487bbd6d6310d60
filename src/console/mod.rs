//! The web console: for the moment when people would rather look than read. It never writes.
//!
//! ```text
//!   http ── admission ── api ─┬─ view: the archive as this visitor may see it
//!            (who asks)       ├─ follow ── rollup: how much was changed when
//!                             └─ surroundings: what needs a source (plans, health)
//!          assets (web/dist)
//! ```
//!
//! Nothing is there to write with: the archive is opened for reading, a plan is made and not performed. What a visitor sees
//! is what the wire endpoint would show ([`crate::query::RestrictedTables`]); the archive's own logs, and so the timeline's
//! counts by transaction, are for those from whom nothing is kept back.

mod admission;
mod api;
mod assets;
mod events;
mod follow;
mod rollup;
mod trouble;
mod view;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::Semaphore;

pub use admission::{AdmissionSettings, ConsoleUser};

use crate::archive::Archive;
use crate::failure::Result;
use crate::http::{Answer, Method, Request};
use crate::model::Lsn;
use crate::query::Session;
use admission::{Admission, Turned};
use events::Events;
use follow::Followed;
use trouble::Trouble;

/// Questions that read rows at a time; others wait.
const READING: usize = 4;

/// What the console cannot know by the archive alone.
#[async_trait::async_trait]
pub trait Surroundings: Send + Sync {
    /// Whether a source is named, so that plans can be made.
    fn has_source(&self) -> bool;

    /// The vitals of source and archive, what was found, and the tables: `vitals`, `findings`, `tables`.
    async fn health(&self) -> Result<Json>;

    /// What undoing a transaction would do, as `afterimage incident --json` says it, and in `plan` as a restore does. Writes
    /// nothing that lasts.
    async fn plan(&self, transaction: Lsn) -> Result<Json>;
}

/// How the console is to be.
#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    pub admission: AdmissionSettings,
    /// Where it listens, and whether what travels is encrypted.
    pub address: IpAddr,
    pub encrypted: bool,
    /// The longest that a question may take.
    pub statement_timeout: Duration,
    /// Columns that name the tenant.
    pub tenant_columns: Vec<String>,
}

/// See the module's documentation.
pub struct Console {
    archive: Archive,
    session: Session,
    admission: Admission,
    surroundings: Arc<dyn Surroundings>,
    followed: Arc<Followed>,
    events: Events,
    statement_timeout: Duration,
    tenant_columns: Vec<String>,
    reading: Semaphore,
}

impl Console {
    /// A console over an archive; the session is one of its own kind, whose limits hold here too.
    ///
    /// # Errors
    /// Usage where others than this machine reach it and nobody is asked who they are.
    pub fn new(
        archive: Archive,
        session: Session,
        settings: ConsoleSettings,
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Console> {
        let admission = Admission::new(settings.admission, settings.address, settings.encrypted)?;
        Ok(Console {
            followed: Followed::new(&archive),
            events: Events::default(),
            archive,
            session,
            admission,
            surroundings,
            statement_timeout: settings.statement_timeout,
            tenant_columns: settings.tenant_columns,
            reading: Semaphore::new(READING),
        })
    }

    /// The answer to a request; `None` where there is nothing.
    pub async fn answer(&self, request: &Request) -> Option<Answer> {
        let is_api = request.path.starts_with("/api/");
        match self.admission.is_ours(request) {
            Err(Turned::WrongHost) => {
                return Some(Answer::text("421 Misdirected Request", "this console is reached as localhost\n"));
            }
            // A link from elsewhere may open a page, which asks by itself then.
            Err(_) if is_api => {
                return Some(Answer::text("403 Forbidden", "only the console's own pages may ask\n"));
            }
            _ => {}
        }
        if is_api {
            return api::answer(self, request).await;
        }
        match request.method {
            Method::Post => Some(Answer::text("405 Method Not Allowed", "only GET is answered\n")),
            Method::Get | Method::Head => assets::asset(&request.path),
        }
    }

    /// Lets a question that reads rows take its turn, and as long as it may.
    async fn read<T>(&self, question: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        // It is never closed.
        let _turn = self.reading.acquire().await;
        match tokio::time::timeout(self.statement_timeout, question).await {
            Ok(answer) => answer,
            Err(_) => Err(Trouble::new(
                "504 Gateway Timeout",
                format!("it took longer than {} s", self.statement_timeout.as_secs()),
                "ask for less: a shorter range, one table; or raise statement_timeout in [serve]",
            )),
        }
    }
}
