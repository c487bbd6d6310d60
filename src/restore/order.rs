//! The order of tables over their foreign keys.

use std::collections::BTreeSet;

use crate::model::TableName;

/// Sorts tables so that parents come before their children, by name where neither is the other's. Tables in a
/// circle, and what hangs on them, follow by name.
///
/// `edges` are (parent, child) by position in `names`; a table that refers to itself does not matter.
pub(super) fn parents_first(names: &[TableName], edges: &[(usize, usize)]) -> Vec<usize> {
    let mut waiting: BTreeSet<(&TableName, usize)> = names.iter().zip(0..).collect();
    let mut sorted: Vec<usize> = Vec::with_capacity(names.len());
    while !waiting.is_empty() {
        let is_waiting = |at: usize| waiting.contains(&(&names[at], at));
        let has_parent =
            |at: usize| edges.iter().any(|&(parent, child)| child == at && parent != at && is_waiting(parent));
        // Without a table that is free, the first by name breaks the circle.
        let free = waiting.iter().find(|&&(_, at)| !has_parent(at)).or(waiting.first()).copied();
        let Some(next) = free else { break };
        waiting.remove(&next);
        sorted.push(next.1);
    }
    sorted
}

/// Whether an edge (parent, child) lies on a circle: its parent hangs on its child, directly or not.
pub(super) fn in_circle(edges: &[(usize, usize)], (parent, child): (usize, usize)) -> bool {
    let mut reached = BTreeSet::from([child]);
    loop {
        let next: BTreeSet<usize> = edges
            .iter()
            .filter(|edge| reached.contains(&edge.0))
            .map(|edge| edge.1)
            .chain(reached.iter().copied())
            .collect();
        if next.len() == reached.len() {
            return reached.contains(&parent);
        }
        reached = next;
    }
}
