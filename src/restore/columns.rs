//! The columns of a table as they are in the source now.

use tokio_postgres::{Client, Row};

use crate::failure::Result;
use crate::model::{Column, TableName};

/// One column.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveColumn {
    pub(super) name: String,
    /// Its number in the catalogue: its identity across renames.
    pub(super) number: i16,
    pub(super) generated: bool,
    /// Its values may be the numbers of large objects that there are.
    pub(super) names_objects: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: no update may set it.
    pub(super) always_identity: bool,
    /// The sequence that the column owns, where the column is an integer, and whether it counts upwards.
    pub(super) sequence: Option<(TableName, bool)>,
    pub(super) not_null: bool,
    /// The type whose values it has, a domain's bottom: oid, modifier, and how SQL spells it.
    pub(super) type_oid: u32,
    pub(super) modifier: i32,
    pub(super) type_sql: String,
    /// The domain that its values belong to.
    pub(super) domain: Option<String>,
    /// What a row that does not say takes; or, of a generated column, how PostgreSQL computes it.
    pub(super) expression: Option<String>,
    pub(super) identity: bool,
}

impl LiveColumn {
    /// Whether the archive's texts of a column are surely texts of this one: the same built-in type.
    pub(super) fn reads_as_it_is(&self, archived: &Column) -> bool {
        const FIRST_OF_USERS: u32 = 16384;
        archived.value_type() == (self.type_oid, self.modifier) && self.type_oid < FIRST_OF_USERS
    }

    /// Whether its type is another than the archived column's.
    pub(super) fn differs_from(&self, archived: &Column) -> bool {
        archived.value_type() != (self.type_oid, self.modifier)
    }
}

const COLUMNS: &str = "
SELECT a.attname, a.attgenerated <> '', a.attidentity = 'a', s.nspname, s.relname, s.upwards,
       (a.atttypid = 'oid'::regtype OR t.typname = 'lo' AND t.typbasetype = 'oid'::regtype)
         AND EXISTS (SELECT FROM pg_largeobject_metadata),
       a.attnum, base.oid, base.modifier, format_type(base.oid, base.modifier),
       CASE t.typtype WHEN 'd' THEN format_type(a.atttypid, a.atttypmod) END,
       a.attnotnull, pg_get_expr(e.adbin, e.adrelid), a.attidentity <> ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
CROSS JOIN LATERAL (
  WITH RECURSIVE down AS (
    SELECT a.atttypid AS oid, a.atttypmod AS modifier
    UNION ALL
    SELECT b.typbasetype, b.typtypmod FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype = 'd')
  SELECT down.oid, down.modifier FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype <> 'd'
) base
LEFT JOIN LATERAL (
  SELECT n.nspname, c.relname, q.seqincrement > 0 AS upwards
  FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence q ON q.seqrelid = c.oid
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
    AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
  ORDER BY c.oid LIMIT 1
) s ON true
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

pub(super) async fn of_table(client: &Client, oid: u32) -> Result<Vec<LiveColumn>> {
    Ok(client.query(COLUMNS, &[&oid]).await?.iter().map(column).collect())
}

fn column(row: &Row) -> LiveColumn {
    let (schema, sequence, upwards): (Option<String>, Option<String>, Option<bool>) =
        (row.get(3), row.get(4), row.get(5));
    LiveColumn {
        name: row.get(0),
        generated: row.get(1),
        always_identity: row.get(2),
        sequence: schema.zip(sequence).map(|(schema, name)| (TableName::new(schema, name), upwards != Some(false))),
        names_objects: row.get(6),
        number: row.get(7),
        type_oid: row.get(8),
        modifier: row.get(9),
        type_sql: row.get(10),
        domain: row.get(11),
        not_null: row.get(12),
        expression: row.get(13),
        identity: row.get(14),
    }
}
