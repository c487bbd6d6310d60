//! Where an engine finds the archive's tables and files.

use super::dialect::Engine;
use crate::archive::Location;
use crate::failure::{Failure, Result};
use crate::history::{ImagePart, Part};
use crate::model::Position;

/// The archive as an engine addresses it.
#[derive(Debug, Clone)]
pub(super) struct Root {
    engine: Engine,
    location: Location,
    /// The directory, or the prefix in a bucket.
    root: String,
    /// What must be said before the statement.
    pub(super) before: Vec<String>,
}

/// What a statement reads from: the rows, and the condition under which they are wanted.
pub(super) struct From {
    pub(super) rows: String,
    pub(super) condition: Option<String>,
}

impl Root {
    /// # Errors
    /// Usage where the engine would take the root for a pattern.
    pub(super) fn new(engine: Engine, location: Location) -> Result<Root> {
        let root = match &location {
            Location::Local(directory) => directory.to_str().map(ToOwned::to_owned).ok_or_else(|| {
                Failure::usage(format!("{}: not UTF-8, which SQL is written in", directory.display()))
                    .remedy("link to the archive under another name")
            })?,
            Location::S3 { prefix, .. } => prefix.clone(),
        };
        if engine == Engine::DuckDb && root.contains(['*', '?', '[', '{']) {
            return Err(Failure::usage(format!("{engine} takes the characters * ? [ {{ of {root:?} for a pattern"))
                .remedy("move the archive, or link to it under a plain name"));
        }
        Ok(Root { engine, location, root, before: Vec::new() })
    }

    /// A base image: one source for each that has to be read by itself.
    pub(super) fn image(&mut self, image: &ImagePart) -> Vec<From> {
        let condition = self.engine.reads_tables().then(|| format!("_image_lsn = {}", image.lsn.as_i64()));
        self.sources(&image.part, condition)
    }

    /// Changes between two positions.
    pub(super) fn changes(&mut self, part: &Part, between: &std::ops::Range<Position>) -> Vec<From> {
        self.sources(part, Some(condition(between)))
    }

    fn sources(&mut self, part: &Part, condition: Option<String>) -> Vec<From> {
        let engine = self.engine;
        let listed = || part.files.iter().map(|file| engine.text(&self.address(file)));
        let rows = match engine {
            Engine::DuckDb => {
                let files = listed().collect::<Vec<_>>().join(",\n    ");
                vec![format!("read_parquet([{files}],\n    union_by_name = true, hive_partitioning = false)")]
            }
            Engine::ClickHouse => {
                let function = if matches!(self.location, Location::Local(_)) { "deltaLakeLocal" } else { "deltaLake" };
                vec![format!("{function}({})", engine.text(&self.address(&part.directory)))]
            }
            Engine::Spark => vec![format!("delta.{}", engine.name(&self.address(&part.directory)))],
            Engine::Trino => vec![self.registered(&part.directory)],
            Engine::DataFusion => {
                let files: Vec<String> = listed().collect();
                files.into_iter().map(|file| self.external(&file)).collect()
            }
        };
        rows.into_iter().map(|rows| From { rows, condition: condition.clone() }).collect()
    }

    /// Where the engine finds what lies below the root.
    fn address(&self, path: &str) -> String {
        let path = format!("{}/{path}", self.root.trim_end_matches('/'));
        let Location::S3 { bucket, .. } = &self.location else { return path };
        let path = path.trim_start_matches('/');
        match self.engine {
            Engine::Spark => format!("s3a://{bucket}/{path}"),
            Engine::ClickHouse => match endpoint() {
                Some(endpoint) => format!("{}/{bucket}/{path}", endpoint.trim_end_matches('/')),
                None => format!("https://{bucket}.s3.amazonaws.com/{path}"),
            },
            _ => format!("s3://{bucket}/{path}"),
        }
    }

    /// Trino knows tables by their names alone.
    fn registered(&mut self, directory: &str) -> String {
        let (schema, table) = directory.rsplit_once('/').unwrap_or(("", directory));
        let (schema, table) = (schema.replace('/', "_").to_lowercase(), table.to_lowercase());
        let address = self.address(directory);
        let text = |text: &str| self.engine.text(text);
        let call = format!(
            "-- once: CALL system.register_table(schema_name => {}, table_name => {}, table_location => {});",
            text(&schema),
            text(&table),
            text(&address)
        );
        if !self.before.contains(&call) {
            self.before.push(call);
        }
        format!("{}.{}", self.engine.name(&schema), self.engine.name(&table))
    }

    /// DataFusion's tables are made of files by statements of their own.
    fn external(&mut self, file: &str) -> String {
        let known = |said: &String| said.ends_with(&format!(" LOCATION {file};"));
        let at = self.before.iter().position(known).unwrap_or(self.before.len());
        let name = format!("file{}", at + 1);
        if at == self.before.len() {
            self.before.push(format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION {file};"));
        }
        name
    }
}

/// Whether a change lies between two positions.
fn condition(between: &std::ops::Range<Position>) -> String {
    let from = match between.start {
        Position { lsn, seq } if seq < 0 => format!("_lsn >= {}", lsn.as_i64()),
        Position { lsn, seq } => format!("(_lsn > {0} OR _lsn = {0} AND _seq >= {seq})", lsn.as_i64()),
    };
    let to = match between.end {
        Position { lsn, seq } if seq < 0 => format!("_lsn < {}", lsn.as_i64()),
        Position { lsn, seq } => format!("(_lsn < {0} OR _lsn = {0} AND _seq < {seq})", lsn.as_i64()),
    };
    format!("{from} AND {to}")
}

/// Another server than Amazon's, where the environment names one.
fn endpoint() -> Option<String> {
    let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter();
    named.filter_map(|name| std::env::var(name).ok()).find(|endpoint| !endpoint.is_empty())
}
