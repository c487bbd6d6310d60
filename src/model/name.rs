//! Names of tables as the source has them, and patterns over them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// A table's schema and name, exactly as the source's catalogue spells them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        TableName { schema: schema.into(), table: table.into() }
    }

    /// Reads what [`TableName`] shows: two parts, quoted where SQL needs it.
    pub fn parse(text: &str) -> Option<TableName> {
        match literal_parts(text)?.as_slice() {
            [schema, table] => Some(TableName::new(schema, table)),
            _ => None,
        }
    }

    /// Reads a name as a person writes it: the schema, where it is left out, is `public`.
    pub fn written(text: &str) -> Option<TableName> {
        match literal_parts(text)?.as_slice() {
            [table] => Some(TableName::new("public", table)),
            [schema, table] => Some(TableName::new(schema, table)),
            _ => None,
        }
    }

    /// The name quoted for use in SQL, always with its schema.
    pub fn to_sql(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

/// Shown as people write it: `public.orders`, with quotes only where SQL needs them.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", quote_where_needed(&self.schema), quote_where_needed(&self.table)))
    }
}

/// Quotes an identifier for SQL (PostgreSQL manual, 4.1.1).
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string literal for SQL, whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn quote_where_needed(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$');
    if plain { name.to_owned() } else { quote_identifier(name) }
}

/// A pattern that names tables: `orders`, `public.orders`, `public.*`, `tenant_*.orders`,
/// `"Quoted Schema"."Quoted Table"`. `*` stands for any run of characters, `?` for one; both are
/// literal inside quotes. Unquoted parts are folded to lower case as SQL does. Without a schema the
/// pattern means `public`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    text: String,
    schema: Glob,
    table: Glob,
}

impl TablePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`crate::failure::Category::Usage`] where the pattern is empty, has an open quote, or has more than two parts.
    pub fn parse(text: &str) -> Result<TablePattern> {
        let wrong = |why: &str| {
            Failure::usage(format!("table pattern {text:?}: {why}")).remedy("write table, schema.table or schema.*")
        };
        let mut parts = split_parts(text).map_err(wrong)?;
        let table = parts.pop().filter(|part| !part.0.is_empty()).ok_or_else(|| wrong("it names nothing"))?;
        let schema = match parts.pop() {
            None => Glob(vec![Piece::Literal("public".into())]),
            Some(part) if part.0.is_empty() => return Err(wrong("its schema is empty")),
            Some(part) => part,
        };
        if !parts.is_empty() {
            return Err(wrong("it has more than two parts"));
        }
        Ok(TablePattern { text: text.to_owned(), schema, table })
    }

    /// The pattern as an SQL condition over two expressions that give a table's schema and name.
    pub fn to_sql(&self, schema: &str, table: &str) -> String {
        format!(
            "({schema} ~ {} AND {table} ~ {})",
            quote_literal(&self.schema.to_regex()),
            quote_literal(&self.table.to_regex())
        )
    }

    pub fn matches(&self, name: &TableName) -> bool {
        self.schema.matches(&name.schema) && self.table.matches(&name.table)
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    AnyRun,
    AnyOne,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(Vec<Piece>);

impl Glob {
    fn matches(&self, text: &str) -> bool {
        matches_pieces(&self.0, text)
    }

    /// A regular expression that PostgreSQL reads (manual, 9.7.3); line feeds count as characters in it.
    fn to_regex(&self) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Literal(text) => text.chars().map(regex_of).collect(),
            Piece::AnyRun => ".*".to_owned(),
            Piece::AnyOne => ".".to_owned(),
        });
        format!("^{}$", pieces.collect::<String>())
    }

    fn push(&mut self, c: char) {
        match self.0.last_mut() {
            Some(Piece::Literal(literal)) => literal.push(c),
            _ => self.0.push(Piece::Literal(c.to_string())),
        }
    }
}

fn regex_of(c: char) -> String {
    if c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() { c.to_string() } else { format!("\\{c}") }
}

fn matches_pieces(pieces: &[Piece], text: &str) -> bool {
    let Some((first, rest)) = pieces.split_first() else { return text.is_empty() };
    match first {
        Piece::Literal(literal) => text.strip_prefix(literal.as_str()).is_some_and(|tail| matches_pieces(rest, tail)),
        Piece::AnyOne => {
            let mut tail = text.chars();
            tail.next().is_some() && matches_pieces(rest, tail.as_str())
        }
        Piece::AnyRun => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| matches_pieces(rest, &text[at..]))
        }
    }
}

/// The parts of a name without wildcards.
fn literal_parts(text: &str) -> Option<Vec<String>> {
    let literal = |part: Glob| match part.0.as_slice() {
        [Piece::Literal(name)] => Some(name.clone()),
        _ => None,
    };
    split_parts(text).ok()?.into_iter().map(literal).collect()
}

fn split_parts(text: &str) -> std::result::Result<Vec<Glob>, &'static str> {
    let mut parts = vec![Glob(Vec::new())];
    let mut characters = text.trim().chars().peekable();
    while let Some(c) = characters.next() {
        let part = parts.last_mut().expect("there is always a part");
        match c {
            '.' => parts.push(Glob(Vec::new())),
            '*' => part.0.push(Piece::AnyRun),
            '?' => part.0.push(Piece::AnyOne),
            '"' => loop {
                match characters.next().ok_or("a quote is left open")? {
                    '"' if characters.next_if_eq(&'"').is_none() => break,
                    inside => part.push(inside),
                }
            },
            plain => plain.to_lowercase().for_each(|folded| part.push(folded)),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, schema: &str, table: &str) -> bool {
        TablePattern::parse(pattern).unwrap().matches(&TableName::new(schema, table))
    }

    #[test]
    fn a_bare_name_means_public() {
        assert!(matches("orders", "public", "orders"));
        assert!(!matches("orders", "archive", "orders"));
    }

    #[test]
    fn wildcards_match_within_their_part() {
        assert!(matches("tenant_*.o?ders", "tenant_7", "orders"));
        assert!(matches("*.*", "any", "thing"));
        assert!(!matches("a*.b", "b", "b"));
    }

    #[test]
    fn quotes_keep_case_and_stars() {
        assert!(matches(r#""My Schema"."T*""#, "My Schema", "T*"));
        assert!(!matches(r#""My Schema"."T*""#, "My Schema", "Tx"));
        assert!(matches(r#"public."a""b""#, "public", "a\"b"));
        assert!(matches("PUBLIC.Orders", "public", "orders"));
    }

    #[test]
    fn patterns_mean_the_same_in_sql() {
        let sql = TablePattern::parse(r#"tenant_*."a.b?""#).unwrap().to_sql("s", "t");
        assert_eq!(sql, r"(s ~ '^tenant_.*$' AND t ~ E'^a\\.b\\?$')");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ".", "a.", ".b", "a.b.c", "\"open"] {
            assert!(TablePattern::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names_are_quoted_only_where_needed() {
        assert_eq!(TableName::new("public", "orders").to_string(), "public.orders");
        assert_eq!(TableName::new("public", "My \"x\"").to_string(), r#"public."My ""x""""#);
    }

    #[test]
    fn literals_survive_backslashes_and_quotes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b"), r"E'a\\b'");
    }
}
