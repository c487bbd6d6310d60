//! How many rows tables have, as the source estimates it, for rules that ask for a share.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::stopping::Stopper;
use crate::failure::Result;
use crate::model::TableName;
use crate::postgres::Source;

/// How long an estimate is used.
const FRESH_FOR: Duration = Duration::from_secs(60);

/// `GREATEST`, since a table that was never analysed has -1.
const SIZE: &str = "SELECT GREATEST(c.reltuples, s.n_live_tup, 0)::float8
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE n.nspname = $1 AND c.relname = $2";

/// See the module's documentation.
pub(super) struct Sizes {
    stopper: Option<Stopper>,
    known: HashMap<TableName, (Instant, f64)>,
}

impl Sizes {
    pub(super) fn new(source: Option<&Source>) -> Sizes {
        Sizes { stopper: source.map(Stopper::new), known: HashMap::new() }
    }

    /// `None` where it is not known.
    pub(super) async fn of(&mut self, table: &TableName) -> Option<f64> {
        if let Some((_, size)) = self.known.get(table).filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Some(*size);
        }
        match self.ask(table).await {
            Ok(size) => {
                self.known.insert(table.clone(), (Instant::now(), size?));
                size
            }
            Err(failure) => {
                tracing::warn!("the size of {table} is not known: {failure}");
                self.known.get(table).map(|(_, size)| *size)
            }
        }
    }

    async fn ask(&mut self, table: &TableName) -> Result<Option<f64>> {
        let Some(stopper) = &mut self.stopper else { return Ok(None) };
        let row = stopper.session().await?.query_opt(SIZE, &[&table.schema, &table.table]).await?;
        Ok(row.map(|row| row.get(0)))
    }
}
