//! What one visitor sees of the archive at one watermark.

use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::Utc;
use futures::StreamExt as _;

use super::Console;
use super::admission::Visitor;
use super::trouble::Trouble;
use crate::archive::{Archive, Watermark};
use crate::failure::{Failure, Result};
use crate::history::{Account, Chronicle, Cut, Resolver, resolve};
use crate::model::{Lsn, Partitions, Point, RelationVersion, TableName, TablePattern};
use crate::query::{Access, ArchivedTables, RestrictedTables, Session, TableRef, Tables, Told, tell};
use crate::serve;

/// See the module's documentation.
pub(super) struct View {
    pub(super) archive: Archive,
    pub(super) watermark: Watermark,
    pub(super) access: Access,
    pub(super) session: Session,
    archived: Arc<ArchivedTables>,
    tables: Arc<RestrictedTables>,
}

/// Rows of a query as texts.
pub(super) struct Rows {
    pub(super) columns: Vec<(String, &'static str)>,
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// There were more.
    pub(super) cut: bool,
}

impl View {
    pub(super) async fn of(console: &Console, visitor: &Visitor) -> Result<View> {
        let archive = console.archive.clone();
        let watermark = archive.watermark().await?;
        let archived = Arc::new(ArchivedTables::now(&archive).await?);
        let seen: Arc<dyn Tables> = archived.clone();
        let access = visitor.access.clone();
        let tables = Arc::new(RestrictedTables::new(seen, access.clone()));
        let session = console.session.over(tables.clone());
        Ok(View { archive, watermark, access, session, archived, tables })
    }

    /// Whether nothing is kept back from the visitor, so that the archive's own logs are there.
    pub(super) fn is_unlimited(&self) -> bool {
        self.access.is_unlimited()
    }

    /// Refuses whoever may not see what tells of everybody's rows.
    pub(super) fn require_unlimited(&self, what: &str) -> Result<(), Trouble> {
        match self.is_unlimited() {
            true => Ok(()),
            false => Err(Trouble::forbidden(
                format!("{what} tell of everybody's tables and rows, and this user may see a part of them"),
                "ask somebody without limits; tables, rows and SQL show what this user may see",
            )),
        }
    }

    /// The tables that are there for the visitor, by name, with their latest versions.
    pub(super) async fn known(&self) -> Result<Vec<(TableName, RelationVersion)>> {
        let known = self.archive.tables_ever().await?.into_iter();
        let mut known: Vec<_> = known.filter(|(name, _)| self.covers(name)).collect();
        known.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(known)
    }

    pub(super) fn covers(&self, name: &TableName) -> bool {
        self.access.covers(&TableRef::State(name.clone()))
    }

    /// The one table that a name means.
    pub(super) async fn table(&self, written: &str) -> Result<(TableName, RelationVersion), Trouble> {
        let pattern = TablePattern::parse(written)?;
        let mut found = self.known().await?;
        found.retain(|(name, _)| pattern.matches(name));
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Trouble::absent(format!("no archived table is named {written}"), "choose one of the list")),
            _ => Err(Failure::usage(format!("{written} names several tables"))
                .remedy("name one, with its schema")
                .into()),
        }
    }

    /// Which tables patterns mean; all where there are none.
    pub(super) async fn wanted(&self, patterns: &[TablePattern]) -> Result<impl Fn(&TableName) -> bool + Sync + use<>> {
        let partitions = Partitions::of(self.archive.tables_ever().await?.values());
        let patterns = patterns.to_vec();
        Ok(move |name: &TableName| patterns.is_empty() || partitions.answers_any(name, &patterns))
    }

    /// A place in history; the watermark where none is written.
    pub(super) async fn cut(&self, written: Option<&str>) -> Result<Cut, Trouble> {
        let point = match written {
            None | Some("now") => Point::Lsn(self.watermark.lsn),
            Some(text) => Point::parse(text, Utc::now()).map_err(|error| Failure::usage(error.to_string()))?,
        };
        let resolver = Resolver { archive: &self.archive, source: None, wait: std::time::Duration::ZERO };
        Ok(resolve(&resolver, &point).await?)
    }

    /// What happened to a table between two places, as far as the visitor may see it.
    ///
    /// # Errors
    /// Absent where there is no such table.
    pub(super) async fn chronicle(&self, name: &TableName, from: Lsn, to: Lsn) -> Result<Chronicle, Trouble> {
        let absent = || Trouble::absent(format!("no archived table is named {name}"), "choose one of the list");
        if !self.covers(name) {
            return Err(absent());
        }
        Chronicle::find(&self.archive, name, from, to).await?.ok_or_else(absent)
    }

    /// Tells what happened to rows, without those that are kept back.
    pub(super) async fn tell(
        &self,
        chronicle: Chronicle,
        account: Account,
        sink: &mut (dyn FnMut(Told) -> Result<ControlFlow<()>> + Send),
    ) -> Result<()> {
        let columns = chronicle.columns().to_vec();
        let table = self.tables.guard(self.archived.told(chronicle, account));
        tell(&self.session, table, &columns, account, sink).await
    }

    /// The rows of a statement, `most` of them.
    pub(super) async fn rows(&self, sql: &str, most: usize) -> Result<Rows> {
        let mut result = self.session.sql(sql).await?;
        let columns = result.schema.fields().iter();
        let columns = columns.map(|field| (field.name().clone(), serve::type_name(field.data_type()))).collect();
        let mut found = Rows { columns, rows: Vec::new(), cut: false };
        while let Some(batch) = result.batches.next().await {
            let batch = batch?;
            let room = most - found.rows.len();
            found.cut = batch.num_rows() > room;
            found.rows.extend(serve::texts(&batch.slice(0, batch.num_rows().min(room)))?);
            if found.cut {
                break;
            }
        }
        Ok(found)
    }
}
