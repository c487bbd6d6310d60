//! What could be meant by the beginning of a word.

use std::collections::BTreeSet;

use super::meta;

/// Words of the dialect that questions are made of.
const KEYWORDS: &str = "ALL AND ANY AS ASC BETWEEN BY CASE CAST CROSS CURRENT_DATE CURRENT_TIMESTAMP DATE DESC DESCRIBE \
    DISTINCT ELSE END EXCEPT EXISTS EXPLAIN ANALYZE EXTRACT FALSE FETCH FILTER FIRST FOR SYSTEM_TIME OF FROM FULL GROUP \
    HAVING ILIKE IN INNER INTERSECT INTERVAL IS JOIN LAST LATERAL LEFT LIKE LIMIT NOT NULL NULLS OFFSET ON OR ORDER OUTER \
    OVER PARTITION RECURSIVE RIGHT SELECT SHOW SIMILAR TABLES THEN TIMESTAMP TO TRUE UNION UNNEST USING VALUES WHEN WHERE \
    WITH WITHIN";

/// Words behind which a table stands.
const BEFORE_TABLES: [&str; 5] = ["from", "join", "describe", "\\d", "\\dt"];

/// Everything that a name can be.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) tables: BTreeSet<String>,
    pub(super) columns: BTreeSet<String>,
    pub(super) functions: BTreeSet<String>,
}

impl Words {
    /// Where the word before the cursor begins, and what it could be.
    pub(super) fn complete(&self, before: &str) -> (usize, Vec<String>) {
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '\\' | '?');
        let from = before.trim_end_matches(in_word).len();
        let word = &before[from..];
        if word.starts_with('\\') {
            let known = meta::NAMES.iter().filter(|name| name.starts_with(word));
            return (from, known.map(|name| (*name).to_owned()).collect());
        }
        let previous = before[..from].split_whitespace().next_back().unwrap_or_default().to_lowercase();
        // Also inside of the quotes that the functions of history take a table in.
        let wants_table = BEFORE_TABLES.contains(&previous.as_str()) || before[..from].ends_with("('");
        if wants_table {
            return (from, matching(self.tables.iter(), word));
        }
        if word.is_empty() {
            return (from, Vec::new());
        }
        // A column can have its table's alias in front.
        let (qualifier, name) =
            word.rsplit_once('.').map_or(("", word), |(_, name)| (&word[..=word.len() - name.len() - 1], name));
        let mut found = matching(self.columns.iter(), name);
        if qualifier.is_empty() {
            found.extend(matching(self.tables.iter(), word));
            found.extend(matching(self.functions.iter(), word));
            found.extend(keywords(word));
        } else {
            found = found.iter().map(|column| format!("{qualifier}{column}")).collect();
            found.extend(matching(self.tables.iter(), word));
        }
        found.sort_unstable();
        found.dedup();
        (from, found)
    }
}

fn matching<'a>(names: impl Iterator<Item = &'a String>, word: &str) -> Vec<String> {
    let word = word.to_lowercase();
    names.filter(|name| name.to_lowercase().starts_with(&word)).cloned().collect()
}

/// In the letters that were typed: capitals or not.
fn keywords(word: &str) -> Vec<String> {
    let lower = word.ends_with(|c: char| c.is_lowercase());
    let upper = word.to_uppercase();
    let known = KEYWORDS.split_whitespace().filter(|keyword| keyword.starts_with(&upper));
    known.map(|keyword| if lower { keyword.to_lowercase() } else { keyword.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_where_they_can_stand() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let words = Words {
            tables: set(&["orders", "sales.orders", "afterimage.transactions"]),
            columns: set(&["order_id", "note"]),
            functions: set(&["changes", "char_length"]),
        };
        let complete = |before: &str| words.complete(before).1;
        assert_eq!(words.complete("SELECT * FROM or"), (14, vec!["orders".to_owned()]));
        assert_eq!(complete("\\d s"), ["sales.orders"]);
        assert_eq!(complete("SELECT * FROM changes('ord"), ["orders"]);
        assert_eq!(complete("SELECT o.order"), ["o.order_id"]);
        assert_eq!(complete("sel"), ["select"]);
        assert_eq!(complete("SELECT cha"), ["changes", "char_length"]);
        assert_eq!(complete("\\ti"), ["\\timing"]);
        assert_eq!(complete("SELECT or"), ["or", "order", "order_id", "orders"]);
        assert_eq!(complete("SELECT "), [] as [&str; 0]);
    }
}
