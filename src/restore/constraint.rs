//! What a table demands of its rows, beyond types and foreign keys.

use tokio_postgres::{Client, Row};

use crate::failure::Result;
use crate::model::quote_identifier;

/// A CHECK, or an index that forbids rows beside each other.
#[derive(Debug, Clone)]
pub(super) struct Constraint {
    pub(super) name: String,
    pub(super) demand: Demand,
    /// As PostgreSQL writes it.
    pub(super) definition: String,
    pub(super) comment: Option<String>,
    /// It comes from a parent, and goes only with the parent's.
    pub(super) inherited: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Demand {
    /// A condition over a row, and the columns that it names; none where it is about the row as a whole.
    Check(String, Vec<String>),
    /// No two rows for which all of the operators hold.
    Apart(Apart),
}

/// The elements of a unique index or of an exclusion constraint.
#[derive(Debug, Clone)]
pub(super) struct Apart {
    /// Expressions over a row's columns, each with the operator that must not hold for all of them at once.
    pub(super) elements: Vec<(String, String)>,
    /// The columns, where all elements are columns.
    pub(super) columns: Option<Vec<String>>,
    /// Only rows for which this holds.
    pub(super) predicate: Option<String>,
    pub(super) nulls_are_equal: bool,
    pub(super) unique: bool,
}

const CHECKS: &str = "
SELECT k.conname, pg_get_expr(k.conbin, k.conrelid), pg_get_constraintdef(k.oid),
       obj_description(k.oid, 'pg_constraint'), k.coninhcount > 0,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) AS c(number)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.number)
FROM pg_constraint k
WHERE k.conrelid = $1 AND k.contype = 'c' AND COALESCE((to_jsonb(k) ->> 'conenforced')::boolean, true)
ORDER BY k.conname";

/// The equality of a unique index's element is that of its operator class; an exclusion constraint names its operators.
const APART: &str = "
SELECT COALESCE(k.conname, x.relname), COALESCE(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)),
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, e, false) FROM generate_series(1, i.indnkeyatts) e ORDER BY e),
       ARRAY(SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
             FROM generate_series(1, i.indnkeyatts) e
             JOIN pg_opclass c ON c.oid = (i.indclass::oid[])[e - 1]
             LEFT JOIN pg_amop m ON k.conexclop IS NULL AND m.amopfamily = c.opcfamily
               AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3
             JOIN pg_operator o ON o.oid = COALESCE(k.conexclop[e], m.amopopr)
             JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY e),
       ARRAY(SELECT a.attname::text FROM generate_series(1, i.indnkeyatts) e
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = (i.indkey::int2[])[e - 1] ORDER BY e),
       i.indnkeyatts::int4, pg_get_expr(i.indpred, i.indrelid),
       COALESCE((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false), k.conexclop IS NULL
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion) AND i.indisready
ORDER BY i.indexrelid";

/// Every constraint that is enforced for rows that are written now.
pub(super) async fn of_table(client: &Client, oid: u32) -> Result<Vec<Constraint>> {
    let checks = client.query(CHECKS, &[&oid]).await?;
    let indexes = client.query(APART, &[&oid]).await?;
    Ok(checks.iter().map(check).chain(indexes.iter().map(apart)).collect())
}

fn check(row: &Row) -> Constraint {
    Constraint {
        name: row.get(0),
        demand: Demand::Check(row.get(1), row.get(5)),
        definition: row.get(2),
        comment: row.get(3),
        inherited: row.get(4),
    }
}

fn apart(row: &Row) -> Constraint {
    let (expressions, operators): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
    let columns: Vec<String> = row.get(4);
    let elements: i32 = row.get(5);
    let all_columns = columns.len() as i32 == elements;
    let expressions: Vec<String> = match all_columns {
        true => columns.iter().map(|column| quote_identifier(column)).collect(),
        false => expressions,
    };
    let demand = Apart {
        elements: expressions.into_iter().zip(operators).collect(),
        columns: all_columns.then_some(columns),
        predicate: row.get(6),
        nulls_are_equal: row.get(7),
        unique: row.get(8),
    };
    let (name, definition) = (row.get(0), row.get(1));
    Constraint { name, demand: Demand::Apart(demand), definition, comment: None, inherited: false }
}
