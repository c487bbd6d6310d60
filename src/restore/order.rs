//! The order of tables over their foreign keys.

use std::collections::BTreeSet;

use crate::model::TableName;

/// Sorts tables so that parents come before their children, by name where neither is the other's; of a circle the first by
/// name comes first, after everything that the circle hangs on.
///
/// `edges` are (parent, child) by position in `names`; a table that refers to itself does not matter.
pub(super) fn parents_first(names: &[TableName], edges: &[(usize, usize)]) -> Vec<usize> {
    let mut waiting: BTreeSet<(&TableName, usize)> = names.iter().zip(0..).collect();
    let mut sorted: Vec<usize> = Vec::with_capacity(names.len());
    while !waiting.is_empty() {
        let is_waiting = |at: usize| waiting.contains(&(&names[at], at));
        let open: Vec<(usize, usize)> =
            edges.iter().copied().filter(|(parent, child)| is_waiting(*parent) && is_waiting(*child)).collect();
        // Whatever it hangs on hangs on it in turn.
        let is_first = |at: usize| above(&open, at).iter().all(|other| above(&open, *other).contains(&at));
        let free = |at: usize| !open.iter().any(|&(parent, child)| child == at && parent != at);
        let found = waiting.iter().find(|&&(_, at)| free(at)).or_else(|| waiting.iter().find(|&&(_, at)| is_first(at)));
        let Some(next) = found.copied() else { break };
        waiting.remove(&next);
        sorted.push(next.1);
    }
    sorted
}

/// What a table hangs on, directly or not.
fn above(edges: &[(usize, usize)], table: usize) -> BTreeSet<usize> {
    let (mut found, mut open) = (BTreeSet::new(), vec![table]);
    while let Some(child) = open.pop() {
        let parents = edges.iter().filter(|edge| edge.1 == child && edge.0 != child).map(|edge| edge.0);
        open.extend(parents.filter(|parent| found.insert(*parent)));
    }
    found
}

/// Whether an edge (parent, child) lies on a circle: its parent hangs on its child, directly or not.
pub(super) fn in_circle(edges: &[(usize, usize)], (parent, child): (usize, usize)) -> bool {
    parent == child || above(edges, parent).contains(&child)
}

/// Tables that are in order already, those that hang on each other together, at the place of the first of them.
pub(super) fn groups(tables: usize, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut grouped: Vec<Vec<usize>> = Vec::new();
    for table in 0..tables {
        let together = |other: usize| above(edges, table).contains(&other) && above(edges, other).contains(&table);
        match grouped.iter_mut().find(|group| together(group[0])) {
            Some(group) => group.push(table),
            None => grouped.push(vec![table]),
        }
    }
    grouped
}
