//! What a statement asks of the endpoint, by its first words.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::error::SqlError;

/// One statement of what a client sent at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows of the archive, or of the catalogue.
    Query,
    /// EXPLAIN and what gives plans and numbers of whole tables away.
    Explain,
    Show(String),
    Set {
        name: String,
        value: String,
    },
    Begin,
    Commit,
    Rollback,
    /// Done by doing nothing; the command's tag.
    Nothing(&'static str),
    /// Would write; the first word.
    Write(String),
    Empty,
}

/// Takes a text apart into its statements.
pub(super) fn statements(text: &str) -> Result<Vec<Statement>, SqlError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| SqlError::new("42601", format!("syntax error: {}", error.message)))?;
    let mut found = Vec::new();
    let mut start = 0;
    for part in tokens.split_inclusive(|token| token.token == Token::SemiColon) {
        let end = match part.last() {
            Some(last) if last.token == Token::SemiColon => offset(text, last.span.start),
            _ => text.len(),
        };
        let words = words(part);
        let statement = text.get(start..end).unwrap_or_default().trim().to_owned();
        if !words.is_empty() {
            found.push(Statement { kind: kind(&words), text: statement });
        }
        start = end + 1;
    }
    match found.is_empty() {
        true => Ok(vec![Statement { text: String::new(), kind: Kind::Empty }]),
        false => Ok(found),
    }
}

/// Whether a text has a statement that shows plans, which tell of what is kept back from users whose rows are limited.
pub fn explains(text: &str) -> bool {
    statements(text).is_ok_and(|found| found.iter().any(|statement| statement.kind == Kind::Explain))
}

/// Where in the text a place is: lines and characters are counted from one.
fn offset(text: &str, place: Location) -> usize {
    let lines = (place.line as usize).saturating_sub(1);
    let start = text.split_inclusive('\n').take(lines).map(str::len).sum::<usize>();
    let characters = (place.column as usize).saturating_sub(1);
    let rest = &text[start.min(text.len())..];
    start + rest.char_indices().nth(characters).map_or(rest.len(), |(at, _)| at)
}

/// The tokens without what separates them; a quoted one without its quotes.
fn words(tokens: &[TokenWithSpan]) -> Vec<String> {
    let word = |token: &TokenWithSpan| match &token.token {
        Token::Whitespace(_) | Token::SemiColon | Token::EOF => None,
        Token::Word(word) => Some(word.value.clone()),
        Token::SingleQuotedString(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    tokens.iter().filter_map(word).collect()
}

const WRITES: [&str; 35] = [
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "TRUNCATE",
    "CREATE",
    "ALTER",
    "DROP",
    "GRANT",
    "REVOKE",
    "COPY",
    "CALL",
    "DO",
    "LOCK",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "CLUSTER",
    "REFRESH",
    "COMMENT",
    "SECURITY",
    "REASSIGN",
    "IMPORT",
    "LOAD",
    "NOTIFY",
    "LISTEN",
    "PREPARE",
    "EXECUTE",
    "CHECKPOINT",
    "DECLARE",
    "FETCH",
    "MOVE",
    "USE",
    "ATTACH",
    "INSTALL",
];

fn kind(words: &[String]) -> Kind {
    let upper = |at: usize| words.get(at).map(|word| word.to_uppercase()).unwrap_or_default();
    match upper(0).as_str() {
        "EXPLAIN" => Kind::Explain,
        "SHOW" => match upper(1).as_str() {
            "TABLES" | "COLUMNS" | "FUNCTIONS" => Kind::Query,
            _ => Kind::Show(words[1..].join(" ").to_lowercase()),
        },
        "SET" => set(words),
        "RESET" => Kind::Nothing("RESET"),
        "BEGIN" | "START" => Kind::Begin,
        "COMMIT" | "END" => Kind::Commit,
        "ROLLBACK" | "ABORT" if upper(1) == "TO" || upper(2) == "TO" => Kind::Nothing("ROLLBACK"),
        "ROLLBACK" | "ABORT" => Kind::Rollback,
        "SAVEPOINT" => Kind::Nothing("SAVEPOINT"),
        "RELEASE" => Kind::Nothing("RELEASE"),
        "DISCARD" => Kind::Nothing("DISCARD ALL"),
        "DEALLOCATE" => Kind::Nothing("DEALLOCATE"),
        "UNLISTEN" => Kind::Nothing("UNLISTEN"),
        "CLOSE" => Kind::Nothing("CLOSE CURSOR"),
        word if WRITES.contains(&word) => Kind::Write(word.to_owned()),
        _ => Kind::Query,
    }
}

fn set(words: &[String]) -> Kind {
    let rest: Vec<&String> =
        words[1..].iter().skip_while(|word| ["SESSION", "LOCAL"].contains(&word.to_uppercase().as_str())).collect();
    let first = rest.first().map(|word| word.to_uppercase()).unwrap_or_default();
    match first.as_str() {
        // Nobody becomes somebody else here.
        "ROLE" | "AUTHORIZATION" => Kind::Write("SET ROLE".to_owned()),
        "TRANSACTION" | "CHARACTERISTICS" | "CONSTRAINTS" => Kind::Nothing("SET"),
        "TIME" => Kind::Set { name: "timezone".into(), value: rest[1..].iter().skip(1).map(|w| w.as_str()).collect() },
        "NAMES" => Kind::Set { name: "client_encoding".into(), value: rest[1..].iter().map(|w| w.as_str()).collect() },
        _ => {
            let end = rest.iter().position(|word| word.as_str() == "=" || word.eq_ignore_ascii_case("TO"));
            let Some(end) = end else { return Kind::Query };
            let name: String = rest[..end].iter().map(|word| word.to_lowercase()).collect();
            Kind::Set { name, value: rest[end + 1..].iter().map(|word| word.as_str()).collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        statements(text).unwrap().into_iter().map(|statement| statement.kind).collect()
    }

    #[test]
    fn statements_are_told_apart() {
        assert_eq!(kinds("SELECT ';' ; -- ;\n show x;"), [Kind::Query, Kind::Show("x".into())]);
        assert_eq!(kinds(" ; /* */ ;"), [Kind::Empty]);
        assert_eq!(
            kinds("begin read only; rollback to a; abort"),
            [Kind::Begin, Kind::Nothing("ROLLBACK"), Kind::Rollback]
        );
        let texts = |text| statements(text).unwrap().into_iter().map(|statement| statement.text).collect::<Vec<_>>();
        assert_eq!(
            texts("SELECT E'\\n;é' ;\n SELECT 'ü;' || 1;SELECT 3"),
            ["SELECT E'\\n;é'", "SELECT 'ü;' || 1", "SELECT 3"]
        );
        assert_eq!(statements("SELECT 'it''s', $$a;b$$, \"x\"\"y\", E'\\n'").unwrap().len(), 1);
        assert!(statements("SELECT 'open").is_err());
    }

    #[test]
    fn settings_are_read() {
        let set = |name: &str, value: &str| vec![Kind::Set { name: name.into(), value: value.into() }];
        assert_eq!(kinds("SET extra_float_digits = 3"), set("extra_float_digits", "3"));
        assert_eq!(kinds("set session application_name to 'a b'"), set("application_name", "a b"));
        assert_eq!(kinds("SET TIME ZONE 'UTC'"), set("timezone", "UTC"));
        assert_eq!(kinds("SET ROLE postgres"), [Kind::Write("SET ROLE".into())]);
        assert_eq!(kinds("SET SESSION AUTHORIZATION x"), [Kind::Write("SET ROLE".into())]);
        assert_eq!(kinds("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), [Kind::Nothing("SET")]);
    }

    #[test]
    fn what_writes_is_known_by_its_word() {
        for text in ["insert into t values (1)", "COPY t TO '/x'", "/* x */ DROP TABLE t", "DO $$ $$"] {
            assert!(matches!(kinds(text)[..], [Kind::Write(_)]), "{text}");
        }
    }
}
