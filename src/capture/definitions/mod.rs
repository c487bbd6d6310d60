//! DDL capture: event triggers in the source that write every change of a definition into its log, inside the transaction
//! that makes it (PostgreSQL manual, "Event Triggers").
//!
//! They also see to it that a new table is covered from its first row, and that no table is published in a state in which
//! its own UPDATE would fail. Where the role may not install them, [`super::observer`] looks at the catalogue instead.

use serde_json::{Value as Json, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::{self, SourceTable};
use super::settings::CaptureSettings;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, TablePattern, quote_identifier, quote_literal};
use crate::postgres::{MessageKind, emit_message};
use crate::transaction::{DDL_PREFIX, OBSERVED};

/// Gives one relation's definition as a JSON object's text; `$1` is its oid. No row where it does not exist.
pub(super) const DESCRIBE: &str =
    concat!("SELECT described::text FROM (", include_str!("describe.sql"), ") it (described)");

const INSTALL: &str = include_str!("install.sql");

/// What each function pins, so that no caller's setting changes the text of a value, the meaning of a name, or turns a
/// look at the catalogue into seconds of compiling.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres'
  SET TimeZone = 'UTC' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64'
  SET quote_all_identifiers = off SET row_security = off
  SET enable_seqscan = on SET jit = off";

/// Bytes of a table up to which its rows are told when it was written anew. More would hold the statement's lock for long;
/// a base image is then taken afterwards, and points in between are refused.
const TOLD_BYTES: u64 = 1 << 30;

/// What must be installed again when it differs.
fn version(sql: &str) -> String {
    // FNV-1a: the same in every build, unlike the standard library's hasher.
    let hash = sql
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The SQL that installs DDL capture for a publication, and its version.
fn installation(settings: &CaptureSettings) -> (String, String) {
    let name = &settings.publication;
    let condition = |pattern: &TablePattern| pattern.to_sql("r.schema", "r.name");
    let covered = match settings.tables.is_empty() {
        true => "true".to_owned(),
        false => settings.tables.iter().map(condition).collect::<Vec<_>>().join(" OR "),
    };
    let trigger = |kind: &str| quote_identifier(&format!("{name}_{kind}"));
    let words = [
        ("{describe}", include_str!("describe.sql").to_owned()),
        ("{identity_to_set}", include_str!("identity_to_set.sql").to_owned()),
        ("{identity_usable}", include_str!("identity_usable.sql").to_owned()),
        ("{settings}", SETTINGS.to_owned()),
        ("{schema}", quote_identifier(name)),
        ("{name}", quote_literal(name)),
        ("{covered}", format!("({covered})")),
        ("{identity_full}", settings.set_identity_full.to_string()),
        ("{row_bytes}", TOLD_BYTES.to_string()),
        ("{end_trigger}", trigger("end")),
        ("{drop_trigger}", trigger("drop")),
        ("{rewrite_trigger}", trigger("rewrite")),
    ];
    let sql = words.iter().fold(INSTALL.to_owned(), |sql, (word, meaning)| sql.replace(word, meaning));
    let version = version(&sql);
    (sql.replace("{version}", &quote_literal(&version)), version)
}

/// Whether DDL capture is there, complete and switched on.
pub async fn is_installed(client: &Client, publication: &str) -> Result<bool> {
    let triggers: Vec<String> = ["end", "drop", "rewrite"].map(|kind| format!("{publication}_{kind}")).to_vec();
    let sql = "SELECT count(*) = 3 FROM pg_event_trigger WHERE evtname = ANY ($1) AND evtenabled <> 'D'";
    Ok(client.query_one(sql, &[&triggers]).await?.get(0))
}

/// Installs DDL capture, or brings it up to date; false where the role may not.
///
/// # Errors
/// Whatever else the source says.
pub(super) async fn install(client: &Client, settings: &CaptureSettings) -> Result<bool> {
    let (sql, version) = installation(settings);
    if is_installed(client, &settings.publication).await? && is_version(client, settings, &version).await? {
        return Ok(true);
    }
    match client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = '5s'; {sql} COMMIT")).await {
        Ok(()) => Ok(true),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
                return Ok(false);
            }
            Err(Failure::from(error).context("installing DDL capture"))
        }
    }
}

async fn is_version(client: &Client, settings: &CaptureSettings, version: &str) -> Result<bool> {
    let function = format!("{}.installation()", quote_identifier(&settings.publication));
    match client.query_one(&format!("SELECT {function}"), &[]).await {
        Ok(row) => Ok(row.get::<_, String>(0) == version),
        Err(_) => Ok(false),
    }
}

/// Applies the rules of DDL capture to a table; false where it is not to be covered, or nothing is installed to say so.
///
/// # Errors
/// Transient while another transaction holds the publication.
pub(super) async fn protect(client: &Client, oid: u32, publication: &str) -> Result<bool> {
    if !is_installed(client, publication).await? {
        return Ok(false);
    }
    let sql = format!("SELECT {}.protect($1)", quote_identifier(publication));
    match client.query_one(&sql, &[&oid]).await?.get::<_, Option<String>>(0).as_deref() {
        Some("pending") => Err(Failure::transient("another transaction is changing the publication")),
        covered => Ok(covered.is_some()),
    }
}

/// The same for all tables that there are.
pub(super) async fn protect_all(client: &Client, publication: &str) -> Result<()> {
    let sql = format!(
        "SELECT {}.protect(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'",
        quote_identifier(publication)
    );
    client.query(&sql, &[]).await?;
    Ok(())
}

/// Publishes a table where it is not published, with an identity by which its UPDATEs do not fail. Part of the client's
/// open transaction.
pub(super) async fn publish(client: &Client, publication: &str, table: &SourceTable) -> Result<()> {
    let name = table.name.to_sql();
    if let Some(identity) = table.identity_to_set.as_ref().filter(|_| !table.identity_usable) {
        client.batch_execute(&format!("ALTER TABLE {name} REPLICA IDENTITY {identity}")).await?;
    }
    if !catalog::is_published(client, table.oid, publication).await? {
        let sql = format!("ALTER PUBLICATION {} ADD TABLE ONLY {name}", quote_identifier(publication));
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Tells of definitions as DDL capture does, where no statement was seen: relations as the catalogue has them, and objects
/// that are gone.
pub(super) async fn tell_observed(
    client: &Client,
    publication: &str,
    relations: Vec<Json>,
    dropped: Vec<Json>,
) -> Result<Lsn> {
    let message = json!({ "publication": publication, "tag": OBSERVED, "relations": relations, "dropped": dropped });
    emit_message(client, MessageKind::Transactional, DDL_PREFIX, &message.to_string()).await
}

/// The definitions of all that is no table: a JSON array; what belongs to an extension is said by the extension.
const OTHER_OBJECTS: &str = "
WITH objects AS (
  SELECT 'pg_namespace'::regclass::oid AS class, n.oid, 'schema' AS type, 1 AS place FROM pg_namespace n
  UNION ALL SELECT 'pg_extension'::regclass, e.oid, 'extension', 2 FROM pg_extension e
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 'type', 3 FROM pg_type t
    WHERE t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND EXISTS (
      SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, 'function', 4 FROM pg_proc p
  UNION ALL SELECT 'pg_class'::regclass, c.oid,
      CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' ELSE 'materialized view' END, 5
    FROM pg_class c WHERE c.relkind IN ('S', 'v', 'm') AND c.relpersistence <> 't'
), named AS (
  SELECT o.*, i.schema, i.identity FROM objects o, pg_identify_object(o.class, o.oid, 0) i
  WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e')
)
SELECT COALESCE(jsonb_agg(jsonb_build_object('type', n.type, 'identity', n.identity, 'definition',
         CASE WHEN n.type IN ('sequence', 'view', 'materialized view') THEN {schema}.describe(n.oid)
              ELSE {schema}.describe_object(n.class, n.oid) END) ORDER BY n.place, n.identity), '[]')::text
FROM named n
WHERE COALESCE(n.schema, n.identity) !~ '^pg_' AND COALESCE(n.schema, n.identity) NOT IN ('information_schema', {name})";

/// Gives [`OTHER_OBJECTS`] where DDL capture is installed, whose functions it uses.
pub(super) async fn other_objects(client: &Client, publication: &str) -> Result<Option<String>> {
    let sql = OTHER_OBJECTS.replace("{schema}", &quote_identifier(publication));
    let sql = sql.replace("{name}", &quote_literal(publication));
    Ok(client.query_opt(&sql, &[]).await?.map(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_installation_is_left_open() {
        let settings = CaptureSettings { publication: "it's \"mine\"".into(), ..CaptureSettings::default() };
        let (sql, _) = installation(&settings);
        let open = INSTALL.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        let words: Vec<&str> = open
            .map(|(word, _)| word)
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            .collect();
        assert!(words.len() > 10);
        for word in words.iter().filter(|word| !word.is_empty()) {
            assert!(!sql.contains(&format!("{{{word}}}")), "{word}");
        }
        assert!(sql.contains(r#""it's ""mine""".protect"#));
    }
}
