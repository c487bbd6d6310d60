//! The source's tables as its catalogue describes them.

use tokio_postgres::{Client, Row};

use super::copy_ranges::TableSize;
use super::definitions;
use crate::archive::{Store, existing_columns};
use crate::columnar::Storage;
use crate::columnar::names::{ColumnNames, source_column};
use crate::failure::{Failure, Result};
use crate::model::{Identity, RelationVersion, TableName, TablePattern};
use crate::transaction::Definition;

/// An ordinary table of the source (partitions included, partitioned parents not: they hold no rows).
#[derive(Debug, Clone)]
pub struct SourceTable {
    pub oid: u32,
    pub name: TableName,
    pub identity: Identity,
    /// Whether updates and deletes can be published as the table stands.
    pub identity_usable: bool,
    /// The replica identity with which they could be: `FULL`, or `DEFAULT` where not all columns can be published.
    pub identity_to_set: Option<String>,
    pub owner: String,
    /// Whether the owner is a superuser, which nobody is made a member of lightly.
    pub owner_is_superuser: bool,
    /// Whether the current role may publish and alter it.
    pub owned: bool,
    /// Whether the current role may read it.
    pub readable: bool,
    pub unlogged: bool,
    /// On disk, TOASTed values included.
    pub bytes: i64,
    /// Pages of its heap; 0 where it has another access method.
    pub pages: i64,
}

impl SourceTable {
    pub(super) fn size(&self) -> TableSize {
        TableSize { bytes: self.bytes.max(0) as u64, pages: self.pages.max(0) as u64 }
    }

    /// Whether its updates and deletes can be published, by another identity if need be and if that may be set.
    pub fn can_be_published(&self, set_identity: bool) -> bool {
        self.identity_usable || (set_identity && self.identity_to_set.is_some())
    }
}

const TABLES: &str = concat!(
    "SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relpersistence::text,",
    include_str!("definitions/identity_usable.sql"),
    ",",
    include_str!("definitions/identity_to_set.sql"),
    ",
       pg_has_role(c.relowner, 'USAGE'),
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
       pg_table_size(c.oid), CASE WHEN c.relam = (SELECT oid FROM pg_am WHERE amname = 'heap')
         THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END,
       o.rolname::text, o.rolsuper
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND ($1::oid IS NULL OR c.oid = $1)
ORDER BY n.nspname, c.relname"
);

/// Refuses patterns that name nothing.
///
/// # Errors
/// Usage, with the first such pattern.
pub fn require_matches(patterns: &[TablePattern], tables: &[SourceTable]) -> Result<()> {
    match patterns.iter().find(|pattern| !tables.iter().any(|table| pattern.matches(&table.name))) {
        Some(pattern) => Err(Failure::usage(format!("no table of the source matches {pattern}"))
            .remedy("list them with: psql -c '\\dt *.*'")),
        None => Ok(()),
    }
}

/// Every ordinary table outside the system schemas.
pub async fn tables(client: &Client) -> Result<Vec<SourceTable>> {
    let rows = client.query(TABLES, &[&None::<u32>]).await?;
    Ok(rows.iter().map(source_table).collect())
}

/// One of them.
pub async fn table(client: &Client, oid: u32) -> Result<Option<SourceTable>> {
    let row = client.query_opt(TABLES, &[&Some(oid)]).await?;
    Ok(row.as_ref().map(source_table))
}

fn source_table(row: &Row) -> SourceTable {
    SourceTable {
        oid: row.get(0),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        identity: Identity::of_letter(row.get::<_, String>(3).chars().next().unwrap_or('n')),
        unlogged: row.get::<_, String>(4) == "u",
        identity_usable: row.get(5),
        identity_to_set: row.get(6),
        owned: row.get(7),
        readable: row.get(8),
        bytes: row.get(9),
        pages: row.get(10),
        owner: row.get(11),
        owner_is_superuser: row.get(12),
    }
}

/// What the source says of a relation, in the shape that DDL capture tells it in; `None` where it is gone.
///
/// # Errors
/// Also where the relation is being changed so fast that its parts do not fit together.
pub async fn describe(client: &Client, oid: u32) -> Result<Option<Definition>> {
    let row = client.query_opt(definitions::DESCRIBE, &[&oid]).await?;
    row.map(|row| Definition::parse(row.get(0))).transpose()
}

const OUTSIDE: &str = "
SELECT kind || ' ' || string_agg(name, ', ' ORDER BY name)
FROM (
  SELECT CASE WHEN c.relkind = 'm' THEN 'materialized view' WHEN c.relkind = 'f' THEN 'foreign table'
              ELSE 'UNLOGGED table' END AS kind,
         c.oid::regclass::text AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (c.relkind IN ('m', 'f') OR (c.relkind = 'r' AND c.relpersistence = 'u'))
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
) outside GROUP BY kind
UNION ALL SELECT 'large objects: ' || count(*) FROM pg_largeobject_metadata HAVING count(*) > 0
ORDER BY 1";

/// What the source has besides tables that its logical stream does not show, by kind (PostgreSQL manual, 31.8).
pub async fn outside_the_stream(client: &Client) -> Result<Vec<String>> {
    Ok(client.query(OUTSIDE, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// The partitioned tables outside the system schemas.
pub async fn partitioned_tables(client: &Client) -> Result<Vec<u32>> {
    let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind = 'p' AND c.relpersistence = 'p'
                 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY c.oid";
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Whether a publication has a table.
pub async fn is_published(client: &Client, oid: u32, publication: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_publication p WHERE p.pubname = $2 AND (p.puballtables
                 OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1)))";
    Ok(client.query_one(sql, &[&oid, &publication]).await?.get(0))
}

const UNPUBLISHED: &str = "
SELECT c.oid, n.nspname, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u')
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (
    SELECT FROM pg_publication p WHERE p.pubname = $1 AND (p.puballtables AND c.relpersistence = 'p'
      OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)))
ORDER BY n.nspname, c.relname";

/// The ordinary tables that the archive's publication does not have, by oid and name.
pub async fn unpublished(client: &Client, publication: &str) -> Result<Vec<(u32, TableName)>> {
    let rows = client.query(UNPUBLISHED, &[&publication]).await?;
    Ok(rows.iter().map(|row| (row.get(0), TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)))).collect())
}

/// Type names by type oid and modifier, as `format_type` writes them.
pub async fn type_name(client: &Client, oid: u32, modifier: i32) -> Result<String> {
    let row = client.query_one("SELECT format_type($1, $2)", &[&oid, &modifier]).await?;
    Ok(row.get(0))
}

/// Gives a relation's columns the names under which this archive stores them.
pub async fn assign_stored_names(store: &Store, relation: &mut RelationVersion) -> Result<()> {
    let existing = existing_columns(store, &relation.name).await?;
    StoredNames { existing: existing.as_ref() }.assign(relation);
    Ok(())
}

/// Gives columns the names under which they are stored, the same ones as before where type and name
/// are the same, so that a table's history stays in one column.
#[derive(Debug, Clone, Copy)]
struct StoredNames<'a> {
    /// The columns that the archive has for the table.
    existing: Option<&'a arrow::datatypes::Schema>,
}

impl StoredNames<'_> {
    fn assign(&self, relation: &mut RelationVersion) {
        let mut names = ColumnNames::default();
        let mut kept: Vec<Option<String>> = vec![None; relation.columns.len()];
        let existing = self.existing.map(|schema| schema.fields().iter().collect::<Vec<_>>()).unwrap_or_default();
        let mut free: Vec<_> = existing
            .into_iter()
            .filter(|field| !crate::columnar::names::RESERVED.contains(&field.name().as_str()))
            .collect();
        for (at, column) in relation.columns.iter().enumerate() {
            let wanted = Storage::of_column(column).arrow_type();
            let found = free.iter().position(|field| {
                field.data_type() == &wanted && source_column(field.name()).as_deref() == Some(&column.name)
            });
            if let Some(found) = found {
                let field = free.remove(found);
                names.reserve(field.name());
                kept[at] = Some(field.name().clone());
            }
        }
        // Names of columns that are gone, or had another type, are not given to others.
        free.iter().for_each(|field| names.reserve(field.name()));
        for (column, kept) in relation.columns.iter_mut().zip(kept) {
            column.stored = kept.unwrap_or_else(|| names.assign(&column.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::model::Column;

    fn relation(columns: &[(&str, u32)]) -> RelationVersion {
        let columns = columns.iter().map(|&(name, type_oid)| Column::new(name, type_oid, -1, false)).collect();
        RelationVersion::new(1, TableName::new("public", "t"), Identity::Default, columns)
    }

    fn stored(relation: &RelationVersion) -> Vec<&str> {
        relation.columns.iter().map(|column| column.stored.as_str()).collect()
    }

    #[test]
    fn a_column_keeps_its_stored_name_while_its_type_stays() {
        let existing = Schema::new(vec![
            Field::new("_lsn", DataType::Int64, true),
            Field::new("id", DataType::Int32, true),
            Field::new("note", DataType::Utf8, true),
        ]);
        let mut same = relation(&[("note", 25), ("id", 23)]);
        StoredNames { existing: Some(&existing) }.assign(&mut same);
        assert_eq!(stored(&same), ["note", "id"]);
        let mut widened = relation(&[("id", 20), ("note", 25)]);
        StoredNames { existing: Some(&existing) }.assign(&mut widened);
        assert_eq!(stored(&widened), ["id~1", "note"]);
    }
}
