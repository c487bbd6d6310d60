//! Beginning to archive tables that were there before, in an archive that exists.

use serde_json::json;
use tokio_postgres::Client;

use super::catalog::{self, SourceTable};
use super::definitions;
use super::privileges::require_privileges;
use super::run::require_same_source;
use super::settings::CaptureSettings;
use super::source_check;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, TableName, TablePattern};
use crate::postgres::Source;

/// What was asked of the archiver.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The tables that it will take a base image of.
    pub tables: Vec<TableName>,
    /// Where in the source's log it was asked.
    pub lsn: Lsn,
}

/// Publishes the tables that match and asks the archiver for their base images. The archiver, which may run elsewhere or
/// later, hears of it in the source's log.
///
/// # Errors
/// Usage where a pattern names nothing; refused where a table cannot be archived as it stands.
pub async fn add(
    source: &Source,
    archive: &Archive,
    settings: &CaptureSettings,
    patterns: &[TablePattern],
) -> Result<Asked> {
    // It is of use without a running archiver too.
    let session = source.without_waiting().connect("afterimage init").await?;
    require_same_source(&session, archive.identity()).await?;
    let publication = &archive.identity().publication;
    let facts = source_check::facts(&session).await?;
    let tables = catalog::tables(&session).await?;
    catalog::require_matches(patterns, &tables)?;
    let wanted = |table: &SourceTable| patterns.iter().any(|pattern| pattern.matches(&table.name));
    let chosen: Vec<SourceTable> = tables.into_iter().filter(wanted).collect();
    require_privileges(&chosen, &facts.role)?;
    for table in &chosen {
        require_archivable(table, settings)?;
    }
    // What the event triggers would tell of these statements is told here, once.
    session.batch_execute("BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL afterimage.busy = 'on'").await?;
    match publish(&session, publication, &chosen).await {
        Ok(lsn) => {
            session.batch_execute("COMMIT").await?;
            let tables = chosen.into_iter().map(|table| table.name).collect();
            Ok(Asked { tables, lsn })
        }
        Err(failure) => {
            session.batch_execute("ROLLBACK").await?;
            Err(failure)
        }
    }
}

fn require_archivable(table: &SourceTable, settings: &CaptureSettings) -> Result<()> {
    if table.unlogged {
        return Err(Failure::refused(format!("{} is UNLOGGED, its changes are not in the log", table.name))
            .remedy(format!("ALTER TABLE {} SET LOGGED;", table.name.to_sql())));
    }
    if !table.can_be_published(settings.set_identity_full) {
        return Err(Failure::refused(format!(
            "{} has no usable replica identity, publishing it would make its UPDATEs fail",
            table.name
        ))
        .remedy("give it a primary key, or pass --set-identity-full"));
    }
    Ok(())
}

async fn publish(client: &Client, publication: &str, tables: &[SourceTable]) -> Result<Lsn> {
    let mut relations = Vec::new();
    for table in tables {
        definitions::publish(client, publication, table).await?;
        if let Some(definition) = catalog::describe(client, table.oid).await? {
            relations.push(json!({ "definition": definition.json(), "cover": "pending" }));
        }
    }
    definitions::tell_observed(client, publication, relations, Vec::new()).await
}

/// Where the history of a table begins that was asked for at `asked`; `None` before its base image is in the archive.
pub async fn begins_at(archive: &Archive, table: &TableName, asked: Lsn) -> Result<Option<Lsn>> {
    let image = archive.image(table, archive.watermark().await?.lsn).await?;
    Ok(image.map(|image| image.lsn).filter(|lsn| *lsn >= asked))
}

/// Whether new tables are covered from their first row.
pub async fn captures_ddl(client: &Client, archive: &Archive) -> Result<bool> {
    definitions::is_installed(client, &archive.identity().publication).await
}
