//! One SQL statement at a time over one view of the archive.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::stream::{BoxStream, StreamExt};
use object_store::ObjectStore;
use url::{Position, Url};

use super::catalog::{Catalogs, DEFAULT_CATALOG, DEFAULT_SCHEMA, View};
use super::derived::{Function, name_derived};
use super::dialect::ArchiveDialect;
use super::errors::{failure_in, failure_of};
use super::json::JsonOperators;
use super::memory::SharedMemory;
use super::suggestion::nearest;
use super::{TableRef, Tables, lsn_functions};
use crate::failure::{Failure, Result};

/// How the cause ends of whatever is refused because it would write.
pub const ONLY_READ: &str = "the archive is only read";

/// What the queries of a session may use together.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory in bytes for sorts, joins and aggregates; beyond it they spill to disk. They need some
    /// tens of MiB to be able to spill at all.
    pub memory_bytes: usize,
    /// Where they spill to; created where it does not exist, and emptied when the session ends.
    pub spill_dir: PathBuf,
}

/// Reads SQL over one view of the archive. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    state: SessionState,
    tables: Arc<dyn Tables>,
    store: ObjectStoreUrl,
}

/// The rows of a query, produced as they are asked for; dropping the stream ends the query.
pub struct QueryResult {
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

impl Session {
    /// A session that reads `tables`, whose files' paths are relative to `store`. `store_url` is the
    /// store's URL; only its scheme and host are used, as the store's name in plans.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the spill directory cannot be used.
    pub fn new(
        tables: Arc<dyn Tables>,
        store: Arc<dyn ObjectStore>,
        store_url: Url,
        limits: Limits,
    ) -> Result<Session> {
        let store_name = store_name(&store_url)?;
        let spill = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![limits.spill_dir]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(SharedMemory::new(limits.memory_bytes)))
            .with_disk_manager_builder(spill)
            .build_arc()
            .map_err(failure_of)?;
        runtime.register_object_store(store_name.as_ref(), store);
        let mut state = SessionStateBuilder::new()
            .with_config(configuration(limits.memory_bytes))
            .with_runtime_env(runtime)
            .with_default_features()
            .build();
        for function in lsn_functions::all() {
            state.register_udf(Arc::new(function)).map_err(failure_of)?;
        }
        state.register_expr_planner(Arc::new(JsonOperators)).map_err(failure_of)?;
        Ok(Session { state, tables, store: store_name })
    }

    /// The same session, with the same limits and functions, over another view of the same archive.
    pub fn over(&self, tables: Arc<dyn Tables>) -> Session {
        Session { tables, ..self.clone() }
    }

    /// The names of the functions that a statement can call.
    pub fn functions(&self) -> Vec<String> {
        let scalar = self.state.scalar_functions().keys();
        let all = scalar.chain(self.state.aggregate_functions().keys()).chain(self.state.window_functions().keys());
        let mut names: Vec<String> = all.cloned().chain(Function::ALL.map(|one| one.name().to_owned())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Plans and starts one reading statement, in PostgreSQL's dialect.
    ///
    /// # Errors
    /// [`crate::failure::Category::Usage`] where the statement is wrong, names what does not exist, or
    /// would write; otherwise what opening the tables answered. Errors of running come from the stream.
    pub async fn sql(&self, text: &str) -> Result<QueryResult> {
        match self.plan(text).await? {
            Planned::Listing(result) => Ok(result),
            Planned::Query(state, plan) => execute(*state, *plan).await,
        }
    }

    /// Plans one reading statement.
    pub(super) async fn plan(&self, text: &str) -> Result<Planned> {
        let mut statement = self.parse(text)?;
        refuse_writing(&statement)?;
        if matches!(&statement, Statement::Statement(sql) if matches!(**sql, SqlStatement::ShowTables { .. })) {
            return self.listing().await.map(Planned::Listing);
        }
        let derived = self.derive(&mut statement).await?;
        let mentioned = self.state.resolve_table_references(&statement).map_err(failure_of)?;
        let state = self.state_for(&mentioned, derived).await?;
        let plan = match state.statement_to_plan(statement).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.explain(error, &mentioned, text).await),
        };
        read_only().verify_plan(&plan).map_err(|_| only_reads("this statement"))?;
        Ok(Planned::Query(Box::new(state), Box::new(plan)))
    }

    /// Reads a table that stands under no name, in the order of some of its columns.
    ///
    /// # Errors
    /// As [`Session::sql`].
    pub async fn read(&self, table: Arc<dyn TableProvider>, order: &[&str]) -> Result<QueryResult> {
        let state = self.state_for(&[], HashMap::new()).await?;
        let frame = SessionContext::new_with_state(state).read_table(table).map_err(failure_of)?;
        let order = order.iter().map(|name| ident(*name).sort(true, false)).collect();
        let stream = frame.sort(order).map_err(failure_of)?.execute_stream().await.map_err(failure_of)?;
        Ok(QueryResult { schema: stream.schema(), batches: stream.map(|batch| batch.map_err(failure_of)).boxed() })
    }

    fn parse(&self, text: &str) -> Result<Statement> {
        let deepest = self.state.config_options().sql_parser.recursion_limit.get();
        let parser = DFParserBuilder::new(text).with_dialect(&ArchiveDialect).with_recursion_limit(deepest);
        let parsed = parser.build().and_then(|mut parser| parser.parse_statements());
        let mut statements = parsed.map_err(|error| failure_in(error, text))?;
        match (statements.len(), statements.pop_front()) {
            (1, Some(statement)) => Ok(statement),
            (0, _) | (_, None) => {
                Err(Failure::usage("no statement was given")
                    .remedy("SELECT * FROM afterimage.transactions, for example"))
            }
            (count, _) => {
                Err(Failure::usage(format!("{count} statements were given")).remedy("give them one at a time"))
            }
        }
    }

    /// Opens what a statement makes of tables' history, by the names that then stand in it.
    async fn derive(&self, statement: &mut Statement) -> Result<HashMap<String, Arc<dyn TableProvider>>> {
        let mut opened = HashMap::new();
        for derived in name_derived(statement, Utc::now())? {
            let Some(found) = self.tables.derive(&derived).await? else {
                let listed = self.tables.list().await?;
                return Err(unknown_table(&TableRef::State(derived.table).to_string(), &listed));
            };
            opened.insert(derived.to_string(), found);
        }
        Ok(opened)
    }

    /// `SHOW TABLES`: the archive's tables under the names that a query writes. DataFusion would list its
    /// own catalogues too.
    async fn listing(&self) -> Result<QueryResult> {
        let mut names: Vec<String> = self.tables.list().await?.iter().map(ToString::to_string).collect();
        names.sort();
        let schema = Arc::new(Schema::new(vec![Field::new("table", DataType::Utf8, false)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(names))])
            .map_err(|error| failure_of(error.into()))?;
        Ok(QueryResult { schema, batches: futures::stream::iter([Ok(batch)]).boxed() })
    }

    /// The state in which a statement that mentions these names is planned.
    async fn state_for(
        &self,
        mentioned: &[TableReference],
        derived: HashMap<String, Arc<dyn TableProvider>>,
    ) -> Result<SessionState> {
        let listed = if mentioned.iter().any(asks_for_listings) { self.tables.list().await? } else { Vec::new() };
        let view = View { tables: Arc::clone(&self.tables), listed, derived, store: self.store.clone() };
        let mut state = self.state.clone();
        state.register_catalog_list(Arc::new(Catalogs(Arc::new(view))));
        Ok(state)
    }

    /// An unknown table is the commonest mistake, so the nearest names are looked for.
    async fn explain(&self, error: DataFusionError, mentioned: &[TableReference], text: &str) -> Failure {
        let message = error.find_root().message().into_owned();
        let failure = failure_in(error, text);
        let Some(missing) = mentioned.iter().find(|table| message == not_found(table)) else {
            return failure;
        };
        match self.tables.list().await {
            Ok(listed) => unknown_table(&missing.to_string(), &listed).at(failure.place().cloned()),
            Err(failure) => failure,
        }
    }
}

/// A statement that is ready to run.
pub(super) enum Planned {
    /// What `SHOW TABLES` gives, which is no plan.
    Listing(QueryResult),
    Query(Box<SessionState>, Box<LogicalPlan>),
}

/// Starts a plan.
pub(super) async fn execute(state: SessionState, plan: LogicalPlan) -> Result<QueryResult> {
    let frame = SessionContext::new_with_state(state).execute_logical_plan(plan).await.map_err(failure_of)?;
    let stream = frame.execute_stream().await.map_err(failure_of)?;
    Ok(QueryResult { schema: stream.schema(), batches: stream.map(|batch| batch.map_err(failure_of)).boxed() })
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tables", &self.tables).field("store", &self.store).finish_non_exhaustive()
    }
}

impl fmt::Debug for QueryResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryResult").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// PostgreSQL's habits where DataFusion leaves a choice.
fn configuration(memory_bytes: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(DEFAULT_CATALOG, DEFAULT_SCHEMA)
        .with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    options.sql_parser.collect_spans = true;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".into());
    // Each partition's sort keeps this aside for merging what it spilled; it must fit into the limit.
    let partitions = options.execution.target_partitions.max(1);
    options.execution.sort_spill_reservation_bytes =
        options.execution.sort_spill_reservation_bytes.min(memory_bytes / partitions / 4);
    config
}

/// The second line of defence: whatever a statement looks like, its plan must not write.
fn read_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// The first line of defence, before anything is opened or resolved.
fn refuse_writing(statement: &Statement) -> Result<()> {
    match statement {
        Statement::Statement(sql) if reads(sql) => Ok(()),
        Statement::Statement(sql) => Err(only_reads(&first_words(&sql.to_string()))),
        Statement::Explain(explain) => refuse_writing(&explain.statement),
        Statement::CopyTo(_) => Err(only_reads("COPY")),
        Statement::CreateExternalTable(_) => Err(only_reads("CREATE EXTERNAL TABLE")),
        Statement::Reset(_) => Err(only_reads("RESET")),
    }
}

fn reads(statement: &SqlStatement) -> bool {
    match statement {
        SqlStatement::Explain { statement, .. } => reads(statement),
        SqlStatement::Query(_)
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowVariables { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. } => true,
        _ => false,
    }
}

fn first_words(statement: &str) -> String {
    statement.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn only_reads(what: &str) -> Failure {
    Failure::usage(format!("{what} is not possible here: {ONLY_READ}"))
        .remedy("ask with SELECT, WITH, VALUES, EXPLAIN, SHOW or DESCRIBE; restore and export write elsewhere")
}

fn asks_for_listings(table: &TableReference) -> bool {
    table.schema() == Some("information_schema")
}

/// How DataFusion says that a table does not exist.
fn not_found(table: &TableReference) -> String {
    format!("table '{}' not found", table.clone().resolve(DEFAULT_CATALOG, DEFAULT_SCHEMA))
}

fn unknown_table(missing: &str, listed: &[TableRef]) -> Failure {
    let near = nearest(missing, listed);
    let remedy = match near.is_empty() {
        true => "SHOW TABLES lists what there is".to_owned(),
        false => format!("did you mean {}? SHOW TABLES lists all", near.join(" or ")),
    };
    Failure::usage(format!("there is no table {missing} in the archive")).remedy(remedy)
}

/// What an object store is called in plans.
pub(super) fn store_name(root: &Url) -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse(&root[..Position::BeforePath]).map_err(failure_of)
}
