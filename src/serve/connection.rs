//! One connection: logging in, then one message after the other until the client goes.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use bytes::BufMut;
use datafusion::scalar::ScalarValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{self, Rows};
use super::catalogue;
use super::error::SqlError;
use super::frame::{Fields, Message, Wire, malformed, put_text};
use super::login;
use super::prepared::{Portal, Portion, Prepared};
use super::statement::{Kind, Statement, statements};
use super::{Endpoint, SERVER_VERSION, User};
use crate::query::{ArchivedTables, QueryResult, RestrictedTables, Tables};

/// Prepared statements and portals that one connection may keep.
const MOST_PREPARED: usize = 1000;

/// Where a connection stands between statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    Failed,
}

/// A client that is logged in.
pub(super) struct Connection {
    wire: Wire,
    endpoint: Arc<Endpoint>,
    user: Arc<User>,
    transaction: Transaction,
    /// The view of an open transaction, from its first statement on.
    view: Option<Arc<dyn Tables>>,
    settings: BTreeMap<String, String>,
    prepared: HashMap<String, Prepared>,
    portals: HashMap<String, Portal>,
    /// Changes when the client wants the statement that runs to end.
    cancelled: watch::Receiver<u64>,
}

impl Connection {
    pub(super) fn new(
        wire: Wire,
        endpoint: Arc<Endpoint>,
        user: Arc<User>,
        cancelled: watch::Receiver<u64>,
    ) -> Connection {
        Connection {
            wire,
            endpoint,
            user,
            transaction: Transaction::None,
            view: None,
            settings: BTreeMap::new(),
            prepared: HashMap::new(),
            portals: HashMap::new(),
            cancelled,
        }
    }

    /// Answers until the client goes.
    pub(super) async fn serve(mut self) -> Result<(), SqlError> {
        let ended = self.answer().await;
        if let Err(error) = &ended {
            login::tell(&mut self.wire, error).await;
        }
        ended
    }

    async fn answer(&mut self) -> Result<(), SqlError> {
        self.ready().await?;
        // After an error of an extended query everything is skipped up to the next Sync.
        let mut skipping = false;
        while let Some(message) = self.wire.receive().await? {
            match message.tag {
                b'X' => return Ok(()),
                b'S' => {
                    skipping = false;
                    if self.transaction == Transaction::None {
                        self.portals.clear();
                    }
                    self.ready().await?;
                }
                b'Q' => {
                    skipping = false;
                    if let Err(error) = self.simple(Fields(message.body).text()?).await {
                        self.failed(&error)?;
                    }
                    self.ready().await?;
                }
                _ if skipping => {}
                _ => {
                    if let Err(error) = self.extended(message).await {
                        self.failed(&error)?;
                        self.wire.flush().await?;
                        skipping = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: &SqlError) -> Result<(), SqlError> {
        if error.is_fatal() {
            return Err(error.clone());
        }
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        self.wire.put(b'E', |out| error.write(out));
        Ok(())
    }

    /// Says that the next statement may come.
    async fn ready(&mut self) -> Result<(), SqlError> {
        let status = match self.transaction {
            Transaction::None => b'I',
            Transaction::Open => b'T',
            Transaction::Failed => b'E',
        };
        self.wire.put(b'Z', |out| out.put_u8(status));
        self.wire.flush().await
    }

    async fn simple(&mut self, text: String) -> Result<(), SqlError> {
        for statement in statements(&text)? {
            let deadline = self.deadline();
            match self.run(&statement, Vec::new(), deadline).await? {
                Outcome::Done(tag) => self.complete(tag),
                Outcome::Empty => self.wire.put(b'I', |_| {}),
                Outcome::Rows(result) => {
                    answer::describe(&mut self.wire, &result.schema, &[]);
                    let mut portal = Portal::over(result, Vec::new());
                    self.send(&mut portal, 0, deadline).await?;
                }
            }
        }
        Ok(())
    }

    async fn extended(&mut self, message: Message) -> Result<(), SqlError> {
        let mut fields = Fields(message.body);
        match message.tag {
            b'P' => self.parse(&mut fields),
            b'B' => self.bind(&mut fields),
            b'D' => self.describe(&mut fields).await,
            b'E' => self.execute(&mut fields).await,
            b'C' => {
                match (fields.byte()?, fields.text()?) {
                    (b'S', name) => drop(self.prepared.remove(&name)),
                    (_, name) => drop(self.portals.remove(&name)),
                }
                self.wire.put(b'3', |_| {});
                Ok(())
            }
            b'H' => self.wire.flush().await,
            b'd' | b'c' | b'f' => Ok(()),
            _ => Err(SqlError::fatal("08P01", format!("invalid frontend message type {}", message.tag))),
        }
    }

    fn parse(&mut self, fields: &mut Fields) -> Result<(), SqlError> {
        let (name, text) = (fields.text()?, fields.text()?);
        let declared = fields.list(|fields| fields.i32().map(i32::cast_unsigned))?;
        let mut found = statements(&text)?;
        let (Some(statement), true) = (found.pop(), found.is_empty()) else {
            return Err(SqlError::new("42601", "cannot insert multiple commands into a prepared statement"));
        };
        if self.prepared.len() >= MOST_PREPARED && !name.is_empty() {
            return Err(SqlError::new("53400", "too many prepared statements"));
        }
        self.prepared.insert(name, Prepared { statement, declared, described: None });
        self.wire.put(b'1', |_| {});
        Ok(())
    }

    fn bind(&mut self, fields: &mut Fields) -> Result<(), SqlError> {
        let (portal, name) = (fields.text()?, fields.text()?);
        let formats = fields.list(Fields::i16)?;
        let values = fields.list(Fields::value)?;
        let results = fields.list(Fields::i16)?;
        if !self.prepared.contains_key(&name) {
            return Err(no_statement(&name));
        }
        if self.portals.len() >= MOST_PREPARED && !portal.is_empty() {
            return Err(SqlError::new("53400", "too many portals"));
        }
        self.portals.insert(portal, Portal::bound(name, values, formats, results));
        self.wire.put(b'2', |_| {});
        Ok(())
    }

    async fn describe(&mut self, fields: &mut Fields) -> Result<(), SqlError> {
        let (kind, name) = (fields.byte()?, fields.text()?);
        let (statement, formats) = match kind {
            b'S' => (name, Vec::new()),
            b'P' => {
                let portal = self.portals.get(&name).ok_or_else(|| no_portal(&name))?;
                (portal.statement.clone(), portal.results.clone())
            }
            _ => return Err(malformed()),
        };
        self.learn(&statement).await?;
        let prepared = self.prepared.get(&statement).ok_or_else(|| no_statement(&statement))?;
        if kind == b'S' {
            let types: Vec<u32> = prepared.parameter_types();
            self.wire.put(b't', |out| {
                out.put_i16(i16::try_from(types.len()).unwrap_or(i16::MAX));
                types.iter().for_each(|oid| out.put_u32(*oid));
            });
        }
        match prepared.described.as_ref().and_then(|described| described.schema.as_ref()) {
            Some(schema) => answer::describe(&mut self.wire, schema, &formats),
            None => self.wire.put(b'n', |_| {}),
        }
        Ok(())
    }

    /// Plans a prepared statement once, for its columns and the types of its parameters.
    async fn learn(&mut self, name: &str) -> Result<(), SqlError> {
        let prepared = self.prepared.get(name).ok_or_else(|| no_statement(name))?;
        if prepared.described.is_some() {
            return Ok(());
        }
        let statement = prepared.statement.clone();
        let deadline = self.deadline();
        let described = match &statement.kind {
            Kind::Query | Kind::Explain => {
                self.allow(&statement)?;
                let view = self.view().await?;
                let (endpoint, user) = (Arc::clone(&self.endpoint), Arc::clone(&self.user));
                self.limited(deadline, Box::pin(super::prepared::describe(&endpoint, &user, view, &statement.text)))
                    .await?
            }
            Kind::Show(name) => super::prepared::text_columns(&[name]),
            _ => super::prepared::no_columns(),
        };
        if let Some(prepared) = self.prepared.get_mut(name) {
            prepared.described = Some(described);
        }
        Ok(())
    }

    async fn execute(&mut self, fields: &mut Fields) -> Result<(), SqlError> {
        let (name, most) = (fields.text()?, fields.i32()?);
        let deadline = self.deadline();
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        if !portal.is_started() {
            self.learn(&portal.statement).await?;
            let prepared = self.prepared.get(&portal.statement).ok_or_else(|| no_statement(&portal.statement))?;
            let values = portal.values(prepared)?;
            let statement = prepared.statement.clone();
            match self.run(&statement, values, deadline).await? {
                Outcome::Done(tag) => {
                    self.complete(tag);
                    return Ok(());
                }
                Outcome::Empty => {
                    self.wire.put(b'I', |_| {});
                    return Ok(());
                }
                Outcome::Rows(result) => portal.start(result)?,
            }
        }
        self.send(&mut portal, usize::try_from(most).unwrap_or(0), deadline).await?;
        self.portals.insert(name, portal);
        Ok(())
    }

    /// Sends rows of a portal, `most` of them or, for 0, all.
    async fn send(&mut self, portal: &mut Portal, most: usize, deadline: Instant) -> Result<(), SqlError> {
        let mut sent = 0;
        loop {
            let portion = self.limited(deadline, async { portal.next().await }).await?;
            let Portion { batch, from } = match portion {
                Some(portion) => portion,
                None => {
                    self.complete(format!("SELECT {}", portal.sent));
                    return Ok(());
                }
            };
            let rows = Rows::new(&batch, &portal.results)?;
            let room = if most == 0 { usize::MAX } else { most - sent };
            let until = batch.num_rows().min(from.saturating_add(room));
            for row in from..until {
                rows.write(row, &mut self.wire)?;
                if self.wire.is_full() {
                    let wire = &mut self.wire;
                    limited(&mut self.cancelled, deadline, wire.flush()).await?;
                }
            }
            sent += until - from;
            portal.took(until - from);
            if most != 0 && sent >= most {
                self.wire.put(b's', |_| {});
                return Ok(());
            }
        }
    }

    async fn run(
        &mut self,
        statement: &Statement,
        values: Vec<ScalarValue>,
        deadline: Instant,
    ) -> Result<Outcome, SqlError> {
        // What was asked before it began concerns it no more.
        self.cancelled.mark_unchanged();
        let ends = matches!(statement.kind, Kind::Commit | Kind::Rollback);
        if self.transaction == Transaction::Failed && !ends && statement.kind != Kind::Nothing("ROLLBACK") {
            return Err(SqlError::new(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        let done = |tag: &str| Ok(Outcome::Done(tag.to_owned()));
        match &statement.kind {
            Kind::Empty => Ok(Outcome::Empty),
            Kind::Begin => {
                self.transaction = Transaction::Open;
                done("BEGIN")
            }
            Kind::Commit | Kind::Rollback => {
                let rolled_back = self.transaction == Transaction::Failed || statement.kind == Kind::Rollback;
                self.transaction = Transaction::None;
                self.view = None;
                self.portals.clear();
                done(if rolled_back { "ROLLBACK" } else { "COMMIT" })
            }
            Kind::Nothing(tag) => {
                match *tag {
                    "DISCARD ALL" => {
                        self.prepared.clear();
                        self.portals.clear();
                        self.settings.clear();
                    }
                    "DEALLOCATE" => self.prepared.clear(),
                    "ROLLBACK" if self.transaction == Transaction::Failed => self.transaction = Transaction::Open,
                    _ => {}
                }
                done(tag)
            }
            Kind::Set { name, value } => {
                self.set(name, value)?;
                done("SET")
            }
            Kind::Show(name) => self.show(name).map(Outcome::Rows),
            Kind::Write(word) => Err(SqlError::new(
                "25006",
                format!("cannot execute {word} in a read-only transaction: the archive is only read"),
            )),
            Kind::Query | Kind::Explain => {
                self.allow(statement)?;
                let view = self.view().await?;
                let (endpoint, user) = (Arc::clone(&self.endpoint), Arc::clone(&self.user));
                let text = statement.text.clone();
                let running = Box::pin(async move {
                    match catalogue::question(&text, &user.name, endpoint.database()) {
                        Some(question) => {
                            catalogue::answer(question, values, view.as_ref(), &user.name, endpoint.database()).await
                        }
                        None => Ok(endpoint.session.over(view).sql_with(&text, values).await?),
                    }
                });
                self.limited(deadline, running).await.map(Outcome::Rows)
            }
        }
    }

    /// Plans show how much there is of what is kept back.
    fn allow(&self, statement: &Statement) -> Result<(), SqlError> {
        match statement.kind == Kind::Explain && self.user.access.rows.is_some() {
            true => Err(SqlError::new("42501", "EXPLAIN is not for users whose rows are limited")),
            false => Ok(()),
        }
    }

    /// What this statement sees: the archive as it is, or as it was when the open transaction began to look.
    async fn view(&mut self) -> Result<Arc<dyn Tables>, SqlError> {
        if let Some(view) = &self.view {
            return Ok(Arc::clone(view));
        }
        let now = ArchivedTables::now(&self.endpoint.archive).await?;
        let view: Arc<dyn Tables> = Arc::new(RestrictedTables::new(Arc::new(now), self.user.access.clone()));
        if self.transaction == Transaction::Open {
            self.view = Some(Arc::clone(&view));
        }
        Ok(view)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let unlike = |wanted: &str| !value.eq_ignore_ascii_case(wanted);
        match name {
            "client_encoding" if unlike("utf8") && unlike("utf-8") && unlike("unicode") => {
                return Err(SqlError::new("22023", "the only encoding here is UTF8"));
            }
            "application_name" => self.wire.put(b'S', |out| {
                put_text(out, name);
                put_text(out, value);
            }),
            _ => {}
        }
        if self.settings.len() < MOST_PREPARED {
            self.settings.insert(name.to_owned(), value.to_owned());
        }
        Ok(())
    }

    fn show(&self, name: &str) -> Result<QueryResult, SqlError> {
        let name = match name {
            "transaction isolation level" => "transaction_isolation",
            "time zone" => "timezone",
            "session authorization" => "session_authorization",
            name => name,
        };
        let timeout = self.endpoint.settings.statement_timeout;
        let fixed = match name {
            "server_version" => SERVER_VERSION.to_owned(),
            "server_version_num" => "150000".to_owned(),
            "server_encoding" | "client_encoding" => "UTF8".to_owned(),
            "timezone" => "UTC".to_owned(),
            "datestyle" => "ISO, MDY".to_owned(),
            "intervalstyle" => "postgres".to_owned(),
            "transaction_isolation" | "default_transaction_isolation" => "repeatable read".to_owned(),
            "transaction_read_only"
            | "default_transaction_read_only"
            | "standard_conforming_strings"
            | "integer_datetimes" => "on".to_owned(),
            "in_hot_standby" | "is_superuser" => "off".to_owned(),
            "session_authorization" => self.user.name.clone(),
            "max_identifier_length" => "63".to_owned(),
            "statement_timeout" => format!("{}ms", timeout.as_millis()),
            name => match self.settings.get(name) {
                Some(value) => value.clone(),
                None if name == "search_path" => "public".to_owned(),
                None if name == "application_name" || name == "extra_float_digits" => String::new(),
                None => {
                    return Err(SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\"")));
                }
            },
        };
        super::prepared::one_text(name, &fixed)
    }

    fn complete(&mut self, tag: impl AsRef<str>) {
        self.wire.put(b'C', |out| put_text(out, tag.as_ref()));
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.endpoint.settings.statement_timeout
    }

    async fn limited<T>(
        &mut self,
        deadline: Instant,
        work: impl Future<Output = Result<T, SqlError>>,
    ) -> Result<T, SqlError> {
        limited(&mut self.cancelled, deadline, work).await
    }
}

/// Lets something go on until it is done, cancelled or too late.
async fn limited<T>(
    cancelled: &mut watch::Receiver<u64>,
    deadline: Instant,
    work: impl Future<Output = Result<T, SqlError>>,
) -> Result<T, SqlError> {
    tokio::select! {
        done = work => done,
        // Without a sender nobody can cancel it.
        Ok(()) = cancelled.changed() => Err(SqlError::new("57014", "canceling statement due to user request")),
        () = tokio::time::sleep_until(deadline) => {
            Err(SqlError::new("57014", "canceling statement due to statement timeout"))
        }
    }
}

/// What became of a statement.
enum Outcome {
    Done(String),
    Empty,
    Rows(QueryResult),
}

fn no_statement(name: &str) -> SqlError {
    SqlError::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new("34000", format!("portal \"{name}\" does not exist"))
}
