//! PostgreSQL's catalogue, as far as clients look into it: psql's `\d`, drivers that ask for types and tables.
//!
//! It is made of what the user may see, for each statement anew, in an engine of its own that has nothing else.

mod rewrite;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{MemTable, MemorySchemaProvider, SchemaProvider as _};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;

use super::answer::{self, SqlType};
use super::error::SqlError;
use crate::failure::Failure;
use crate::query::{Derived, Described, QueryResult, TableRef, Tables};
pub(super) use rewrite::{Question, question};

/// The types that columns are shown with, and their names in the catalogue.
pub(super) const TYPES: [(SqlType, &str); 13] = [
    (SqlType { oid: 16, length: 1, name: "boolean" }, "bool"),
    (SqlType { oid: 17, length: -1, name: "bytea" }, "bytea"),
    (SqlType { oid: 20, length: 8, name: "bigint" }, "int8"),
    (SqlType { oid: 21, length: 2, name: "smallint" }, "int2"),
    (SqlType { oid: 23, length: 4, name: "integer" }, "int4"),
    (SqlType { oid: 25, length: -1, name: "text" }, "text"),
    (SqlType { oid: 114, length: -1, name: "json" }, "json"),
    (SqlType { oid: 700, length: 4, name: "real" }, "float4"),
    (SqlType { oid: 701, length: 8, name: "double precision" }, "float8"),
    (SqlType { oid: 1082, length: 4, name: "date" }, "date"),
    (SqlType { oid: 1114, length: 8, name: "timestamp without time zone" }, "timestamp"),
    (SqlType { oid: 1184, length: 8, name: "timestamp with time zone" }, "timestamptz"),
    (SqlType { oid: 1700, length: -1, name: "numeric" }, "numeric"),
];

const PG_CATALOG: i64 = 11;
const OWNER: i64 = 10;

/// Answers a question to the catalogue.
pub(super) async fn answer(
    question: Question,
    values: Vec<ScalarValue>,
    tables: &dyn Tables,
    user: &str,
    database: &str,
) -> Result<QueryResult, SqlError> {
    let (sql, mentioned) = match question {
        Question::Plan { sql, tables } => (sql, tables),
        Question::NoRows(columns) => {
            return Ok(QueryResult { schema: text_columns(columns), batches: futures::stream::empty().boxed() });
        }
    };
    let (context, plan) = plan(&sql, &mentioned, tables, user, database).await?;
    let plan = if values.is_empty() { plan } else { plan.with_param_values(values).map_err(failed)? };
    let stream = context.execute_logical_plan(plan).await.map_err(failed)?.execute_stream().await.map_err(failed)?;
    let told = |error| Failure::failed(format!("the catalogue cannot answer this: {error}"));
    Ok(QueryResult { schema: stream.schema(), batches: stream.map(move |batch| batch.map_err(told)).boxed() })
}

/// Says what an answer would be like.
pub(super) async fn describe(
    question: Question,
    tables: &dyn Tables,
    user: &str,
    database: &str,
) -> Result<Described, SqlError> {
    match question {
        Question::NoRows(columns) => Ok(Described { schema: text_columns(columns), parameters: Vec::new() }),
        Question::Plan { sql, tables: mentioned } => {
            let (_, plan) = plan(&sql, &mentioned, tables, user, database).await?;
            Described::of(&plan).map_err(SqlError::from)
        }
    }
}

fn text_columns(names: Vec<String>) -> SchemaRef {
    let fields: Vec<Field> = names.into_iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    Arc::new(Schema::new(fields))
}

async fn plan(
    sql: &str,
    mentioned: &[String],
    tables: &dyn Tables,
    user: &str,
    database: &str,
) -> Result<(SessionContext, LogicalPlan), SqlError> {
    let mut relations = Vec::new();
    if mentioned.iter().any(|name| ["pg_class", "pg_attribute", "pg_tables", "pg_namespace"].contains(&name.as_str())) {
        for table in tables.list().await? {
            relations.push(Relation::of(&table));
        }
        relations.sort_by(|one, other| (&one.schema, &one.name).cmp(&(&other.schema, &other.name)));
    }
    if mentioned.iter().any(|name| name == "pg_attribute") {
        for relation in &mut relations {
            let schema = match &relation.table {
                TableRef::State(name) => {
                    tables.derive(&Derived::state(name.clone())).await?.map(|table| table.schema())
                }
                table => tables.open(table).await?.map(|files| files.schema),
            };
            if let Some(schema) = schema {
                let column = |field: &Arc<Field>| (field.name().clone(), answer::type_of(field.data_type()));
                relation.columns = schema.fields().iter().map(column).collect();
            }
        }
    }
    let context = context(&relations, user, database).map_err(failed)?;
    let plan = context.state().create_logical_plan(sql).await.map_err(failed)?;
    Ok((context, plan))
}

fn failed(error: impl std::fmt::Display) -> SqlError {
    let cause = error.to_string();
    SqlError::new("0A000", format!("the catalogue cannot answer this: {}", cause.lines().next().unwrap_or_default()))
}

/// A table of the archive as a relation of the catalogue.
struct Relation {
    table: TableRef,
    schema: String,
    name: String,
    columns: Vec<(String, SqlType)>,
}

impl Relation {
    fn of(table: &TableRef) -> Relation {
        let shown = |name: &crate::model::TableName| match name.schema.as_str() {
            "public" => name.table.clone(),
            schema => format!("{schema}.{}", name.table),
        };
        let (schema, name) = match table {
            TableRef::State(name) => (name.schema.as_str(), name.table.clone()),
            TableRef::Changes(name) => ("changes", shown(name)),
            TableRef::Images(name) => ("images", shown(name)),
            TableRef::Log(name) => ("afterimage", name.clone()),
        };
        Relation { schema: schema.to_owned(), name, columns: Vec::new(), table: table.clone() }
    }

    fn oid(&self) -> i64 {
        number(&format!("{}\0{}", self.schema, self.name))
    }
}

/// An object's number: the same in every statement, whatever else there is.
fn number(name: &str) -> i64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Below 2^31, for clients that read signed numbers, and above those of the system's own objects.
    16_384 + (hash % 2_000_000_000) as i64
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn context(
    relations: &[Relation],
    user: &str,
    database: &str,
) -> Result<SessionContext, datafusion::error::DataFusionError> {
    let mut config = SessionConfig::new().with_default_catalog_and_schema("archive", "pg_catalog");
    config.options_mut().sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    config.options_mut().execution.target_partitions = 1;
    let context = SessionContext::new_with_config(config);
    let schema = Arc::new(MemorySchemaProvider::new());
    let tables = [
        ("pg_class", classes(relations)),
        ("pg_namespace", namespaces(relations)),
        ("pg_attribute", attributes(relations)),
        ("pg_type", types()),
        ("pg_am", vec![("oid", int8([2])), ("amname", text(["heap"])), ("amtype", text(["t"]))]),
        ("pg_database", databases(database)),
        ("pg_roles", roles("rol", user)),
        ("pg_user", roles("use", user)),
        (
            "pg_settings",
            vec![
                ("name", text(["server_version", "max_index_keys"])),
                ("setting", text([super::SERVER_VERSION, "32"])),
            ],
        ),
        (
            "pg_tables",
            vec![
                ("schemaname", text(relations.iter().map(|r| r.schema.as_str()))),
                ("tablename", text(relations.iter().map(|r| r.name.as_str()))),
                ("tableowner", text(relations.iter().map(|_| user))),
            ],
        ),
        (
            "pg_description",
            vec![
                ("objoid", int8([])),
                ("classoid", int8([])),
                ("objsubid", int4([])),
                ("description", text([] as [&str; 0])),
            ],
        ),
        (
            "pg_attrdef",
            vec![("oid", int8([])), ("adrelid", int8([])), ("adnum", int2([])), ("adbin", text([] as [&str; 0]))],
        ),
    ];
    for (name, columns) in tables {
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        schema.register_table(name.to_owned(), Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))?;
    }
    if let Some(catalog) = context.catalog("archive") {
        catalog.register_schema("pg_catalog", schema)?;
    }
    Ok(context)
}

fn text<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    // It wants to know how many there are.
    Arc::new(StringArray::from(values.into_iter().collect::<Vec<_>>()))
}

fn int8(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values.into_iter().collect::<Vec<_>>()))
}

fn int4(values: impl IntoIterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from(values.into_iter().collect::<Vec<_>>()))
}

fn int2(values: impl IntoIterator<Item = i16>) -> ArrayRef {
    Arc::new(Int16Array::from(values.into_iter().collect::<Vec<_>>()))
}

fn all(value: bool, count: usize) -> ArrayRef {
    Arc::new(BooleanArray::from(vec![value; count]))
}

fn same(value: &str, count: usize) -> ArrayRef {
    text(std::iter::repeat_n(value, count))
}

fn zeros(count: usize) -> ArrayRef {
    int8(std::iter::repeat_n(0, count))
}

fn nulls(count: usize) -> ArrayRef {
    Arc::new(StringArray::new_null(count))
}

fn classes(relations: &[Relation]) -> Columns {
    let count = relations.len();
    let mut columns = vec![
        ("oid", int8(relations.iter().map(Relation::oid))),
        ("relname", text(relations.iter().map(|r| r.name.as_str()))),
        ("relnamespace", int8(relations.iter().map(|r| number(&r.schema)))),
        ("relowner", int8(std::iter::repeat_n(OWNER, count))),
        ("relam", int8(std::iter::repeat_n(2, count))),
        ("relkind", same("r", count)),
        ("relpersistence", same("p", count)),
        ("relreplident", same("d", count)),
        ("relnatts", int4(relations.iter().map(|r| i32::try_from(r.columns.len()).unwrap_or(i32::MAX)))),
        ("relacl", nulls(count)),
        ("reloptions", nulls(count)),
        ("relpartbound", nulls(count)),
    ];
    for name in
        ["reltype", "reloftype", "relfilenode", "reltablespace", "relpages", "reltuples", "reltoastrelid", "relchecks"]
    {
        columns.push((name, zeros(count)));
    }
    for name in [
        "relhasindex",
        "relisshared",
        "relhasrules",
        "relhastriggers",
        "relhassubclass",
        "relrowsecurity",
        "relforcerowsecurity",
        "relispartition",
        "relhasoids",
    ] {
        columns.push((name, all(false, count)));
    }
    columns
}

fn namespaces(relations: &[Relation]) -> Columns {
    let mut schemas: Vec<&str> = relations.iter().map(|relation| relation.schema.as_str()).collect();
    schemas.dedup();
    let names = || schemas.iter().copied().chain(["pg_catalog"]);
    let oid = |name: &str| if name == "pg_catalog" { PG_CATALOG } else { number(name) };
    let count = schemas.len() + 1;
    vec![
        ("oid", int8(names().map(oid))),
        ("nspname", text(names())),
        ("nspowner", int8(std::iter::repeat_n(OWNER, count))),
        ("nspacl", nulls(count)),
    ]
}

fn attributes(relations: &[Relation]) -> Columns {
    let each = || {
        relations.iter().flat_map(|relation| {
            let columns = relation.columns.iter().zip(1_i16..);
            columns.map(move |((name, sql_type), at)| (relation.oid(), name.as_str(), *sql_type, at))
        })
    };
    let count = each().count();
    let mut columns = vec![
        ("attrelid", int8(each().map(|(oid, ..)| oid))),
        ("attname", text(each().map(|(_, name, ..)| name))),
        ("atttypid", int8(each().map(|(_, _, sql_type, _)| i64::from(sql_type.oid)))),
        ("attlen", int2(each().map(|(_, _, sql_type, _)| sql_type.length))),
        ("attnum", int2(each().map(|(.., at)| at))),
        ("atttypmod", int4(std::iter::repeat_n(-1, count))),
        ("attndims", int4(std::iter::repeat_n(0, count))),
        ("attstattarget", int4(std::iter::repeat_n(-1, count))),
        ("attcollation", zeros(count)),
        ("attidentity", same("", count)),
        ("attgenerated", same("", count)),
        ("attstorage", same("p", count)),
        ("attcompression", same("", count)),
        ("attacl", nulls(count)),
        ("attoptions", nulls(count)),
    ];
    for name in ["attnotnull", "atthasdef", "attisdropped", "atthasmissing"] {
        columns.push((name, all(false, count)));
    }
    columns.push(("attislocal", all(true, count)));
    columns
}

fn types() -> Columns {
    let count = TYPES.len();
    vec![
        ("oid", int8(TYPES.iter().map(|(sql_type, _)| i64::from(sql_type.oid)))),
        ("typname", text(TYPES.iter().map(|(_, name)| *name))),
        ("typnamespace", int8(std::iter::repeat_n(PG_CATALOG, count))),
        ("typowner", int8(std::iter::repeat_n(OWNER, count))),
        ("typlen", int2(TYPES.iter().map(|(sql_type, _)| sql_type.length))),
        ("typtype", same("b", count)),
        ("typcategory", same("U", count)),
        ("typdelim", same(",", count)),
        ("typinput", text(TYPES.iter().map(|(_, name)| *name))),
        ("typnotnull", all(false, count)),
        ("typisdefined", all(true, count)),
        ("typtypmod", int4(std::iter::repeat_n(-1, count))),
        ("typrelid", zeros(count)),
        ("typelem", zeros(count)),
        ("typarray", zeros(count)),
        ("typbasetype", zeros(count)),
        ("typcollation", zeros(count)),
    ]
}

fn databases(database: &str) -> Columns {
    vec![
        ("oid", int8([5])),
        ("datname", text([database])),
        ("datdba", int8([OWNER])),
        ("encoding", int4([6])),
        ("datlocprovider", text(["c"])),
        ("datcollate", text(["C"])),
        ("datctype", text(["C"])),
        ("daticulocale", nulls(1)),
        ("daticurules", nulls(1)),
        ("datistemplate", all(false, 1)),
        ("datallowconn", all(true, 1)),
        ("datconnlimit", int4([-1])),
        ("datacl", nulls(1)),
        ("dattablespace", zeros(1)),
    ]
}

/// `pg_roles` or `pg_user`, which name their columns differently.
fn roles(prefix: &str, user: &str) -> Columns {
    let count = 1;
    match prefix {
        "rol" => {
            let mut columns = vec![
                ("oid", int8([OWNER])),
                ("rolname", text([user])),
                ("rolconnlimit", int4([-1])),
                ("rolvaliduntil", nulls(count)),
                ("rolcanlogin", all(true, count)),
            ];
            for name in ["rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"] {
                columns.push((name, all(false, count)));
            }
            columns
        }
        _ => vec![("usesysid", int8([OWNER])), ("usename", text([user])), ("usesuper", all(false, count))],
    }
}
