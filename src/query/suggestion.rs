//! Names near to one that does not exist.

use super::TableRef;

const MOST_SUGGESTIONS: usize = 3;

/// The existing tables whose names are nearest to `asked`, the nearest first.
pub(super) fn nearest(asked: &str, tables: &[TableRef]) -> Vec<String> {
    let mut ranked: Vec<(usize, String)> = tables
        .iter()
        .map(|table| (distance_of_names(asked, table), table.to_string()))
        .filter(|(distance, _)| *distance <= 1 + asked.chars().count() / 4)
        .collect();
    ranked.sort();
    ranked.into_iter().take(MOST_SUGGESTIONS).map(|(_, name)| name).collect()
}

/// A person forgets the kind or the schema as often as a letter, so the last part counts alone too.
fn distance_of_names(asked: &str, table: &TableRef) -> usize {
    let last = match table {
        TableRef::Changes(name) | TableRef::Images(name) | TableRef::State(name) => &name.table,
        TableRef::Log(name) => name,
    };
    let asked_last = asked.rsplit('.').next().unwrap_or(asked);
    let by_last_part = edit_distance(asked_last, last);
    // Of tables that match alike by their last part, the one whose whole name is nearer comes first.
    let whole = edit_distance(asked, &table.to_string());
    if by_last_part == 0 { usize::from(whole > 0) } else { whole.min(by_last_part + 1) }
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    fn tables() -> Vec<TableRef> {
        vec![
            TableRef::Changes(TableName::new("public", "orders")),
            TableRef::Changes(TableName::new("tenant_1", "orders")),
            TableRef::Images(TableName::new("public", "customers")),
            TableRef::Log("transactions".into()),
        ]
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, distance) in
            [("", "", 0), ("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn a_slip_and_a_forgotten_kind_are_understood() {
        assert_eq!(nearest("changes.ordres", &tables())[0], "changes.orders");
        assert_eq!(nearest("orders", &tables()), ["changes.orders", "changes.tenant_1.orders"]);
        assert_eq!(nearest("afterimage.transaction", &tables()), ["afterimage.transactions"]);
    }

    #[test]
    fn what_is_near_nothing_gets_no_suggestion() {
        assert!(nearest("changes.zebra", &tables()).is_empty());
    }
}
