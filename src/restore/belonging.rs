//! Whose rows they are: a tenant's, by a column that names it; an entity's, because they are it; or of either, because they
//! refer to such rows.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::catalog::{self, ForeignKey, LiveTable};
use super::difference::Difference;
use super::plan::Note;
use super::workspace::Workspace;
use crate::failure::{Failure, Result};
use crate::model::{TableName, quote_identifier, quote_literal};

/// Whose rows are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The tenant with this name.
    Tenant(String),
    /// The row of a table with this key, and all below it.
    Entity { table: TableName, key: String },
}

/// Rows of a plan that belong to one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCount {
    pub table: TableName,
    pub column: String,
    pub value: Option<String>,
    pub rows: u64,
}

/// How far foreign keys are followed to a table that names its tenant.
const STEPS: usize = 6;

/// The plan's rows by tenant, most first.
pub(super) async fn count(workspace: &Workspace<'_>, tables: &[Difference]) -> Result<Vec<TenantCount>> {
    let mut counts = Vec::new();
    for table in tables.iter().filter(|table| table.counts.rows() > 0) {
        let Some(at) = tenant_column(workspace, table) else { continue };
        let sql = format!(
            "SELECT CASE WHEN o.afterimage_then IS NULL THEN l.c{at} ELSE t.c{at} END::text, count(*) FROM {} AS o \
             LEFT JOIN {} AS t ON t.ctid = o.afterimage_then LEFT JOIN {} AS l ON l.afterimage_tid = o.afterimage_live \
             GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1000",
            table.operations(),
            table.rows(),
            table.live_rows()
        );
        for row in workspace.query(&sql, &[]).await? {
            let (name, column) = (table.name.clone(), table.columns[at].name.clone());
            let rows = row.get::<_, i64>(1).unsigned_abs();
            counts.push(TenantCount { table: name, column, value: row.get(0), rows });
        }
    }
    Ok(counts)
}

fn tenant_column(workspace: &Workspace<'_>, table: &Difference) -> Option<usize> {
    let names = &workspace.request.tenant_columns;
    names.iter().find_map(|name| table.position(name))
}

/// The table of an entity and all that hang on it by foreign keys, however indirectly.
pub(super) async fn tables_below(workspace: &Workspace<'_>, table: &TableName) -> Result<BTreeSet<TableName>> {
    let mut found = BTreeSet::from([table.clone()]);
    let root = catalog::find(&workspace.session, table).await?;
    let mut open: Vec<u32> = root.into_iter().collect();
    let mut seen: BTreeSet<u32> = open.iter().copied().collect();
    while !open.is_empty() {
        let keys = catalog::foreign_keys(&workspace.session, &open).await?;
        let below: Vec<&ForeignKey> = keys.iter().filter(|key| open.contains(&key.parent)).collect();
        found.extend(below.iter().map(|key| key.child_name.clone()));
        open = below.iter().map(|key| key.child).filter(|child| seen.insert(*child)).collect();
    }
    Ok(found)
}

/// Leaves out what is not the owner's.
pub(super) async fn keep(workspace: &Workspace<'_>, tables: &mut [Difference], owner: &Owner) -> Result<Vec<Note>> {
    let schema = Schema::read(workspace, tables, owner).await?;
    let mut notes = Vec::new();
    for table in tables.iter() {
        let paths = schema.paths(table.live.oid);
        if schema.column_of(table).is_none() && paths.is_empty() {
            workspace.execute(&format!("DELETE FROM {}", table.operations())).await?;
            if table.counts.rows() > 0 {
                notes.push(Note::about(&table.name, "is tied to no such row; left as it is"));
            }
            continue;
        }
        let belongs = |alias: &'static str| schema.belongs(tables, table, alias);
        let sql = format!(
            "DELETE FROM {} AS p WHERE p.ctid IN (SELECT o.ctid FROM {} AS o \
             LEFT JOIN {} AS t ON t.ctid = o.afterimage_then LEFT JOIN {} AS l ON l.afterimage_tid = o.afterimage_live \
             WHERE NOT COALESCE(CASE WHEN o.afterimage_then IS NULL THEN {} ELSE {} END, false))",
            table.operations(),
            table.operations(),
            table.rows(),
            table.live_rows(),
            belongs("l").join(" OR "),
            belongs("t").join(" OR ")
        );
        workspace.execute(&sql).await?;
        let ways = belongs("t");
        if ways.len() > 1 && matches!(owner, Owner::Tenant(_)) {
            let others: Vec<String> = ways.iter().map(|way| format!("{way} IS FALSE")).collect();
            let sql = format!(
                "SELECT count(*) FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then WHERE {}",
                table.operations(),
                table.rows(),
                others.join(" OR ")
            );
            let shared = workspace.count(&sql).await?;
            if shared > 0 {
                let text = format!("{shared} rows of the plan refer to rows of other tenants as well");
                notes.push(Note::about(&table.name, text));
            }
        }
    }
    for table in tables.iter_mut() {
        table.recount(workspace).await?;
    }
    Ok(notes)
}

/// The column that says whose a table's rows are, where one does.
async fn naming_column(workspace: &Workspace<'_>, live: &LiveTable, owner: &Owner) -> Result<Option<String>> {
    match owner {
        Owner::Tenant(_) => {
            let names = &workspace.request.tenant_columns;
            Ok(names.iter().find(|name| live.columns.iter().any(|column| column.name == **name)).cloned())
        }
        Owner::Entity { table, .. } => {
            if catalog::find(&workspace.session, table).await? != Some(live.oid) {
                return Ok(None);
            }
            match live.keys.first().map(Vec::as_slice) {
                Some([column]) => Ok(Some(column.name.clone())),
                _ => Err(Failure::usage(format!("{table} has no key of one column"))
                    .remedy("choose the rows with --where instead")),
            }
        }
    }
}

/// The tables around those of the restore, by their oids.
struct Schema {
    /// The column that says whose a table's rows are.
    columns: BTreeMap<u32, Option<String>>,
    value: String,
    keys: Vec<ForeignKey>,
}

impl Schema {
    async fn read(workspace: &Workspace<'_>, tables: &[Difference], owner: &Owner) -> Result<Schema> {
        let value = match owner {
            Owner::Tenant(value) => value,
            Owner::Entity { key, .. } => key,
        };
        let mut schema = Schema { columns: BTreeMap::new(), value: quote_literal(value), keys: Vec::new() };
        let mut open: Vec<u32> = tables.iter().map(|table| table.live.oid).collect();
        let mut seen = BTreeSet::new();
        for _ in 0..STEPS {
            open.retain(|oid| seen.insert(*oid));
            if open.is_empty() {
                break;
            }
            for &oid in &open {
                let live: LiveTable = catalog::table(&workspace.session, oid).await?;
                schema.columns.insert(oid, naming_column(workspace, &live, owner).await?);
            }
            let found = catalog::foreign_keys(&workspace.session, &open).await?;
            let outgoing = found.into_iter().filter(|key| open.contains(&key.child) && !key.of_partition);
            let outgoing: Vec<ForeignKey> = outgoing.collect();
            let parents = outgoing.iter().map(|key| key.parent).collect();
            schema.keys.extend(outgoing);
            open = parents;
        }
        let tied = tables.iter().any(|table| !schema.paths(table.live.oid).is_empty() || schema.names(table.live.oid));
        match (tied, owner) {
            (true, _) => Ok(schema),
            (false, Owner::Entity { table, .. }) => {
                Err(Failure::refused(format!("the archive has no rows of {table}")))
            }
            (false, Owner::Tenant(_)) => Err(Failure::usage(
                "none of these tables names a tenant, nor refers to one that does",
            )
            .remedy("name the column in the configuration: tenant_columns = [\"organization_id\"] under [restore]")),
        }
    }

    /// Where a table has the column that says whose its rows are.
    fn column_of(&self, table: &Difference) -> Option<usize> {
        let name = self.columns.get(&table.live.oid)?.as_ref()?;
        table.columns.iter().position(|column| column.name == *name)
    }

    fn names(&self, oid: u32) -> bool {
        self.columns.get(&oid).is_some_and(Option::is_some)
    }

    /// The foreign keys of a table that lead to one that names its tenant.
    fn paths(&self, oid: u32) -> Vec<&ForeignKey> {
        self.paths_within(oid, STEPS)
    }

    fn paths_within(&self, oid: u32, steps: usize) -> Vec<&ForeignKey> {
        let leads = |key: &&ForeignKey| {
            key.parent != oid
                && (self.names(key.parent) || steps > 0 && !self.paths_within(key.parent, steps - 1).is_empty())
        };
        self.keys.iter().filter(|key| key.child == oid).filter(leads).collect()
    }

    /// Conditions, any of which says that a row of a temporary table is the tenant's.
    fn belongs(&self, tables: &[Difference], table: &Difference, alias: &str) -> Vec<String> {
        if let Some(at) = self.column_of(table) {
            return vec![format!("({alias}.c{at}::text = {})", self.value)];
        }
        let column = |name: &str| {
            let at = table.position(name)?;
            Some(format!("{alias}.c{at}"))
        };
        let paths = self.paths(table.live.oid);
        paths.iter().filter_map(|key| self.parent_belongs(tables, key, &column, STEPS)).collect()
    }

    /// The condition that the row that a foreign key refers to is the tenant's, as it is, or as the plan has it.
    fn parent_belongs(
        &self,
        tables: &[Difference],
        key: &ForeignKey,
        child: &dyn Fn(&str) -> Option<String>,
        steps: usize,
    ) -> Option<String> {
        let refers = |parent: &dyn Fn(&str) -> Option<String>| {
            let parent: Vec<String> = key.referenced().map(parent).collect::<Option<_>>()?;
            let child: Vec<String> = key.referring().map(child).collect::<Option<_>>()?;
            Some(key.refers(|at| parent[at].clone(), |at| child[at].clone()))
        };
        let condition = |columns: &dyn Fn(&str) -> Option<String>| match self.columns.get(&key.parent) {
            Some(Some(column)) => Some(format!("{}::text = {}", columns(column)?, self.value)),
            _ if steps == 0 => None,
            _ => {
                let further = self.paths_within(key.parent, steps - 1);
                let ways = further.iter().filter_map(|next| self.parent_belongs(tables, next, columns, steps - 1));
                let ways: Vec<String> = ways.collect();
                (!ways.is_empty()).then(|| format!("({})", ways.join(" OR ")))
            }
        };
        let live_alias = format!("p{steps}");
        let live = |name: &str| Some(format!("{live_alias}.{}", quote_identifier(name)));
        let mut ways = vec![format!(
            "(SELECT bool_or({}) FROM {} AS {live_alias} WHERE {})",
            condition(&live)?,
            key.parents(),
            refers(&live)?
        )];
        if let Some(parent) = tables.iter().find(|table| table.live.oid == key.parent) {
            let alias = format!("s{steps}");
            let staged = |name: &str| {
                let at = parent.position(name)?;
                Some(format!("{alias}.c{at}"))
            };
            if let (Some(condition), Some(refers)) = (condition(&staged), refers(&staged)) {
                ways.push(format!("(SELECT bool_or({condition}) FROM {} AS {alias} WHERE {refers})", parent.rows()));
            }
        }
        Some(format!("(COALESCE({}))", ways.join(", ")))
    }
}
