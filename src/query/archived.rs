//! An archive as a session sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::scalar::ScalarValue;
use object_store::path::Path;

use super::account::AccountTable;
use super::state::StateTable;
use super::{DataFile, Derived, Function, TableFiles, TableRef, Tables, gaps};
use crate::archive::{Archive, LogTable, TablePath, Watermark, log};
use crate::columnar::{change_schema, image_table_schema, names};
use crate::failure::{Failure, Result};
use crate::history::{Account, Chronicle, Cut, Resolver, TableAt, resolve};
use crate::model::Point;
use crate::postgres::Source;

/// One archive at one watermark.
#[derive(Debug, Clone)]
pub struct ArchivedTables {
    archive: Archive,
    watermark: Watermark,
    /// Where states are shown unless another point is asked for.
    cut: Cut,
    /// What points such as `now` are asked of, and how long the archive may take to get there.
    source: Option<Source>,
    wait: Duration,
}

impl ArchivedTables {
    /// The archive as it is now.
    pub async fn now(archive: &Archive) -> Result<ArchivedTables> {
        let watermark = archive.watermark().await?;
        let cut = Cut { point: Point::Lsn(watermark.lsn), lsn: watermark.lsn, last: None, next: None };
        Ok(ArchivedTables { archive: archive.clone(), watermark, cut, source: None, wait: Duration::ZERO })
    }

    /// The same with states at another point.
    pub fn at(self, cut: Cut) -> ArchivedTables {
        ArchivedTables { cut, ..self }
    }

    /// The same with points resolved by what the source knows too.
    pub fn with_source(self, source: Option<Source>, wait: Duration) -> ArchivedTables {
        ArchivedTables { source, wait, ..self }
    }

    async fn resolve(&self, point: &Point) -> Result<Cut> {
        let resolver = Resolver { archive: &self.archive, source: self.source.as_ref(), wait: self.wait };
        resolve(&resolver, point).await
    }

    async fn state(&self, what: &Derived) -> Result<Option<Arc<dyn TableProvider>>> {
        let cut = match what.points.first() {
            Some(point) => &self.resolve(point).await?,
            None => &self.cut,
        };
        let table = TableAt::at(&self.archive, &what.table, cut).await?;
        Ok(table.map(|table| Arc::new(StateTable::new(table)) as Arc<dyn TableProvider>))
    }

    /// The archive that is seen.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What happened to a table's rows, as a table that [`super::Session::read`] reads.
    pub fn told(&self, chronicle: Chronicle, account: Account) -> Arc<dyn TableProvider> {
        Arc::new(AccountTable::new(chronicle, account))
    }

    async fn account(&self, what: &Derived, account: Account) -> Result<Option<Arc<dyn TableProvider>>> {
        let from = match what.points.first() {
            Some(point) => self.resolve(point).await?.lsn,
            None => self.archive.identity().start_lsn,
        };
        let to = match what.points.get(1) {
            Some(point) => self.resolve(point).await?.lsn,
            None => self.cut.lsn,
        };
        let chronicle = Chronicle::find(&self.archive, &what.table, from, to).await?;
        Ok(chronicle.map(|chronicle| self.told(chronicle, account)))
    }

    fn path(table: &TableRef) -> Option<TablePath> {
        match table {
            TableRef::Changes(name) => Some(TablePath::Changes(name.clone())),
            TableRef::Images(name) => Some(TablePath::Images(name.clone())),
            TableRef::State(_) => None,
            TableRef::Log(name) => LogTable::ALL.into_iter().find(|log| log.name() == name).map(TablePath::Log),
        }
    }

    /// The columns of a table that has no rows yet, so that asking for it gives none rather than an error.
    async fn empty(&self, table: &TableRef) -> Result<Option<SchemaRef>> {
        let (TableRef::Changes(name) | TableRef::Images(name)) = table else {
            let TableRef::Log(name) = table else { return Ok(None) };
            return Ok(LogTable::ALL.into_iter().find(|log| log.name() == name).map(log::schema));
        };
        let known = self.archive.tables_ever().await?;
        Ok(known.get(name).map(|relation| match table {
            TableRef::Changes(_) => change_schema(relation),
            _ => image_table_schema(relation),
        }))
    }
}

#[async_trait]
impl Tables for ArchivedTables {
    async fn list(&self) -> Result<Vec<TableRef>> {
        let mut known = Vec::new();
        for (name, relation) in self.archive.tables_ever().await? {
            known.push(TableRef::State(name.clone()));
            if relation.partitioned {
                continue;
            }
            known.push(TableRef::Changes(name.clone()));
            known.push(TableRef::Images(name));
        }
        known.extend(LogTable::ALL.into_iter().map(|log| TableRef::Log(log.name().to_owned())));
        Ok(known)
    }

    async fn told(&self, log: &TableRef) -> Result<Option<RecordBatch>> {
        match log {
            TableRef::Log(name) if name == gaps::NAME => gaps::rows(&self.archive, self.watermark.lsn).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn derive(&self, what: &Derived) -> Result<Option<Arc<dyn TableProvider>>> {
        match what.function {
            Function::AsOf => self.state(what).await,
            Function::Changes => self.account(what, Account::Changes).await,
            Function::Versions => self.account(what, Account::Versions).await,
            Function::Diff => self.account(what, Account::Differences).await,
        }
    }

    async fn open(&self, table: &TableRef) -> Result<Option<TableFiles>> {
        let Some(path) = Self::path(table) else { return Ok(None) };
        let (schema, files) = match self.archive.whole_table(&path).await? {
            Some(found) => found,
            None => match self.empty(table).await? {
                Some(schema) => (schema, Vec::new()),
                None => return Ok(None),
            },
        };
        let files = files.iter().map(data_file).collect::<Result<_>>()?;
        let watermark = self.watermark.lsn.as_i64();
        let mut found = TableFiles::new(schema, files, Some(watermark - 1));
        match path {
            TablePath::Changes(_) => {}
            // An image of the watermark itself is whole; one above it does not exist yet.
            TablePath::Images(_) => {
                found.lsn_column = names::IMAGE_LSN.to_owned();
                found.visible_through = Some(watermark);
            }
            // What a guard noted is no part of history.
            TablePath::Log(LogTable::Alerts | LogTable::Health) => found.visible_through = None,
            TablePath::Log(_) => {
                found.lsn_column = "lsn".to_owned();
                found.visible_through = Some(watermark);
            }
        }
        Ok(Some(found))
    }
}

pub(super) fn data_file(file: &crate::archive::DataFile) -> Result<DataFile> {
    let path = Path::parse(&file.path).map_err(|error| Failure::failed(format!("data file {}: {error}", file.path)))?;
    let mut found = DataFile::new(path, file.size);
    found.numbers.clone_from(&file.numbers);
    if let Some(lsn) = file.image_lsn {
        found.partition_values.push((names::IMAGE_LSN.to_owned(), ScalarValue::Int64(Some(lsn))));
        found.lsn_range = Some((lsn, lsn));
    }
    Ok(found)
}
