//! Tables as they are in the source now.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::columns::{self, LiveColumn};
use super::constraint::{self, Constraint};
use super::policies::{self, Policies};
use crate::failure::Result;
use crate::model::{TableName, quote_identifier};

/// One table of the source.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveTable {
    pub(super) oid: u32,
    /// The partitioned tables that it is a partition of, however indirectly.
    pub(super) ancestors: Vec<u32>,
    pub(super) columns: Vec<LiveColumn>,
    pub(super) constraints: Vec<Constraint>,
    /// Its unique keys without NULLs, the primary key first, then the replica identity.
    pub(super) keys: Vec<Vec<KeyColumn>>,
    /// Triggers of users that fire in an ordinary session.
    pub(super) triggers: Vec<Trigger>,
    /// Rewrite rules, which would replace what we do by something else.
    pub(super) rules: Vec<String>,
    /// Row-level security, where it binds the role.
    pub(super) policies: Option<Policies>,
    /// Whether the role may alter it.
    pub(super) owned: bool,
    /// What the role may not do with it: `SELECT`, `INSERT`, …
    pub(super) lacking: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// The equality of the key's index, qualified: `OPERATOR(pg_catalog.=)`.
    pub(super) equals: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trigger {
    pub(super) name: String,
    /// Fires in every session (`ENABLE ALWAYS`), not in ordinary ones only.
    pub(super) always: bool,
}

/// A foreign key between two tables.
#[derive(Debug, Clone)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    pub(super) parent: u32,
    pub(super) child: u32,
    pub(super) parent_name: TableName,
    pub(super) child_name: TableName,
    /// The parent holds no rows itself.
    pub(super) parent_partitioned: bool,
    /// It only says of one partition what another says of the whole parent.
    pub(super) of_partition: bool,
    pub(super) deferrable: bool,
    pub(super) definition: String,
    pub(super) comment: Option<String>,
    /// It is a partition's share of its parent's, and goes and comes with that.
    pub(super) inherited: bool,
    pub(super) on_delete: Action,
    pub(super) on_update: Action,
    /// Column of the parent, column of the child, and the equality between them.
    pub(super) columns: Vec<(String, String, String)>,
}

impl ForeignKey {
    /// The parent's columns that it names.
    pub(super) fn referenced(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(referenced, _, _)| referenced.as_str())
    }

    /// The child's columns that name them.
    pub(super) fn referring(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(_, referring, _)| referring.as_str())
    }

    /// The parent's rows as they are now, for `FROM`: of a partitioned table those of all its partitions.
    pub(super) fn parents(&self) -> String {
        let only = if self.parent_partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.parent_name.to_sql())
    }

    /// The condition that a child's row refers to a parent's; the columns of each are spelled by their number in the key.
    pub(super) fn refers(&self, parent: impl Fn(usize) -> String, child: impl Fn(usize) -> String) -> String {
        let equal = self.columns.iter().enumerate();
        let equal = equal.map(|(at, (_, _, equals))| format!("{} {equals} {}", parent(at), child(at)));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// Spells the parent's columns of a row as it is now.
    pub(super) fn live_parent(&self, alias: &str) -> impl Fn(usize) -> String {
        move |at| format!("{alias}.{}", quote_identifier(&self.columns[at].0))
    }

    /// Spells the child's columns of a row as it is now.
    pub(super) fn live_child(&self, alias: &str) -> impl Fn(usize) -> String {
        move |at| format!("{alias}.{}", quote_identifier(&self.columns[at].1))
    }
}

/// What happens to a child's row when its parent's goes (PostgreSQL manual, `pg_constraint.confdeltype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Forbid,
    Cascade,
    SetNull,
    SetDefault,
}

impl Action {
    fn of(letter: &str) -> Action {
        match letter {
            "c" => Action::Cascade,
            "n" => Action::SetNull,
            "d" => Action::SetDefault,
            _ => Action::Forbid,
        }
    }

    pub(super) fn as_sql(self) -> &'static str {
        match self {
            Action::Forbid => "NO ACTION",
            Action::Cascade => "CASCADE",
            Action::SetNull => "SET NULL",
            Action::SetDefault => "SET DEFAULT",
        }
    }
}

const FIND: &str = "
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'";

/// The oid of an ordinary table.
pub(super) async fn find(client: &Client, name: &TableName) -> Result<Option<u32>> {
    Ok(client.query_opt(FIND, &[&name.schema, &name.table]).await?.map(|row| row.get(0)))
}

/// What an ordinary table that had this oid is called now.
pub(super) async fn name_of(client: &Client, oid: u32) -> Result<Option<TableName>> {
    let sql = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.oid = $1 AND c.relkind = 'r'";
    let row = client.query_opt(sql, &[&oid]).await?;
    Ok(row.map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))))
}

/// Every table of users, partitioned ones included.
pub(super) async fn all_tables(client: &Client) -> Result<Vec<TableName>> {
    let sql = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
                 AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
               ORDER BY 1, 2";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

const TABLE: &str = "
SELECT pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
             WHERE NOT has_table_privilege(c.oid, p)),
       ARRAY(SELECT r.rulename::text FROM pg_rewrite r
             WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled IN ('O', 'A')),
       ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) AS a(relid) WHERE a.relid <> c.oid)
FROM pg_class c WHERE c.oid = $1";

/// Reads a table's definition.
pub(super) async fn table(client: &Client, oid: u32) -> Result<LiveTable> {
    let row = client.query_one(TABLE, &[&oid]).await?;
    Ok(LiveTable {
        oid,
        owned: row.get(0),
        lacking: row.get(1),
        rules: row.get(2),
        ancestors: row.get(3),
        columns: columns::of_table(client, oid).await?,
        constraints: constraint::of_table(client, oid).await?,
        keys: keys(client, oid).await?,
        triggers: triggers(client, oid).await?,
        policies: policies::of_table(client, oid).await?,
    })
}

/// Unique indexes that tell every row from every other, at once: no NULLs, no condition, no expression, not deferrable.
const KEYS: &str = "
SELECT i.indexrelid, a.attname, n.nspname, o.oprname
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, class, at)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass c ON c.oid = k.class
JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
  AND m.amopstrategy = 3
JOIN pg_operator o ON o.oid = m.amopopr
JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
  AND i.indexprs IS NULL AND k.at <= i.indnkeyatts
  AND NOT EXISTS (
    SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS nullable(attnum, at)
    JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum = nullable.attnum
    WHERE nullable.at <= i.indnkeyatts AND NOT b.attnotnull)
ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid, k.at";

async fn keys(client: &Client, oid: u32) -> Result<Vec<Vec<KeyColumn>>> {
    let mut keys: Vec<(u32, Vec<KeyColumn>)> = Vec::new();
    for row in client.query(KEYS, &[&oid]).await? {
        let index: u32 = row.get(0);
        let (schema, operator): (String, String) = (row.get(2), row.get(3));
        let equals = format!("OPERATOR({}.{operator})", quote_identifier(&schema));
        let column = KeyColumn { name: row.get(1), equals };
        match keys.last_mut().filter(|(last, _)| *last == index) {
            Some((_, columns)) => columns.push(column),
            None => keys.push((index, vec![column])),
        }
    }
    Ok(keys.into_iter().map(|(_, columns)| columns).collect())
}

async fn triggers(client: &Client, oid: u32) -> Result<Vec<Trigger>> {
    // What captures context harms no row, and a restore's own is worth knowing.
    let sql = "SELECT tgname, tgenabled = 'A' FROM pg_trigger JOIN pg_proc f ON f.oid = tgfoid
               WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('O', 'A')
                 AND f.proname <> 'afterimage_context' ORDER BY tgname";
    let rows = client.query(sql, &[&oid]).await?;
    Ok(rows.iter().map(|row| Trigger { name: row.get(0), always: row.get(1) }).collect())
}

const FOREIGN_KEYS: &str = "
SELECT f.oid, f.conname, f.confrelid, f.conrelid, n.nspname, c.relname, f.confdeltype::text, f.confupdtype::text,
       parent.attname, child.attname, s.nspname, o.oprname, m.nspname, r.relname, r.relkind = 'p',
       EXISTS (SELECT FROM pg_constraint u WHERE u.oid = f.conparentid AND u.conrelid = f.conrelid),
       f.condeferrable, pg_get_constraintdef(f.oid), obj_description(f.oid, 'pg_constraint'), f.conparentid <> 0
FROM pg_constraint f
JOIN pg_class r ON r.oid = f.confrelid JOIN pg_namespace m ON m.oid = r.relnamespace
JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(f.confkey, f.conkey, f.conpfeqop) WITH ORDINALITY AS k(parent, child, equals, at)
JOIN pg_attribute parent ON parent.attrelid = f.confrelid AND parent.attnum = k.parent
JOIN pg_attribute child ON child.attrelid = f.conrelid AND child.attnum = k.child
JOIN pg_operator o ON o.oid = k.equals JOIN pg_namespace s ON s.oid = o.oprnamespace
WHERE f.contype = 'f' AND c.relkind <> 'p' AND COALESCE((to_jsonb(f) ->> 'conenforced')::boolean, true)
  AND (f.confrelid = ANY ($1) OR f.conrelid = ANY ($1))
ORDER BY f.conname, f.oid, k.at";

/// Every foreign key to or from these tables.
pub(super) async fn foreign_keys(client: &Client, tables: &[u32]) -> Result<Vec<ForeignKey>> {
    let mut found: BTreeMap<u32, ForeignKey> = BTreeMap::new();
    for row in client.query(FOREIGN_KEYS, &[&tables]).await? {
        let (schema, operator): (String, String) = (row.get(10), row.get(11));
        let equals = format!("OPERATOR({}.{operator})", quote_identifier(&schema));
        let key = found.entry(row.get(0)).or_insert_with(|| ForeignKey {
            name: row.get(1),
            parent: row.get(2),
            child: row.get(3),
            child_name: TableName::new(row.get::<_, String>(4), row.get::<_, String>(5)),
            parent_name: TableName::new(row.get::<_, String>(12), row.get::<_, String>(13)),
            parent_partitioned: row.get(14),
            of_partition: row.get(15),
            deferrable: row.get(16),
            definition: row.get(17),
            comment: row.get(18),
            inherited: row.get(19),
            on_delete: Action::of(row.get(6)),
            on_update: Action::of(row.get(7)),
            columns: Vec::new(),
        });
        key.columns.push((row.get(8), row.get(9), equals));
    }
    Ok(found.into_values().collect())
}

/// The search path that a session of this role has in this database where nothing is said: what functions
/// and conditions of the application were written for.
pub(super) async fn application_path(client: &Client) -> Result<String> {
    let sql = "
SELECT substr(setting, length('search_path=') + 1)
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
  AND starts_with(setting, 'search_path=')
ORDER BY s.setrole = 0, s.setdatabase = 0 LIMIT 1";
    let row = client.query_opt(sql, &[]).await?;
    Ok(row.map_or_else(|| "\"$user\", public".to_owned(), |row| row.get(0)))
}
