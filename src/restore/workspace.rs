//! One session and one transaction in which a restore is worked out, and performed or rolled back.

use std::time::Instant;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::catalog::{self, ForeignKey};
use super::difference::Difference;
use super::recreation::Recreation;
use super::{RestoreRequest, objection};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
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
    pub(super) source: &'a Source,
    pub(super) archive: &'a Archive,
    pub(super) request: &'a RestoreRequest,
    pub(super) mode: Mode,
    pub(super) started: Instant,
    /// The search path that the application has; see the documentation of [`super`].
    application_path: String,
}

/// What was found, parents before children.
pub(super) struct Differences {
    pub(super) tables: Vec<Difference>,
    /// Every foreign key to or from one of the tables.
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) recreation: Recreation,
}

/// Looking so many rows up takes as long as reading and hashing a block of a table: measured with cached blocks of 40 rows,
/// 3 µs for a row and 10 µs for a block.
const LOOKUPS_PER_BLOCK: u64 = 3;
/// What PostgreSQL's planner is denied so that it looks rows up, and so that it hashes.
const LOOKED_UP_WITHOUT: &[&str] = &["hashjoin", "mergejoin", "seqscan", "material"];
const HASHED_WITHOUT: &[&str] = &["nestloop"];

impl Differences {
    /// A table of the restore by its oid.
    pub(super) fn table(&self, oid: u32) -> Option<&Difference> {
        self.tables.iter().find(|table| table.live.oid == oid)
    }
}

/// Memory for sorts and joins: this session does a few large ones.
const WORK_MEM: &str = "64MB";
/// What a hash join takes of it (PostgreSQL manual, `hash_mem_multiplier`), and what a row takes there about.
const HASHED_BYTES: u64 = 128 << 20;
const ROW_BYTES: u64 = 200;

/// A tenth of the usual: how many rows there are is what matters of temporary tables, and their samples are read each time.
const STATISTICS: u32 = 10;

impl<'a> Workspace<'a> {
    pub(super) async fn open(
        source: &'a Source,
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
        let statement_timeout =
            request.statement_timeout.map_or(0, |timeout| timeout.as_millis().clamp(1, i32::MAX as u128));
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation}; SET LOCAL lock_timeout = {lock_timeout}; \
             SET LOCAL statement_timeout = {statement_timeout}; SET LOCAL row_security = off; SET LOCAL work_mem = '{WORK_MEM}'; \
             SET LOCAL default_statistics_target = {STATISTICS}; SET LOCAL jit = off; SET CONSTRAINTS ALL DEFERRED"
        );
        session.batch_execute(&begin).await?;
        Ok(Workspace { started: Instant::now(), session, source, archive, request, mode, application_path })
    }

    /// Says which `GRANT` is missing, before PostgreSQL says that something is.
    pub(super) async fn require_privileges(&self, name: &TableName, oid: u32) -> Result<()> {
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

    pub(super) async fn roll_back(self) -> Result<()> {
        Ok(self.session.batch_execute("ROLLBACK").await?)
    }

    /// Runs one statement of ours and returns how many rows it touched.
    pub(super) async fn execute(&self, sql: &str) -> Result<u64> {
        self.session.execute_typed(sql, &[]).await.map_err(|error| self.judge(error))
    }

    /// Runs one query of ours.
    pub(super) async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.session.query(sql, parameters).await.map_err(|error| self.judge(error))
    }

    /// Runs a query of ours that has one row of one column.
    pub(super) async fn count(&self, sql: &str) -> Result<u64> {
        let row = self.session.query_typed_one(sql, &[]).await.map_err(|error| self.judge(error))?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Says how a table is joined in which so many rows are sought: they are looked up one by one, by their places or by an
    /// index of the key, where that is less work than reading the table; else both sides are hashed. PostgreSQL's own plan
    /// would go by statistics that know nothing of rows that have just gone or come: it reads all of a table for a few rows,
    /// or, where autovacuum has seen it empty, again for each. Only for joins that have both ways.
    pub(super) async fn join_for(&self, rows: u64, table: u32) -> Result<()> {
        let (blocks, _) = self.size_of(table).await?;
        self.join(rows <= blocks * LOOKUPS_PER_BLOCK).await
    }

    /// The same for rows that were written a moment ago: where they would not fit into memory to be hashed, but the server
    /// has them cached, they are looked up, however many.
    pub(super) async fn join_for_written(&self, rows: u64, table: u32) -> Result<()> {
        let (blocks, cached) = self.size_of(table).await?;
        let spills = rows * ROW_BYTES > HASHED_BYTES;
        self.join(rows <= blocks * LOOKUPS_PER_BLOCK || spills && blocks <= cached / 4).await
    }

    async fn join(&self, looked_up: bool) -> Result<()> {
        self.set(if looked_up { LOOKED_UP_WITHOUT } else { HASHED_WITHOUT }, "off").await
    }

    /// Blocks of a table, and how many the server's machine is said to have in its caches (`effective_cache_size`).
    async fn size_of(&self, table: u32) -> Result<(u64, u64)> {
        let sql = "SELECT pg_catalog.pg_relation_size($1::oid) / current_setting('block_size')::bigint,
            pg_catalog.pg_size_bytes(current_setting('effective_cache_size')) / current_setting('block_size')::bigint";
        let rows = self.query(sql, &[&table]).await?;
        Ok(rows
            .first()
            .map_or((0, 0), |row| (row.get::<_, i64>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs())))
    }

    /// Leaves joins to PostgreSQL again.
    pub(super) async fn join_as_ever(&self) -> Result<()> {
        self.set(LOOKED_UP_WITHOUT, "on").await?;
        self.set(HASHED_WITHOUT, "on").await
    }

    async fn set(&self, settings: &[&str], value: &str) -> Result<()> {
        let sql: Vec<String> = settings.iter().map(|setting| format!("SET LOCAL enable_{setting} = {value}")).collect();
        Ok(self.session.batch_execute(&sql.join("; ")).await?)
    }

    pub(super) fn judge(&self, error: tokio_postgres::Error) -> Failure {
        objection::judge(error, self.request.lock_timeout)
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
