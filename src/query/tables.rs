//! What a session needs to know of the archive.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::scalar::ScalarValue;
use object_store::path::Path;

use super::Derived;
use crate::failure::Result;
use crate::model::TableName;

/// A table of the archive, as SQL can name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableRef {
    /// One row per change of a source table.
    Changes(TableName),
    /// The base images of a source table.
    Images(TableName),
    /// A source table as it was at the session's point.
    State(TableName),
    /// One of the archive's own logs: `transactions`, `marks`, `gaps`, …
    Log(String),
}

/// Shown as the shortest name that SQL accepts: `orders`, `changes.orders`, `changes.tenant_1.orders`, `afterimage.marks`.
impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            TableRef::Changes(name) => ("changes.", name.to_string()),
            TableRef::Images(name) => ("images.", name.to_string()),
            TableRef::State(name) => ("", name.to_string()),
            TableRef::Log(name) => ("afterimage.", TableName::new("public", name).to_string()),
        };
        write!(f, "{kind}{}", name.strip_prefix("public.").unwrap_or(&name))
    }
}

/// Where a session finds tables: one view of one archive at one watermark.
///
/// Everything that one value answers belongs to the same watermark. Whoever wants to see later
/// transactions makes a new value and, with [`super::Session::over`], a session over it.
#[async_trait]
pub trait Tables: Send + Sync + fmt::Debug {
    /// Every table there is, in any order. Asked only where names are listed or a name is unknown.
    async fn list(&self) -> Result<Vec<TableRef>>;

    /// The files of a table of changes, images or a log; `None` where there is no such table.
    async fn open(&self, table: &TableRef) -> Result<Option<TableFiles>>;

    /// The rows of a log that is not stored but told from others; `None` where it is stored, or there is none.
    async fn told(&self, _log: &TableRef) -> Result<Option<RecordBatch>> {
        Ok(None)
    }

    /// What is made of a table's history; `None` where there never was such a table.
    async fn derive(&self, what: &Derived) -> Result<Option<Arc<dyn TableProvider>>>;

    /// What a query gets of a table: the table itself, or less of it.
    fn guard(&self, table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        table
    }
}

/// A table's columns and the complete list of its files.
#[derive(Debug, Clone)]
pub struct TableFiles {
    /// Columns in the order and under the names in which SQL shows them, partition columns included.
    pub schema: SchemaRef,
    /// All the files; none is found by listing.
    pub files: Vec<DataFile>,
    /// Rows whose [`TableFiles::lsn_column`] is above this, or NULL, are not visible. `None`: all rows are.
    pub visible_through: Option<i64>,
    /// Where the table has `visible_through`: rows whose column is below this are not visible either.
    pub visible_from: Option<i64>,
    /// The shown name of the 64-bit column that places a row in commit order.
    pub lsn_column: String,
    /// For columns whose name in the files differs from the one shown: shown name to stored name.
    pub stored_names: HashMap<String, String>,
}

impl TableFiles {
    /// A table whose files have its columns under the names that are shown, and whose rows `_lsn` places.
    pub fn new(schema: SchemaRef, files: Vec<DataFile>, visible_through: Option<i64>) -> Self {
        let (lsn_column, stored_names) = ("_lsn".into(), HashMap::new());
        TableFiles { schema, files, visible_through, visible_from: None, lsn_column, stored_names }
    }
}

/// One immutable Parquet file of a table.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Where the file is, relative to the session's object store.
    pub path: Path,
    /// Its exact size in bytes.
    pub size: u64,
    /// Columns that are constant in the file and absent from it, by the name shown.
    pub partition_values: Vec<(String, ScalarValue)>,
    /// The smallest and largest LSN in the file where known; lets whole files be left unread.
    /// Bounds that are wider than the truth are safe, narrower ones lose rows.
    pub lsn_range: Option<(i64, i64)>,
    /// The same for columns of whole numbers, by the name in the file, apart from NULLs.
    pub numbers: Vec<(String, i64, i64)>,
}

impl DataFile {
    /// A file without constants, of which only the place and the size in bytes are known.
    pub fn new(path: Path, size: u64) -> Self {
        DataFile { path, size, partition_values: Vec::new(), lsn_range: None, numbers: Vec::new() }
    }
}
