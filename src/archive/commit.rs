//! One commit of a table's Delta log, as far as it matters here (Delta protocol, "Actions").

use serde::Deserialize;

use super::store::Store;
use crate::failure::{Failure, Result};

#[derive(Debug, Deserialize)]
pub(super) struct Action {
    pub(super) remove: Option<Remove>,
    pub(super) txn: Option<Txn>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    pub(super) deletion_timestamp: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
}

/// Reads a commit; `None` where its file is not there any more.
pub(super) async fn read(store: &Store, directory: &str, version: u64) -> Result<Option<Vec<Action>>> {
    let path = format!("{directory}/_delta_log/{version:020}.json");
    let Some(commit) = store.read(&path).await? else { return Ok(None) };
    let lines = commit.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let actions = lines.map(|line| {
        serde_json::from_slice(line).map_err(|error| Failure::failed(format!("archive {store}: {path}: {error}")))
    });
    actions.collect::<Result<_>>().map(Some)
}
