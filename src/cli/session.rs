//! A session over the archive, for commands that ask it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Context;
use crate::archive::Archive;
use crate::failure::Result;
use crate::history::Cut;
use crate::query::{ArchivedTables, Limits, Session};

/// Memory that a command's own questions may use; beyond it they spill.
pub(super) const MEMORY_BYTES: usize = 512 << 20;

/// An archive at one watermark, and the session that reads it.
pub(super) struct Asking {
    pub(super) session: Session,
    pub(super) tables: Arc<ArchivedTables>,
    _spill: SpillDirectory,
}

impl Asking {
    /// A session whose states are those of the cut, or of the watermark.
    pub(super) async fn new(context: &Context, archive: &Archive, at: Option<Cut>, memory: usize) -> Result<Asking> {
        let store = archive.store();
        let spill = SpillDirectory::of_this_process(None);
        let limits = Limits { memory_bytes: memory, spill_dir: spill.path().to_owned() };
        let tables = seen(context, archive, at).await?;
        let read: Arc<dyn crate::query::Tables> = tables.clone();
        let session = Session::new(read, Arc::clone(store.objects()), store.root().clone(), limits)?;
        Ok(Asking { session, tables, _spill: spill })
    }

    /// The same session over the archive as it is by now.
    pub(super) async fn again(&self, context: &Context, archive: &Archive, at: Option<Cut>) -> Result<Session> {
        Ok(self.session.over(seen(context, archive, at).await?))
    }
}

async fn seen(context: &Context, archive: &Archive, at: Option<Cut>) -> Result<Arc<ArchivedTables>> {
    let tables = ArchivedTables::now(archive).await?.with_source(context.source_if_named()?, context.wait);
    Ok(Arc::new(match at {
        Some(cut) => tables.at(cut),
        None => tables,
    }))
}

/// Where a query spills to; gone when the query is done.
pub(super) struct SpillDirectory(PathBuf);

impl SpillDirectory {
    /// One of this process alone, in a directory or else in the system's temporary one.
    pub(super) fn of_this_process(below: Option<&Path>) -> SpillDirectory {
        let below = below.map_or_else(std::env::temp_dir, Path::to_owned);
        SpillDirectory(below.join(format!("afterimage-query-{}", std::process::id())))
    }

    /// One of the console's, beside which questions of this process's own come and go.
    pub(super) fn of_console() -> SpillDirectory {
        SpillDirectory(std::env::temp_dir().join(format!("afterimage-console-{}", std::process::id())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        // A query that needed no space has made none.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
