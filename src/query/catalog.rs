//! How names in SQL find tables of the archive.
//!
//! Three catalogs: the default one with the schemas `changes`, `images` and `afterimage` and, with their states, those of
//! the source; and one for each of `changes` and `images` whose schemas are the source's. A table can be reached under each
//! of its names, and is listed once, under the shortest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, MemTable, SchemaProvider, TableProvider};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::TableType;

use super::state::external;
use super::{ArchivedTable, Derived, TableRef, Tables};
use crate::model::TableName;

/// The catalog of two-part names.
pub(super) const DEFAULT_CATALOG: &str = "afterimage";

/// The schema of one-part names: the states of the tables of the source's `public`.
pub(super) const DEFAULT_SCHEMA: &str = "public";

/// The schema of the archive's own logs.
const LOG_SCHEMA: &str = "afterimage";

/// The schema of what a statement derives; no source's schema is likely to have the name, and none is listed under it.
pub(super) const DERIVED_SCHEMA: &str = "$derived";

const PUBLIC: &str = "public";

/// What all the catalogs of one query share.
#[derive(Debug)]
pub(super) struct View {
    pub(super) tables: Arc<dyn Tables>,
    /// The names to list; empty unless the query asks for listings.
    pub(super) listed: Vec<TableRef>,
    /// What the statement derives, by the name that stands in it.
    pub(super) derived: HashMap<String, Arc<dyn TableProvider>>,
    pub(super) store: ObjectStoreUrl,
}

#[derive(Debug)]
pub(super) struct Catalogs(pub(super) Arc<View>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Changes,
    Images,
}

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        match name {
            "changes" => Some(Kind::Changes),
            "images" => Some(Kind::Images),
            _ => None,
        }
    }

    fn table(self, schema: &str, table: &str) -> TableRef {
        let name = TableName::new(schema, table);
        match self {
            Kind::Changes => TableRef::Changes(name),
            Kind::Images => TableRef::Images(name),
        }
    }

    fn name_of(self, table: &TableRef) -> Option<&TableName> {
        match (self, table) {
            (Kind::Changes, TableRef::Changes(name)) | (Kind::Images, TableRef::Images(name)) => Some(name),
            _ => None,
        }
    }
}

impl CatalogProviderList for Catalogs {
    /// Catalogs are fixed; what is offered is dropped, and only code inside this crate could offer it.
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        [DEFAULT_CATALOG, "changes", "images"].map(str::to_owned).to_vec()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let view = Arc::clone(&self.0);
        if name == DEFAULT_CATALOG {
            return Some(Arc::new(DefaultCatalog(view)));
        }
        Kind::named(name).map(|kind| Arc::new(SourceCatalog { view, kind }) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct DefaultCatalog(Arc<View>);

impl CatalogProvider for DefaultCatalog {
    fn schema_names(&self) -> Vec<String> {
        let states = self.0.listed.iter().filter_map(|table| match table {
            TableRef::State(name) => Some(name.schema.clone()),
            _ => None,
        });
        let own = ["changes", "images", LOG_SCHEMA].map(str::to_owned);
        states.chain(own).collect::<BTreeSet<String>>().into_iter().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let place = match (name, Kind::named(name)) {
            (LOG_SCHEMA, _) => Place::Log,
            (DERIVED_SCHEMA, _) => Place::Derived,
            (_, Some(kind)) => Place::Public(kind),
            (_, None) => Place::State(name.to_owned()),
        };
        Some(Arc::new(Schema { view: Arc::clone(&self.0), place }))
    }
}

#[derive(Debug)]
struct SourceCatalog {
    view: Arc<View>,
    kind: Kind,
}

impl CatalogProvider for SourceCatalog {
    fn schema_names(&self) -> Vec<String> {
        let schemas: BTreeSet<&String> =
            self.view.listed.iter().filter_map(|table| self.kind.name_of(table)).map(|name| &name.schema).collect();
        schemas.into_iter().filter(|schema| *schema != PUBLIC).cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let place = Place::Source(self.kind, name.to_owned());
        Some(Arc::new(Schema { view: Arc::clone(&self.view), place }))
    }
}

#[derive(Debug)]
enum Place {
    /// Tables of the source's `public`, and `"schema.table"` in one identifier.
    Public(Kind),
    /// Tables of one of the source's schemas.
    Source(Kind, String),
    /// States of tables of one of the source's schemas.
    State(String),
    /// What the statement derives.
    Derived,
    Log,
}

impl Place {
    /// The tables that a name here can mean, the likeliest first.
    fn candidates(&self, name: &str) -> Vec<TableRef> {
        match self {
            Place::Log => vec![TableRef::Log(name.to_owned())],
            Place::State(_) | Place::Derived => Vec::new(),
            Place::Source(kind, schema) => vec![kind.table(schema, name)],
            Place::Public(kind) => {
                let split = name.match_indices('.').map(|(at, _)| kind.table(&name[..at], &name[at + 1..]));
                [kind.table(PUBLIC, name)].into_iter().chain(split).collect()
            }
        }
    }

    /// The name under which this place lists a table.
    fn listed_name<'a>(&self, table: &'a TableRef) -> Option<&'a String> {
        let (kind, schema) = match (self, table) {
            (Place::Log, TableRef::Log(name)) => return Some(name),
            (Place::State(schema), TableRef::State(name)) => return (name.schema == *schema).then_some(&name.table),
            (Place::Log | Place::State(_) | Place::Derived, _) => return None,
            (Place::Public(kind), _) => (kind, PUBLIC),
            (Place::Source(kind, schema), _) => (kind, schema.as_str()),
        };
        kind.name_of(table).filter(|name| name.schema == schema).map(|name| &name.table)
    }
}

#[derive(Debug)]
struct Schema {
    view: Arc<View>,
    place: Place,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        self.view.listed.iter().filter_map(|table| self.place.listed_name(table)).cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match &self.place {
            Place::Derived => return Ok(self.view.derived.get(name).cloned()),
            Place::State(schema) => {
                let state = Derived::state(TableName::new(schema, name));
                return self.view.tables.derive(&state).await.map_err(external);
            }
            _ => {}
        }
        for candidate in self.place.candidates(name) {
            if let Some(rows) = self.view.tables.told(&candidate).await.map_err(external)? {
                let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
                return Ok(Some(self.view.tables.guard(Arc::new(table))));
            }
            let opened = self.view.tables.open(&candidate).await;
            if let Some(files) = opened.map_err(external)? {
                let table = Arc::new(ArchivedTable::new(files, self.view.store.clone())?);
                return Ok(Some(self.view.tables.guard(table)));
            }
        }
        Ok(None)
    }

    /// Listings must not open every table of the archive.
    async fn table_type(&self, _: &str) -> Result<Option<TableType>> {
        Ok(Some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|listed| listed == name)
    }
}
