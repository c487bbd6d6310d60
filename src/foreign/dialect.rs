//! How engines spell what a state needs.

use std::fmt;

use crate::columnar::Storage;

/// A query engine that reads the archive by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    DuckDb,
    ClickHouse,
    Spark,
    Trino,
    /// Ballista's SQL is the same.
    DataFusion,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Engine::DuckDb => "DuckDB",
            Engine::ClickHouse => "ClickHouse",
            Engine::Spark => "Spark",
            Engine::Trino => "Trino",
            Engine::DataFusion => "DataFusion",
        })
    }
}

impl Engine {
    /// Whether it reads Delta tables, so that a statement need not list files.
    pub(super) fn reads_tables(self) -> bool {
        matches!(self, Engine::ClickHouse | Engine::Spark | Engine::Trino)
    }

    /// A name that is taken as it is.
    pub(super) fn name(self, name: &str) -> String {
        match self {
            Engine::DuckDb | Engine::Trino | Engine::DataFusion => format!("\"{}\"", name.replace('"', "\"\"")),
            Engine::Spark => format!("`{}`", name.replace('`', "``")),
            Engine::ClickHouse => format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`")),
        }
    }

    /// A text.
    pub(super) fn text(self, text: &str) -> String {
        match self {
            Engine::DuckDb | Engine::Trino | Engine::DataFusion => format!("'{}'", text.replace('\'', "''")),
            Engine::Spark | Engine::ClickHouse => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    }

    /// A field of a struct.
    pub(super) fn field(self, of: &str, field: &str) -> String {
        match self {
            Engine::DuckDb | Engine::DataFusion => format!("{of}[{}]", self.text(field)),
            Engine::Spark | Engine::Trino => format!("{of}.{}", self.name(field)),
            Engine::ClickHouse => format!("tupleElement({of}, {})", self.text(field)),
        }
    }

    /// A value of a map of texts to bytes, as text; NULL where the map has none.
    pub(super) fn entry(self, map: &str, key: &str) -> String {
        let key = self.text(key);
        match self {
            Engine::DuckDb => format!("decode({map}[{key}])"),
            Engine::ClickHouse => format!("if(mapContains({map}, {key}), {map}[{key}], NULL)"),
            Engine::Spark => format!("CAST({map}[{key}] AS STRING)"),
            Engine::Trino => format!("from_utf8(element_at({map}, {key}))"),
            Engine::DataFusion => format!("arrow_cast(map_extract({map}, {key})[1], 'Utf8')"),
        }
    }

    /// Whether a list of texts has one; false where there is no list.
    pub(super) fn has(self, list: &str, text: &str) -> String {
        let text = self.text(text);
        let function = match self {
            Engine::DuckDb => "list_contains",
            Engine::ClickHouse => return format!("has({list}, {text})"),
            Engine::Spark => "array_contains",
            Engine::Trino => "contains",
            Engine::DataFusion => "array_has",
        };
        format!("coalesce({function}({list}, {text}), FALSE)")
    }

    /// A value in the type of a column.
    pub(super) fn cast(self, value: &str, storage: &Storage) -> String {
        match self {
            Engine::DataFusion => format!("arrow_cast({value}, '{}')", arrow_type(storage)),
            // Its own cast to a type that knows no NULL refuses NULL; there is no list that is NULL.
            Engine::ClickHouse if value == "NULL" && matches!(storage, Storage::List { .. }) => {
                format!("CAST([] AS {})", self.type_name(storage))
            }
            _ => format!("CAST({value} AS {})", self.type_name(storage)),
        }
    }

    fn type_name(self, storage: &Storage) -> String {
        if self == Engine::ClickHouse {
            return clickhouse_type(storage);
        }
        match storage {
            Storage::Boolean => "BOOLEAN".to_owned(),
            Storage::Int16 => "SMALLINT".to_owned(),
            Storage::Int32 => "INTEGER".to_owned(),
            Storage::Int64 => "BIGINT".to_owned(),
            Storage::Float32 if self == Engine::Spark => "FLOAT".to_owned(),
            Storage::Float32 => "REAL".to_owned(),
            Storage::Float64 => "DOUBLE".to_owned(),
            Storage::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
            Storage::Date => "DATE".to_owned(),
            Storage::Timestamp => match self {
                Engine::Spark => "TIMESTAMP_NTZ".to_owned(),
                Engine::Trino => "TIMESTAMP(6)".to_owned(),
                _ => "TIMESTAMP".to_owned(),
            },
            Storage::TimestampTz => match self {
                Engine::Spark => "TIMESTAMP".to_owned(),
                Engine::Trino => "TIMESTAMP(6) WITH TIME ZONE".to_owned(),
                _ => "TIMESTAMPTZ".to_owned(),
            },
            Storage::Binary => match self {
                Engine::Spark => "BINARY".to_owned(),
                Engine::Trino => "VARBINARY".to_owned(),
                _ => "BLOB".to_owned(),
            },
            Storage::Text if self == Engine::Spark => "STRING".to_owned(),
            Storage::Text => "VARCHAR".to_owned(),
            Storage::List { element, .. } => match self {
                Engine::Spark => format!("ARRAY<{}>", self.type_name(element)),
                Engine::Trino => format!("ARRAY({})", self.type_name(element)),
                _ => format!("{}[]", self.type_name(element)),
            },
        }
    }

    /// Bytes.
    pub(super) fn bytes(self, hex: &str) -> String {
        match self {
            Engine::DuckDb | Engine::Trino => format!("from_hex('{hex}')"),
            Engine::ClickHouse | Engine::Spark => format!("unhex('{hex}')"),
            Engine::DataFusion => format!("decode('{hex}', 'hex')"),
        }
    }

    /// A list of values.
    pub(super) fn list(self, values: &[String]) -> String {
        let values = values.join(", ");
        match self {
            Engine::DuckDb | Engine::ClickHouse => format!("[{values}]"),
            Engine::Spark => format!("array({values})"),
            Engine::Trino => format!("ARRAY[{values}]"),
            Engine::DataFusion => format!("make_array({values})"),
        }
    }

    /// A whole number of any size that a place in history needs.
    pub(super) fn wide(self, number: &str) -> String {
        match self {
            Engine::DuckDb => format!("CAST({number} AS HUGEINT)"),
            Engine::ClickHouse => format!("toInt128({number})"),
            Engine::DataFusion => format!("arrow_cast({number}, 'Decimal128(38, 0)')"),
            Engine::Spark | Engine::Trino => format!("CAST({number} AS DECIMAL(38, 0))"),
        }
    }

    /// The sum of a column of whole numbers, as [`Engine::repeated`] takes it.
    pub(super) fn sum(self, column: &str) -> String {
        match self {
            // A function that wants no NULL is not given a type that has it.
            Engine::ClickHouse => format!("sum({column})"),
            _ => self.cast(&format!("sum({column})"), &Storage::Int64),
        }
    }

    /// Reads rows of a query as often as their column `n` says.
    pub(super) fn repeated(self, columns: &str, rows: &str) -> String {
        match self {
            Engine::DuckDb => {
                format!("SELECT {columns} FROM (SELECT *, unnest(range(n)) FROM {rows} WHERE n > 0) AS each")
            }
            Engine::DataFusion => {
                format!("SELECT {columns} FROM (SELECT *, unnest(range(0, n)) FROM {rows} WHERE n > 0) AS each")
            }
            Engine::ClickHouse => {
                format!("SELECT {columns} FROM {rows} ARRAY JOIN range(toUInt64(n)) AS nth WHERE n > 0")
            }
            Engine::Spark => {
                format!("SELECT {columns} FROM (SELECT *, explode(sequence(1, n)) FROM {rows} WHERE n > 0) AS each")
            }
            Engine::Trino => {
                format!("SELECT {columns} FROM {rows} CROSS JOIN UNNEST(sequence(1, n)) AS nth (nth) WHERE n > 0")
            }
        }
    }

    /// What stands behind the statement.
    pub(super) fn settings(self) -> &'static str {
        match self {
            Engine::ClickHouse => {
                "\nSETTINGS join_use_nulls = 1, prefer_column_name_to_alias = 1, output_format_decimal_trailing_zeros = 1"
            }
            _ => "",
        }
    }

    /// Whether names that differ in their letters' case only are the same.
    pub(super) fn folds_case(self) -> bool {
        matches!(self, Engine::DuckDb | Engine::Spark | Engine::Trino)
    }
}

fn clickhouse_type(storage: &Storage) -> String {
    let bare = match storage {
        Storage::Boolean => "Bool".to_owned(),
        Storage::Int16 => "Int16".to_owned(),
        Storage::Int32 => "Int32".to_owned(),
        Storage::Int64 => "Int64".to_owned(),
        Storage::Float32 => "Float32".to_owned(),
        Storage::Float64 => "Float64".to_owned(),
        Storage::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
        Storage::Date => "Date32".to_owned(),
        Storage::Timestamp => "DateTime64(6)".to_owned(),
        Storage::TimestampTz => "DateTime64(6, 'UTC')".to_owned(),
        Storage::Binary | Storage::Text => "String".to_owned(),
        Storage::List { element, .. } => return format!("Array({})", clickhouse_type(element)),
    };
    format!("Nullable({bare})")
}

/// A type as Arrow's Rust library writes it.
fn arrow_type(storage: &Storage) -> String {
    match storage {
        Storage::List { element, .. } => format!("List({})", arrow_type(element)),
        Storage::Decimal { precision, scale } => format!("Decimal128({precision}, {scale})"),
        Storage::Timestamp => "Timestamp(Microsecond, None)".to_owned(),
        Storage::TimestampTz => "Timestamp(Microsecond, Some(\"UTC\"))".to_owned(),
        other => format!("{:?}", other.arrow_type()),
    }
}
