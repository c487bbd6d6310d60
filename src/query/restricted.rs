//! What one user may see of an archive.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;

use super::guarded::GuardedTable;
use super::{Derived, TableFiles, TableRef, Tables};
use crate::failure::Result;
use crate::model::TablePattern;

/// The tables that somebody may read, and which of their rows.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Tables of the source; all where empty.
    pub tables: Vec<TablePattern>,
    /// A condition on a table's columns, in SQL, that holds for every row that is shown.
    pub rows: Option<String>,
}

impl Access {
    /// Whether a table is there at all. The archive's own logs speak of everybody's tables and rows, so they are only there
    /// where nothing is kept back.
    pub fn covers(&self, table: &TableRef) -> bool {
        match table {
            TableRef::State(name) | TableRef::Changes(name) | TableRef::Images(name) => {
                self.tables.is_empty() || self.tables.iter().any(|pattern| pattern.matches(name))
            }
            TableRef::Log(_) => self.is_unlimited(),
        }
    }

    /// Whether nothing is kept back.
    pub fn is_unlimited(&self) -> bool {
        let everything = |pattern: &TablePattern| pattern.to_string() == "*.*";
        self.rows.is_none() && (self.tables.is_empty() || self.tables.iter().any(everything))
    }
}

/// A view of an archive of which only a part is there: other tables do not exist, and rows that the condition does not
/// hold for are in none.
#[derive(Debug)]
pub struct RestrictedTables {
    tables: Arc<dyn Tables>,
    access: Access,
}

impl RestrictedTables {
    pub fn new(tables: Arc<dyn Tables>, access: Access) -> RestrictedTables {
        RestrictedTables { tables, access }
    }
}

#[async_trait]
impl Tables for RestrictedTables {
    async fn list(&self) -> Result<Vec<TableRef>> {
        let listed = self.tables.list().await?;
        Ok(listed.into_iter().filter(|table| self.access.covers(table)).collect())
    }

    async fn open(&self, table: &TableRef) -> Result<Option<TableFiles>> {
        match self.access.covers(table) {
            true => self.tables.open(table).await,
            false => Ok(None),
        }
    }

    async fn told(&self, log: &TableRef) -> Result<Option<RecordBatch>> {
        match self.access.covers(log) {
            true => self.tables.told(log).await,
            false => Ok(None),
        }
    }

    async fn derive(&self, what: &Derived) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.access.covers(&TableRef::State(what.table.clone())) {
            true => Ok(self.tables.derive(what).await?.map(|table| self.guard(table))),
            false => Ok(None),
        }
    }

    fn guard(&self, provider: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        match &self.access.rows {
            Some(condition) => Arc::new(GuardedTable::new(provider, condition.clone())),
            None => provider,
        }
    }
}
