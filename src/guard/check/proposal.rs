//! What somebody proposes: an expression, or a constraint as a definition spells it.

use std::fmt;

use regex::Regex;

use crate::failure::{Failure, Result};
use crate::model::quote_identifier;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Check(String),
    Unique(Vec<String>),
    NotNull(String),
}

impl Proposal {
    /// Reads `CHECK (…)`, `UNIQUE (a, b)`, `NOT NULL a`, or an expression that would stand in a CHECK.
    ///
    /// # Errors
    /// Usage where it is empty, or of another kind.
    pub fn parse(text: &str) -> Result<Proposal> {
        let trimmed = text.trim().trim_end_matches(';').trim();
        let word = trimmed.split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default().to_uppercase();
        let inside = || {
            let (_, rest) = trimmed.split_once('(')?;
            rest.trim_end().strip_suffix(')').map(str::to_owned)
        };
        let wrong = |why: &str| {
            Failure::usage(format!("the constraint {text:?}: {why}"))
                .remedy("write what would stand in CHECK (…), or CHECK (…), UNIQUE (…), NOT NULL column")
        };
        let unquoted = |name: &str| match name.trim().strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => name.trim().to_lowercase(),
        };
        let kind = match word.as_str() {
            "" => return Err(wrong("it is empty")),
            "CHECK" => Kind::Check(inside().ok_or_else(|| wrong("its parentheses do not close"))?),
            "UNIQUE" | "PRIMARY" => {
                let inside = inside().ok_or_else(|| wrong("its parentheses do not close"))?;
                Kind::Unique(inside.split(',').map(unquoted).collect())
            }
            "NOT" if trimmed.to_uppercase().starts_with("NOT NULL ") => Kind::NotNull(unquoted(&trimmed[9..])),
            "FOREIGN" | "EXCLUDE" => return Err(wrong("constraints of this kind are not checked")),
            _ => Kind::Check(trimmed.to_owned()),
        };
        Ok(Proposal { text: trimmed.to_owned(), kind })
    }

    /// The condition under which a row is refused; `{TABLE}` stands for the table.
    ///
    /// # Errors
    /// Usage where it names a column that the table does not have.
    pub(super) fn violation(&self, columns: &[String]) -> Result<String> {
        let known = |name: &String| match columns.contains(name) {
            true => Ok(quote_identifier(name)),
            false => Err(Failure::usage(format!("the table has no column {name:?}"))),
        };
        Ok(match &self.kind {
            // A CHECK admits what is neither true nor false.
            Kind::Check(expression) => format!("({expression}) IS FALSE"),
            Kind::NotNull(column) => format!("r.{} IS NULL", known(column)?),
            Kind::Unique(names) => {
                let names = names.iter().map(known).collect::<Result<Vec<String>>>()?;
                let key = names.iter().map(|name| format!("r.{name}")).collect::<Vec<_>>().join(", ");
                format!("({key}) IN (SELECT {0} FROM {{TABLE}} GROUP BY {0} HAVING count(*) > 1)", names.join(", "))
            }
        })
    }

    /// The columns that it names.
    pub(super) fn named<'c>(&self, columns: &'c [String]) -> Vec<&'c String> {
        let is_named = |column: &&String| {
            let word = format!(r#"(^|[^\w"]){}([^\w"]|$)|"{}""#, regex::escape(column), regex::escape(column));
            Regex::new(&word).is_ok_and(|word| word.is_match(&self.text))
        };
        columns.iter().filter(is_named).collect()
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_read_as_people_write_them() {
        let columns = ["a", "b", "Odd name"].map(str::to_owned);
        let violation = |text: &str| Proposal::parse(text).and_then(|proposal| proposal.violation(&columns));
        assert_eq!(violation("a > 0").unwrap(), "(a > 0) IS FALSE");
        assert_eq!(violation("CHECK ((a) > (b));").unwrap(), "((a) > (b)) IS FALSE");
        assert_eq!(violation("not null \"Odd name\"").unwrap(), "r.\"Odd name\" IS NULL");
        assert!(violation("UNIQUE (a, B)").unwrap().starts_with("(r.\"a\", r.\"b\") IN (SELECT"));
        assert!(violation("UNIQUE (c)").is_err());
        assert!(Proposal::parse("FOREIGN KEY (a) REFERENCES x").is_err());
        assert!(Proposal::parse("  ").is_err());
        let named = |text: &str| Proposal::parse(text).unwrap().named(&columns).len();
        assert_eq!((named("a > 0 AND ab < 1"), named("\"Odd name\" = b")), (1, 2));
    }
}
