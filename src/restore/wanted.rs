//! What is to be brought back of one table: which keys are concerned, and where their rows lie.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::workspace::Workspace;
use crate::failure::Result;
use crate::history::{KeySet, TableAt, touched_keys, writes};
use crate::model::{Column, Identity, Lsn, Operation, RelationVersion, TableName};

/// See the module's documentation.
pub(super) struct Wanted {
    /// The columns that the rows have.
    pub(super) relation: RelationVersion,
    /// The columns by which they are told apart.
    pub(super) key: Vec<Column>,
    /// Every row counts, not only those under keys that changed.
    pub(super) everything: bool,
    /// The keys that are concerned, where not everything is.
    pub(super) keys: Arc<KeySet>,
    pub(super) rows: Rows,
    /// The state that the live rows under the keys must have, or they were changed by somebody else; and the keys under which
    /// it has rows at all.
    pub(super) expected: Option<(Arc<TableAt>, Arc<KeySet>)>,
}

/// Where the rows come from.
pub(super) enum Rows {
    /// States, each with the keys of which it has the row; all of its rows without them.
    States(Vec<(Arc<TableAt>, Option<Arc<KeySet>>)>),
    /// The side table of rows that could not be restored before.
    Quarantine,
}

impl Wanted {
    /// A table as it was at the request's point, for the keys that changed since.
    pub(super) async fn of_point(workspace: &Workspace<'_>, then: TableAt, live: (u32, &TableName)) -> Result<Wanted> {
        let range = (workspace.request.to.lsn, workspace.request.now.lsn);
        let touched = touched_keys(workspace.archive, then.relation(), then.key(), range).await?;
        let recreated = then.relation().oid != live.0;
        let everything = touched.truncated || recreated || !has_same_key(workspace, &then, live.1).await?;
        let (relation, key) = (then.relation().clone(), then.key().to_vec());
        let keys = Arc::new(if everything { KeySet::new() } else { touched.keys });
        let nothing = !everything && keys.is_empty();
        let states =
            if nothing { Vec::new() } else { vec![(Arc::new(then), (!everything).then(|| Arc::clone(&keys)))] };
        Ok(Wanted { relation, key, everything, keys, rows: Rows::States(states), expected: None })
    }

    /// The same for the keys that some transactions wrote.
    pub(super) async fn of_transactions(
        workspace: &Workspace<'_>,
        then: TableAt,
        live: (u32, &TableName),
        transactions: &BTreeSet<Lsn>,
    ) -> Result<Wanted> {
        let range = (workspace.request.to.lsn, workspace.request.now.lsn);
        let found = writes(workspace.archive, then.relation(), then.key(), range, None).await?;
        let mut wanted = Wanted::of_point(workspace, then, live).await?;
        let theirs = || found.iter().filter(|write| transactions.contains(&write.lsn));
        if wanted.everything || theirs().any(|write| write.operation == Operation::Truncate) {
            return Ok(wanted);
        }
        let keys = theirs().flat_map(|write| [write.old_key.clone(), write.new_key.clone()]).flatten();
        let keys: Arc<KeySet> = Arc::new(keys.collect());
        if let Rows::States(states) = &mut wanted.rows {
            states.iter_mut().for_each(|(_, only)| *only = Some(Arc::clone(&keys)));
            if keys.is_empty() {
                states.clear();
            }
        }
        wanted.keys = keys;
        Ok(wanted)
    }

    /// A table's rows in quarantine.
    pub(super) fn of_quarantine(now: TableAt) -> Wanted {
        let (relation, key) = (now.relation().clone(), now.key().to_vec());
        Wanted { relation, key, everything: false, keys: Arc::default(), rows: Rows::Quarantine, expected: None }
    }
}

/// Whether rows are told apart now as they were then: only then do the changes in between say which are concerned.
async fn has_same_key(workspace: &Workspace<'_>, then: &TableAt, live: &TableName) -> Result<bool> {
    let Some(now) = workspace.present(live).await? else { return Ok(false) };
    let full = |table: &TableAt| table.relation().identity == Identity::Full;
    let same = then.key().len() == now.key().len()
        && then.key().iter().zip(now.key()).all(|(then, present)| now.relation().same_column(then) == Some(present));
    Ok(full(&now) == full(then) && same)
}
