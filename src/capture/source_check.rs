//! Whether a source can be archived, and what to do where it cannot.

use tokio_postgres::Client;

use crate::failure::{Failure, Result};

/// Server versions that are known to work.
pub const VERSIONS: std::ops::RangeInclusive<i32> = 14..=18;

/// What the source's settings and the current role allow.
#[derive(Debug, Clone)]
pub struct SourceFacts {
    /// Major version.
    pub version: i32,
    pub database: String,
    pub role: String,
    pub in_recovery: bool,
    pub wal_level: String,
    pub replication_role: bool,
    pub superuser: bool,
    pub may_create: bool,
    pub slots_free: i64,
    pub senders_free: i64,
    /// Megabytes of log that a slot may hold back, -1 for any amount.
    pub max_slot_wal_keep_mb: i64,
    pub encoding: String,
}

const FACTS: &str = "
SELECT current_setting('server_version_num')::int / 10000, current_database()::text, current_user::text,
       pg_is_in_recovery(), current_setting('wal_level'),
       r.rolsuper OR r.rolreplication
         -- Amazon RDS grants the right by membership.
         OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER')),
       r.rolsuper OR has_database_privilege(current_database(), 'CREATE'),
       current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::bigint
         - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       current_setting('server_encoding'), r.rolsuper
FROM pg_roles r WHERE r.rolname = current_user";

/// Reads the facts.
pub async fn facts(client: &Client) -> Result<SourceFacts> {
    let row = client.query_one(FACTS, &[]).await?;
    Ok(SourceFacts {
        version: row.get(0),
        database: row.get(1),
        role: row.get(2),
        in_recovery: row.get(3),
        wal_level: row.get(4),
        replication_role: row.get(5),
        may_create: row.get(6),
        slots_free: row.get(7),
        senders_free: row.get(8),
        max_slot_wal_keep_mb: row.get(9),
        encoding: row.get(10),
        superuser: row.get(11),
    })
}

impl SourceFacts {
    /// The first thing that makes archiving impossible, with its remedy.
    ///
    /// # Errors
    /// Failed, with the exact setting or GRANT that is missing.
    pub fn require_archivable(&self) -> Result<()> {
        let role = crate::model::quote_identifier(&self.role);
        let checks = [
            (
                VERSIONS.contains(&self.version),
                format!(
                    "the source is PostgreSQL {}; versions {} to {} are supported",
                    self.version,
                    VERSIONS.start(),
                    VERSIONS.end()
                ),
                "archive a supported version".to_owned(),
            ),
            (
                !self.in_recovery,
                "the source is a standby".to_owned(),
                "name its primary with --source, and the standby with --decode-from if it is to decode".to_owned(),
            ),
            (
                self.wal_level == "logical",
                format!("wal_level is {}, archiving needs logical", self.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL".to_owned(),
            ),
            (
                self.replication_role,
                format!("the role {role} may not replicate"),
                format!("as a superuser: ALTER ROLE {role} REPLICATION;"),
            ),
            (
                self.may_create,
                format!("the role {role} may not create a publication in the database {}", self.database),
                format!(
                    "as its owner: GRANT CREATE ON DATABASE {} TO {role};",
                    crate::model::quote_identifier(&self.database)
                ),
            ),
        ];
        match checks.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, cause, remedy)) => Err(Failure::failed(cause).remedy(remedy)),
            None => Ok(()),
        }
    }

    /// Whether there is room for `init`'s slots and connections.
    pub fn require_room(&self) -> Result<()> {
        if self.slots_free < 2 {
            return Err(Failure::failed(format!(
                "the source has {} free replication slots, init needs 2",
                self.slots_free.max(0)
            ))
            .remedy("raise max_replication_slots and restart PostgreSQL, or drop a slot that nobody uses"));
        }
        if self.senders_free < 1 {
            return Err(Failure::failed("all of the source's WAL senders are in use")
                .remedy("raise max_wal_senders and restart PostgreSQL"));
        }
        Ok(())
    }

    /// What works but endangers production.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.max_slot_wal_keep_mb < 0 {
            warnings.push(
                "max_slot_wal_keep_size is unlimited: if archiving stops for long, the log it waits for can fill \
                 the source's disk. Set it below the free space, for example: \
                 ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"
                    .to_owned(),
            );
        }
        if self.encoding == "SQL_ASCII" {
            warnings.push(
                "the database's encoding is SQL_ASCII: text that is not UTF-8 is kept byte for byte in _exact, \
                 and its columns show NULL to other readers."
                    .to_owned(),
            );
        }
        warnings
    }
}
