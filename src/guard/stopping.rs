//! Finding the backend of a transaction in progress, and stopping it.

use serde_json::{Value as Json, json};

use super::rule::{Action, Rule};
use crate::failure::Result;
use crate::model::Xid;
use crate::postgres::{Session, Source};

/// Looks and stops in one statement, since a server process's number may be another's a moment later.
const BACKEND: &str = "
SELECT pid, usename::text, application_name, client_addr::text, state, query,
       COALESCE(usename::text = ANY($2) OR application_name = ANY($3), false) AS excepted,
       CASE WHEN COALESCE(usename::text = ANY($2) OR application_name = ANY($3), false) THEN NULL
            WHEN $4 = 'cancel' THEN pg_cancel_backend(pid)
            WHEN $4 = 'terminate' THEN pg_terminate_backend(pid) END AS told
FROM pg_stat_activity WHERE backend_xid = $1::text::xid AND datname = current_database()";

/// Whose transaction it is.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    /// For the alert's context: what the source authenticated, and what the client claimed.
    pub(super) said: Json,
    who: String,
    excepted: bool,
    told: bool,
    idle: bool,
}

/// What became of an attempt to stop a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stopped {
    Told(String),
    /// There is nothing to cancel at the moment: it waits for its client.
    Idle(String),
    No(String),
}

/// A session with the source, opened when it is needed.
pub(super) struct Stopper {
    source: Source,
    session: Option<Session>,
}

impl Stopper {
    pub(super) fn new(source: &Source) -> Stopper {
        Stopper { source: source.without_waiting(), session: None }
    }

    pub(super) async fn session(&mut self) -> Result<&Session> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.source.connect("afterimage guard").await?,
        };
        Ok(self.session.insert(session))
    }

    /// Whose a transaction is; `None` where no backend has it.
    pub(super) async fn find(&mut self, xid: Xid) -> Result<Option<Backend>> {
        self.ask(xid, &[], &[], "").await
    }

    /// Does to a transaction what the rule says.
    pub(super) async fn stop(&mut self, xid: Xid, rule: &Rule) -> (Option<Backend>, Stopped) {
        let action = match rule.action {
            Action::Cancel => "cancel",
            Action::Terminate => "terminate",
            Action::Alert => "",
        };
        match self.ask(xid, &rule.except_users, &rule.except_applications, action).await {
            Ok(Some(backend)) => {
                let who = &backend.who;
                let stopped = match (backend.excepted, backend.told) {
                    (true, _) => Stopped::No(format!("{who} is never stopped by this rule")),
                    (false, true) if backend.idle && rule.action == Action::Cancel => {
                        Stopped::Idle(format!("{who} waits inside its transaction; tried again as soon as it goes on"))
                    }
                    (false, true) => Stopped::Told(format!("{who} was told to {}", rule.action)),
                    (false, false) => Stopped::No(format!("{who} was gone when it was told to {}", rule.action)),
                };
                (Some(backend), stopped)
            }
            Ok(None) => (None, Stopped::No("no backend runs it: it has ended, or was prepared".to_owned())),
            Err(failure) => (None, Stopped::No(format!("it could not be stopped: {failure}"))),
        }
    }

    async fn ask(
        &mut self,
        xid: Xid,
        users: &[String],
        applications: &[String],
        action: &str,
    ) -> Result<Option<Backend>> {
        let session = self.session().await?;
        let row = session.query_opt(BACKEND, &[&xid.to_string(), &users, &applications, &action]).await?;
        Ok(row.map(|row| {
            let text = |at: usize| row.get::<_, Option<String>>(at);
            let (pid, user, application, state) = (row.get::<_, i32>(0), text(1), text(2), text(4));
            let user_shown = user.clone().unwrap_or_else(|| "an unknown user".to_owned());
            let application_shown = application.clone().filter(|name| !name.is_empty());
            let who = match application_shown {
                Some(application) => format!("{user_shown} ({application}, server process {pid})"),
                None => format!("{user_shown} (server process {pid})"),
            };
            Backend {
                idle: state.as_deref().is_some_and(|state| state.starts_with("idle")),
                said: json!({ "user": user, "client": text(3), "application": application, "statement": text(5), "pid": pid }),
                who,
                excepted: row.get(6),
                told: row.get::<_, Option<bool>>(7).unwrap_or(false),
            }
        }))
    }
}
