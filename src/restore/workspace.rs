//! One session and one transaction in which a restore is worked out, and performed or rolled back.

use chrono::Utc;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::catalog::{self, ForeignKey};
use super::desired::Desired;
use super::difference::Difference;
use super::order::parents_first;
use super::plan::{FORMAT, Note, Plan, PlanOptions, PlanPoint};
use super::{RestoreRequest, rejection};
use crate::archive::Archive;
use crate::failure::{Context as _, Failure, Result};
use crate::history::TableAt;
use crate::model::{TableName, quote_identifier};
use crate::postgres::{Session, Source};

/// Whether the live rows may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only looked at, in one snapshot.
    Look,
    /// Locked, so that what was found stays true until it is acted on.
    Change,
}

/// See the module's documentation. Dropping it rolls back.
pub(super) struct Workspace<'a> {
    pub(super) session: Session,
    pub(super) archive: &'a Archive,
    pub(super) request: &'a RestoreRequest,
    pub(super) mode: Mode,
    /// The search path that the application has; see the documentation of [`super`].
    application_path: String,
}

/// What was found, parents before children.
pub(super) struct Differences {
    pub(super) tables: Vec<Difference>,
    /// Every foreign key to or from one of the tables.
    pub(super) foreign_keys: Vec<ForeignKey>,
}

impl Differences {
    /// A table of the restore by its oid.
    pub(super) fn table(&self, oid: u32) -> Option<&Difference> {
        self.tables.iter().find(|table| table.live.oid == oid)
    }
}

/// Memory for sorts and joins: this session does a few large ones.
const WORK_MEM: &str = "64MB";

impl<'a> Workspace<'a> {
    pub(super) async fn open(
        source: &Source,
        archive: &'a Archive,
        request: &'a RestoreRequest,
        mode: Mode,
    ) -> Result<Workspace<'a>> {
        if request.to.lsn > request.now.lsn {
            return Err(Failure::usage(format!("{} is later than {}", request.to.point, request.now.point)));
        }
        let session = source.connect("afterimage restore").await?;
        require_same_source(&session, archive).await?;
        let isolation = match mode {
            Mode::Look => "REPEATABLE READ",
            // Locking meets rows that others have just changed: it must see them.
            Mode::Change => "READ COMMITTED",
        };
        let application_path = catalog::application_path(&session).await?;
        // At least 1: zero would mean to wait for ever.
        let lock_timeout = request.lock_timeout.as_millis().clamp(1, i32::MAX as u128);
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation}; SET LOCAL lock_timeout = {lock_timeout}; \
             SET LOCAL row_security = off; SET LOCAL work_mem = '{WORK_MEM}'; SET CONSTRAINTS ALL DEFERRED"
        );
        session.batch_execute(&begin).await?;
        Ok(Workspace { session, archive, request, mode, application_path })
    }

    /// Works out the difference of every table.
    pub(super) async fn plan(&self) -> Result<(Plan, Differences)> {
        let mut notes = Vec::new();
        let selected = self.select(&mut notes).await?;
        self.lock(&selected).await?;
        let mut tables = Vec::new();
        for (index, then) in selected.into_iter().enumerate() {
            let name = then.relation().name.clone();
            let desired = Desired::load(self, index, then).await.context(&name)?;
            tables.push(Difference::find(self, desired).await.context(&name)?);
        }
        let differences = self.in_order(tables).await?;
        let mut plans = Vec::new();
        for table in &differences.tables {
            plans.push(table.plan(self).await?);
            notes.extend(table.notes(self.request.disable_user_triggers));
        }
        notes.extend(cascade_notes(&differences));
        let identity = self.archive.identity();
        let plan = Plan {
            format: FORMAT,
            system_identifier: identity.system_identifier.to_string(),
            database: identity.database.clone(),
            made_at: Utc::now(),
            to: PlanPoint::of(&self.request.to),
            now: PlanPoint::of(&self.request.now),
            options: PlanOptions::of(self.request),
            tables: plans,
            notes,
        };
        Ok((plan, differences))
    }

    /// The tables that the patterns name, as they were at the point, by name.
    async fn select(&self, notes: &mut Vec<Note>) -> Result<Vec<TableAt>> {
        let wanted = |name: &TableName| self.request.tables.iter().any(|pattern| pattern.matches(name));
        // A table that is gone by now can be named too.
        let mut known = self.archive.tables_at(self.request.now.lsn).await?;
        known.extend(self.archive.tables_at(self.request.to.lsn).await?);
        known.retain(|_, relation| !relation.partitioned);
        let mut names: Vec<&TableName> = known.keys().filter(|name| wanted(name)).collect();
        names.sort();
        for pattern in &self.request.tables {
            if !names.iter().any(|name| pattern.matches(name)) {
                return Err(Failure::usage(format!("the archive has no table that matches {pattern}")).remedy(
                    "afterimage status lists its tables; quote names with capital letters: 'public.\"Orders\"'",
                ));
            }
        }
        let mut tables = Vec::new();
        for name in names {
            match TableAt::find(self.archive, name, self.request.to.lsn).await? {
                Some(table) => tables.push(table),
                None => notes.push(Note::skipped(name, "was not in the archive at the point yet; left as it is")),
            }
        }
        for name in catalog::all_tables(&self.session).await? {
            if wanted(&name) && !known.contains_key(&name) && !self.has_archived_leaves(&name).await? {
                notes.push(Note::skipped(&name, "is not in the archive; left as it is"));
            }
        }
        Ok(tables)
    }

    /// Partitioned tables hold no rows themselves, so they are covered by their partitions.
    async fn has_archived_leaves(&self, name: &TableName) -> Result<bool> {
        Ok(catalog::find(&self.session, name).await?.is_none())
    }

    /// Keeps the tables' definitions as they are, and, in [`Mode::Change`], announces writing.
    async fn lock(&self, tables: &[TableAt]) -> Result<()> {
        let mode = match self.mode {
            Mode::Look => "ACCESS SHARE",
            Mode::Change => "ROW EXCLUSIVE",
        };
        for table in tables {
            let relation = table.relation();
            let name = &relation.name;
            let Some(oid) = catalog::find(&self.session, name).await? else {
                return Err(self.gone(name, relation.oid).await?);
            };
            self.require_privileges(name, oid).await?;
            self.execute(&format!("LOCK TABLE ONLY {} IN {mode} MODE", name.to_sql())).await?;
        }
        Ok(())
    }

    async fn gone(&self, name: &TableName, oid: u32) -> Result<Failure> {
        let failure = Failure::failed(format!("the table {name} does not exist any more"));
        Ok(match catalog::name_of(&self.session, oid).await? {
            Some(renamed) => failure.remedy(format!(
                "it is called {renamed} now: rename it back for the restore (ALTER TABLE … RENAME TO), then again"
            )),
            None => failure.remedy("create it again, empty, with the columns that it had; then restore its rows"),
        })
    }

    /// Says which `GRANT` is missing, before PostgreSQL says that something is.
    async fn require_privileges(&self, name: &TableName, oid: u32) -> Result<()> {
        let row = self
            .session
            .query_one(
                "SELECT current_user::text, has_schema_privilege($1::text, 'USAGE'), \
                 has_database_privilege(current_database(), 'TEMP'), current_database()::text",
                &[&name.schema],
            )
            .await?;
        let (role, schema, temporary, database): (String, bool, bool, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let role = quote_identifier(&role);
        let mut grants = Vec::new();
        if !temporary {
            grants.push(format!("GRANT TEMP ON DATABASE {} TO {role};", quote_identifier(&database)));
        }
        if !schema {
            grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_identifier(&name.schema)));
        }
        let mut lacking = catalog::table(&self.session, oid).await?.lacking;
        if self.mode == Mode::Look {
            lacking.retain(|privilege| privilege == "SELECT");
        }
        if !lacking.is_empty() {
            grants.push(format!("GRANT {} ON {} TO {role};", lacking.join(", "), name.to_sql()));
        }
        if grants.is_empty() {
            return Ok(());
        }
        Err(Failure::failed(format!("the role {role} lacks privileges to restore {name}")).remedy(grants.join(" ")))
    }

    async fn in_order(&self, tables: Vec<Difference>) -> Result<Differences> {
        let oids: Vec<u32> = tables.iter().map(|table| table.live.oid).collect();
        let foreign_keys = catalog::foreign_keys(&self.session, &oids).await?;
        let position = |oid: u32| oids.iter().position(|&known| known == oid);
        let edges: Vec<(usize, usize)> =
            foreign_keys.iter().filter_map(|key| position(key.parent).zip(position(key.child))).collect();
        let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let order = parents_first(&names, &edges);
        let mut tables: Vec<(usize, Difference)> = tables
            .into_iter()
            .enumerate()
            .map(|(at, table)| (order.iter().position(|&other| other == at).unwrap_or(at), table))
            .collect();
        tables.sort_by_key(|(rank, _)| *rank);
        Ok(Differences { tables: tables.into_iter().map(|(_, table)| table).collect(), foreign_keys })
    }

    pub(super) async fn roll_back(self) -> Result<()> {
        Ok(self.session.batch_execute("ROLLBACK").await?)
    }

    /// Runs one statement of ours and returns how many rows it touched.
    pub(super) async fn execute(&self, sql: &str) -> Result<u64> {
        self.session.execute(sql, &[]).await.map_err(|error| self.judge(error))
    }

    /// Runs one query of ours.
    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.session.query(sql, parameters).await.map_err(|error| self.judge(error))
    }

    /// Runs a query of ours that has one row of one column.
    pub(super) async fn count(&self, sql: &str) -> Result<u64> {
        let row = self.session.query_one(sql, &[]).await.map_err(|error| self.judge(error))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    pub(super) fn judge(&self, error: tokio_postgres::Error) -> Failure {
        rejection::judge(error, self.request.lock_timeout)
    }

    /// Puts the application's search path in force, the table's own schema last.
    pub(super) async fn enter_application_path(&self, table: &TableName) -> Result<()> {
        let path = format!("{}, {}", self.application_path, quote_identifier(&table.schema));
        let path = path.trim_start_matches(", ").to_owned();
        self.query("SELECT pg_catalog.set_config('search_path', $1, true)", &[&path]).await?;
        Ok(())
    }

    /// Puts the empty search path in force again.
    pub(super) async fn leave_application_path(&self) -> Result<()> {
        self.query("SELECT pg_catalog.set_config('search_path', '', true)", &[]).await?;
        Ok(())
    }

    /// Runs a statement that calls what belongs to a table: CHECK functions, defaults, triggers that stay on.
    pub(super) async fn execute_as_application(&self, table: &TableName, sql: &str) -> Result<u64> {
        self.enter_application_path(table).await?;
        let rows = self.execute(sql).await?;
        self.leave_application_path().await?;
        Ok(rows)
    }

    /// The relation that the archive's changes of a table have at `now`.
    pub(super) async fn present(&self, name: &TableName) -> Result<Option<TableAt>> {
        TableAt::find(self.archive, name, self.request.now.lsn).await
    }
}

/// Refuses a source that is not the archive's.
async fn require_same_source(session: &Session, archive: &Archive) -> Result<()> {
    let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text";
    let row = session.query_one(sql, &[]).await?;
    let (system, database): (String, String) = (row.get(0), row.get(1));
    let identity = archive.identity();
    if system == identity.system_identifier.to_string() && database == identity.database {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "the archive belongs to the database {} of system {}, the source is {database} of system {system}",
        identity.database, identity.system_identifier
    ))
    .remedy("name the archive of this database"))
}

/// Children outside the restore that a parent's deletion may have taken along.
fn cascade_notes(differences: &Differences) -> Vec<Note> {
    let mut notes = Vec::new();
    for key in &differences.foreign_keys {
        let Some(parent) = differences.table(key.parent) else { continue };
        let outside = differences.table(key.child).is_none();
        if outside && key.on_delete != catalog::Action::Forbid && parent.counts.insert > 0 {
            let text = format!(
                "{} refers to it with ON DELETE {}: what went along with its rows comes back only if that table is named too",
                key.child_name,
                key.on_delete.as_sql()
            );
            notes.push(Note::about(&parent.name, text));
        }
    }
    notes
}
