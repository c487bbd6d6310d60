//! Which tables answer to the name of a partitioned table.

use std::collections::HashMap;

use super::name::{TableName, TablePattern};
use super::relation::RelationVersion;

/// Most partitioned tables that one is below another; the source allows no circle, a damaged archive might tell of one.
const MOST_LEVELS: usize = 64;

/// Of each partition, the partitioned tables above it (PostgreSQL manual, "Declarative Partitioning"). Whoever names one of
/// those means its partitions: it has no rows of its own.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    known: HashMap<u32, (TableName, Option<u32>)>,
    above: HashMap<TableName, Vec<TableName>>,
}

impl Partitions {
    pub fn of<'a>(relations: impl IntoIterator<Item = &'a RelationVersion>) -> Partitions {
        let mut partitions = Partitions::default();
        partitions.note(relations);
        partitions
    }

    /// Takes newer versions of relations into account.
    pub fn note<'a>(&mut self, relations: impl IntoIterator<Item = &'a RelationVersion>) {
        let described = |relation: &RelationVersion| (relation.oid, (relation.name.clone(), relation.parent));
        self.known.extend(relations.into_iter().map(described));
        let above = |(_, parent): &(TableName, Option<u32>)| parent.and_then(|oid| self.known.get(&oid));
        let partitions = self.known.values().filter(|known| above(known).is_some()).map(|known| {
            let all = std::iter::successors(above(known), |parent| above(parent)).take(MOST_LEVELS);
            (known.0.clone(), all.map(|(name, _)| name.clone()).collect())
        });
        self.above = partitions.collect();
    }

    /// Whether a pattern names the table, or a partitioned table that it is a partition of.
    pub fn answers(&self, name: &TableName, pattern: &TablePattern) -> bool {
        pattern.matches(name)
            || self.above.get(name).is_some_and(|above| above.iter().any(|name| pattern.matches(name)))
    }

    /// Whether one of these patterns does.
    pub fn answers_any(&self, name: &TableName, patterns: &[TablePattern]) -> bool {
        patterns.iter().any(|pattern| self.answers(name, pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Identity;

    #[test]
    fn partitions_answer_to_the_names_of_the_tables_above_them() {
        let table = |oid: u32, name: &str, parent| {
            let name = TableName::new("public", name);
            RelationVersion { parent, ..RelationVersion::new(oid, name, Identity::Default, Vec::new()) }
        };
        let known =
            [table(1, "all", None), table(2, "year", Some(1)), table(3, "may", Some(2)), table(4, "lost", Some(9))];
        let partitions = Partitions::of(&known);
        let answers = |name: &str, pattern: &str| {
            partitions.answers(&TableName::new("public", name), &TablePattern::parse(pattern).unwrap())
        };
        assert!(answers("may", "all") && answers("may", "year") && answers("may", "may") && answers("year", "all"));
        assert!(
            !answers("all", "may") && !answers("may", "other.*") && !answers("lost", "all") && answers("lost", "lost")
        );
        let of_itself = [table(1, "a", Some(2)), table(2, "b", Some(1))];
        assert!(!Partitions::of(&of_itself).answers(&of_itself[0].name, &TablePattern::parse("c").unwrap()));
    }
}
