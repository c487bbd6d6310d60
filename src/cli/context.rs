//! From flags, environment and file to a source, an archive, a point.

use std::path::PathBuf;

use chrono::Utc;

use super::GlobalArgs;
use crate::archive::{Archive, Store};
use crate::capture::CaptureSettings;
use crate::config::{CaptureConfig, Config};
use crate::failure::{Failure, Result};
use crate::history::{Cut, Resolver, resolve};
use crate::model::{Point, TableName, TablePattern};
use crate::postgres::Source;

/// What every command needs to know of its surroundings.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) config: Config,
    /// The file that it was read from.
    pub(super) config_file: Option<PathBuf>,
    source: Option<String>,
    decode_from: Option<String>,
    archive: Option<String>,
    pub(super) json: bool,
    pub(super) wait: std::time::Duration,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Context {
    pub(super) fn new(global: &GlobalArgs) -> Result<Context> {
        let named = global.config.clone().or_else(|| variable("AFTERIMAGE_CONFIG").map(PathBuf::from));
        let config_file = Config::file(named.as_deref());
        let config = Config::load(named.as_deref())?;
        let url = global.source.clone().or_else(|| variable("AFTERIMAGE_SOURCE")).or_else(|| variable("DATABASE_URL"));
        // libpq's variables that name a server or a database beat the file. One like PGUSER, which many
        // shells set, only fills in what an address leaves open.
        let from_libpq = ["PGHOST", "PGHOSTADDR", "PGDATABASE"].iter().any(|name| variable(name).is_some());
        let source = url.or_else(|| config.source.clone().filter(|_| !from_libpq));
        let source = source.or_else(|| from_libpq.then(String::new));
        let archive =
            global.archive.clone().or_else(|| variable("AFTERIMAGE_ARCHIVE")).or_else(|| config.archive.clone());
        let decode_from = global.decode_from.clone().or_else(|| variable("AFTERIMAGE_DECODE_FROM"));
        let decode_from = decode_from.or_else(|| config.decode_from.clone());
        Ok(Context { config, config_file, source, decode_from, archive, json: global.json, wait: global.wait.0 })
    }

    /// The source, which must be named somewhere.
    pub(super) fn source(&self) -> Result<Source> {
        self.source_if_named()?.ok_or_else(|| {
            Failure::usage("no source is named")
                .remedy("add --source postgres://user@host/database, or set AFTERIMAGE_SOURCE")
        })
    }

    /// The source, for commands that can do without.
    pub(super) fn source_if_named(&self) -> Result<Option<Source>> {
        let Some(url) = &self.source else { return Ok(None) };
        let source = Source::resolve(Some(url.as_str()).filter(|url| !url.is_empty()))?;
        let Some(standby) = &self.decode_from else { return Ok(Some(source)) };
        Ok(Some(source.decoded_by(Source::resolve(Some(standby))?)))
    }

    /// The archive's root, to be written to.
    pub(super) fn store(&self) -> Result<Store> {
        Store::open(self.archive_url()?)
    }

    fn archive_url(&self) -> Result<&str> {
        self.archive.as_deref().ok_or_else(|| {
            Failure::usage("no archive is named")
                .remedy("add --archive file:///directory or s3://bucket/prefix, or set AFTERIMAGE_ARCHIVE")
        })
    }

    /// The archive, which must exist.
    pub(super) async fn archive(&self) -> Result<Archive> {
        Archive::open(&Store::open_existing(self.archive_url()?)?).await
    }

    /// The settings of capture with a command's flags on top of the file's.
    pub(super) fn capture(&self, flags: CaptureConfig) -> Result<CaptureSettings> {
        let file = self.config.capture.clone();
        CaptureConfig {
            tables: if flags.tables.is_empty() { file.tables } else { flags.tables },
            slot: flags.slot.or(file.slot),
            publication: flags.publication.or(file.publication),
            set_identity_full: flags.set_identity_full || file.set_identity_full,
            no_ddl_capture: flags.no_ddl_capture || file.no_ddl_capture,
            context: if flags.context.is_empty() { file.context } else { flags.context },
            context_redact: if flags.context_redact.is_empty() { file.context_redact } else { flags.context_redact },
            flush_interval: flags.flush_interval.or(file.flush_interval),
            memory: flags.memory.or(file.memory),
            spill_directory: flags.spill_directory.or(file.spill_directory),
            copy_workers: flags.copy_workers.or(file.copy_workers),
            throttle: flags.throttle.or(file.throttle),
            on_lost_slot: file.on_lost_slot,
            max_slot_lag: flags.max_slot_lag.or(file.max_slot_lag),
        }
        .settings()
    }

    /// Resolves a point of an archive.
    pub(super) async fn resolve(&self, archive: &Archive, point: &Point) -> Result<Cut> {
        let source = self.source_if_named()?;
        resolve(&Resolver { archive, source: source.as_ref(), wait: self.wait }, point).await
    }
}

/// Reads a point as a flag's value.
pub(super) fn parse_point(text: &str) -> std::result::Result<Point, String> {
    Point::parse(text, Utc::now()).map_err(|error| error.to_string())
}

/// Reads a table pattern as a flag's value.
pub(super) fn parse_pattern(text: &str) -> std::result::Result<TablePattern, String> {
    TablePattern::parse(text).map_err(|failure| failure.to_string())
}

/// The one table that a pattern names among those given.
pub(super) fn single_table<'a>(
    pattern: &TablePattern,
    tables: impl Iterator<Item = &'a TableName>,
) -> Result<TableName> {
    let known: Vec<&TableName> = tables.collect();
    let mut found: Vec<String> = Vec::new();
    let mut first = None;
    for name in &known {
        if pattern.matches(name) {
            found.push(name.to_string());
            first.get_or_insert_with(|| (*name).clone());
        }
    }
    match (first, found.len()) {
        (Some(name), 1) => Ok(name),
        (Some(_), _) => {
            found.sort();
            Err(Failure::usage(format!("{pattern} names {} tables: {}", found.len(), found.join(", ")))
                .remedy("name one"))
        }
        (None, _) => Err(unknown_table(pattern, &known)),
    }
}

/// Refuses a pattern that names none of the tables given.
pub(super) fn require_table<'a>(pattern: &TablePattern, tables: impl Iterator<Item = &'a TableName>) -> Result<()> {
    let known: Vec<&TableName> = tables.collect();
    match known.iter().any(|name| pattern.matches(name)) {
        true => Ok(()),
        false => Err(unknown_table(pattern, &known)),
    }
}

pub(super) fn unknown_table(pattern: &TablePattern, known: &[&TableName]) -> Failure {
    let mut names: Vec<String> = known.iter().map(ToString::to_string).collect();
    names.sort();
    let shown = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    let remedy = if names.is_empty() {
        "the archive has no tables there".to_owned()
    } else {
        format!("the archive has {shown}{more}")
    };
    Failure::usage(format!("no archived table is named {pattern}")).remedy(remedy)
}
