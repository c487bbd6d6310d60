//! What the source says of itself while the suite runs: which tables there were when, and which were dropped. Nothing
//! here is our own code's word.

use std::collections::{BTreeMap, HashMap};

use afterimage::model::{Lsn, TableName};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Database, Snapshot, copy_query};

/// Event triggers that say into the log which tables DDL touched and dropped. The baseline has them too, so that what
/// they change in the suite's results (a line in a list of event triggers) is no difference.
const TRIGGERS: &str = "
    CREATE SCHEMA observer;
    -- An archive needs a table to begin with.
    CREATE TABLE observer.first (id int PRIMARY KEY);
    CREATE FUNCTION observer.touched() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
    BEGIN
        PERFORM pg_logical_emit_message(true, 'observer', json_build_object(
            'touched', c.oid::bigint, 'kind', c.relkind, 'persistence', c.relpersistence)::text)
        FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND c.relkind = 'r';
    END $$;
    CREATE FUNCTION observer.dropped() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
    BEGIN
        PERFORM pg_logical_emit_message(true, 'observer', json_build_object(
            'dropped', objid::bigint, 'schema', schema_name, 'table', object_name)::text)
        FROM pg_event_trigger_dropped_objects() WHERE object_type = 'table' AND NOT is_temporary;
    END $$;
    CREATE EVENT TRIGGER observer_touched ON ddl_command_end EXECUTE FUNCTION observer.touched();
    CREATE EVENT TRIGGER observer_dropped ON sql_drop EXECUTE FUNCTION observer.dropped()";

/// Our own plugin's: not every server's installation has another.
const SLOT: &str = "SELECT pg_create_logical_replication_slot('observer', 'pgoutput')";

/// Of what the slot has, the transactional messages of the triggers: after `M`, a flag, an LSN, the prefix and a length
/// comes the content (PostgreSQL manual, "Logical Replication Message Formats").
const MESSAGES: &str = r"
    SELECT xid::text, convert_from(substring(data FROM 24), 'UTF8')
    FROM pg_logical_slot_get_binary_changes('observer', NULL, NULL,
        'proto_version', '1', 'publication_names', 'afterimage', 'messages', 'true')
    WHERE substring(data FOR 2) = '\x4d01' AND substring(data FROM 11 FOR 9) = 'observer\000'";

/// Every table that holds rows itself and is in the log, with the columns that are in the log: a stored generated
/// column is not before version 18.
const TABLES: &str = "
    SELECT n.nspname::text, c.relname::text, coalesce(string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), '')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      -- From version 18 on stored generated columns are published.
      AND (a.attgenerated = '' OR (a.attgenerated = 's' AND current_setting('server_version_num')::int >= 180000))
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    GROUP BY 1, 2";

/// Makes the observer's triggers.
pub(super) async fn install(database: &Database) {
    database.run(TRIGGERS).await;
}

/// A table's contents at an LSN.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) lsn: Lsn,
    pub(super) table: TableName,
    pub(super) csv: String,
}

/// A table that a transaction dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) xid: String,
    pub(super) table: TableName,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Observer<'a> {
    database: &'a Database,
    client: Client,
    drops: Drops,
    present: BTreeMap<TableName, String>,
    present_at: Lsn,
    past: Vec<Content>,
}

impl<'a> Observer<'a> {
    pub(super) async fn start(database: &'a Database) -> Observer<'a> {
        let client = database.connect().await;
        client.batch_execute(SLOT).await.unwrap();
        let (present, present_at) = (BTreeMap::new(), Lsn::ZERO);
        Observer { database, client, drops: Drops::default(), present, present_at, past: Vec::new() }
    }

    /// Looks at everything, while no script runs: an open snapshot would keep VACUUM from what scripts expect of it.
    pub(super) async fn look(&mut self) {
        for row in self.client.query(MESSAGES, &[]).await.unwrap() {
            self.drops.hear(row.get(0), row.get(1));
        }
        let snapshot = tokio::task::block_in_place(|| Snapshot::take(self.database));
        let mut present = contents(&snapshot).await;
        let lsn = std::mem::replace(&mut self.present_at, snapshot.lsn());
        std::mem::swap(&mut present, &mut self.present);
        // What stayed as it was is compared later, with the same result.
        present.retain(|table, csv| self.present.get(table) != Some(csv));
        self.past.extend(present.into_iter().map(|(table, csv)| Content { lsn, table, csv }));
    }

    /// Every content that was seen, each at the last LSN where it was, and the tables that were dropped.
    pub(super) fn end(self) -> (Vec<Content>, Vec<Dropped>) {
        let lsn = self.present_at;
        let present = self.present.into_iter().map(|(table, csv)| Content { lsn, table, csv });
        (self.past.into_iter().chain(present).collect(), self.drops.dropped)
    }
}

async fn contents(snapshot: &Snapshot<'_>) -> BTreeMap<TableName, String> {
    let client = snapshot.connect().await;
    // As in an export: a name's text depends on it.
    client.batch_execute("SET search_path = ''").await.unwrap();
    let mut contents = BTreeMap::new();
    for row in client.query(TABLES, &[]).await.unwrap() {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let query = format!("SELECT {} FROM ONLY {}", row.get::<_, &str>(2), table.to_sql());
        let csv = copy_query(&client, &query).await;
        contents.insert(table, csv);
    }
    contents
}

/// Reads the triggers' messages, which arrive in commit order.
#[derive(Debug, Default)]
struct Drops {
    /// By oid: the transaction that touched the table first, and whether its rows are in the log.
    known: HashMap<i64, (String, bool)>,
    dropped: Vec<Dropped>,
}

impl Drops {
    fn hear(&mut self, xid: String, message: &str) {
        let message: Value = serde_json::from_str(message).unwrap();
        if let Some(oid) = message["touched"].as_i64() {
            let is_logged = message["persistence"] == "p";
            self.known.entry(oid).or_insert_with(|| (xid, is_logged)).1 = is_logged;
        } else if let Some(oid) = message["dropped"].as_i64() {
            let known = self.known.remove(&oid);
            let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
            // Made and dropped in one transaction, it was there at no point.
            if known.is_some_and(|(made, is_logged)| is_logged && made != xid) {
                self.dropped.push(Dropped { xid, table: TableName::new(text("schema"), text("table")) });
            }
        }
    }
}

#[test]
fn what_no_point_ever_showed_counts_as_no_drop() {
    let mut drops = Drops::default();
    let mut hear = |xid: &str, message: &str| drops.hear(xid.to_owned(), message);
    hear("1", r#"{"touched": 5, "kind": "r", "persistence": "p"}"#);
    hear("1", r#"{"touched": 6, "kind": "r", "persistence": "u"}"#);
    hear("2", r#"{"touched": 7, "kind": "r", "persistence": "p"}"#);
    hear("2", r#"{"dropped": 7, "schema": "s", "table": "same transaction"}"#);
    hear("3", r#"{"dropped": 6, "schema": "s", "table": "unlogged"}"#);
    hear("3", r#"{"dropped": 5, "schema": "s", "table": "t"}"#);
    assert_eq!(drops.dropped, [Dropped { xid: "3".to_owned(), table: TableName::new("s", "t") }]);
}
