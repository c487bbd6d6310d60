//! Who ran a transaction and how, as far as it was said (context).

use std::convert::Infallible;
use std::str::FromStr;

use serde_json::Value as Json;

use super::Transaction;

/// What a transaction's context must say.
#[derive(Debug, Clone)]
pub enum ContextFilter {
    /// This somewhere in it, in small letters.
    Text(String),
    /// This value under this name.
    Value(String, String),
}

impl FromStr for ContextFilter {
    type Err = Infallible;

    /// `NAME=VALUE` where what stands before the first `=` is a name.
    fn from_str(text: &str) -> Result<ContextFilter, Infallible> {
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        Ok(match text.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, value)) => ContextFilter::Value(name.to_owned(), value.to_owned()),
            None => ContextFilter::Text(text.to_lowercase()),
        })
    }
}

/// The parts of a transaction's context; none where nothing was captured.
#[derive(Debug, Clone)]
pub struct Said(Vec<Json>);

impl Said {
    pub fn of(transaction: &Transaction) -> Said {
        transaction.context.as_deref().map_or(Said(Vec::new()), Said::parse)
    }

    /// Those of a context as the archive has it.
    pub fn parse(context: &str) -> Said {
        match serde_json::from_str(context) {
            Ok(Json::Array(parts)) => Said(parts),
            Ok(part) => Said(vec![part]),
            Err(_) => Said(Vec::new()),
        }
    }

    /// The part that the database itself noted, if any.
    fn noted(&self) -> Option<&Json> {
        self.0.iter().find(|part| part["user"].is_string())
    }

    /// Every name and value that was said, each pair once; a value that is no text as compact JSON.
    pub fn lines(&self) -> Vec<(&str, String)> {
        let mut lines: Vec<(&str, String)> = Vec::new();
        let objects = self.0.iter().filter_map(Json::as_object).flatten();
        let bare = self.0.iter().filter(|part| !part.is_object()).map(|part| ("said", part));
        for (name, value) in objects.map(|(name, value)| (name.as_str(), value)).chain(bare) {
            let value = match value {
                Json::Null => continue,
                Json::String(text) => one_line(text, usize::MAX),
                other => one_line(&other.to_string(), usize::MAX),
            };
            if !lines.contains(&(name, value.clone())) {
                lines.push((name, value));
            }
        }
        lines
    }

    /// Whether the filter holds.
    pub fn says(&self, filter: &ContextFilter) -> bool {
        self.0.iter().any(|part| match filter {
            ContextFilter::Text(sought) => has_text(part, sought),
            ContextFilter::Value(name, value) => has_value(part, name, value),
        })
    }

    /// What the database knows of the session: `app as owner from 10.0.0.7`.
    pub fn who(&self) -> Option<String> {
        let part = self.noted()?;
        let mut who = part["user"].as_str()?.to_owned();
        for (name, word) in [("role", "as"), ("client", "from")] {
            if let Some(value) = part[name].as_str() {
                who.push_str(&format!(" {word} {value}"));
            }
        }
        Some(who)
    }

    /// What the session says of itself, which nobody has verified: compact JSON, one for each part that differs.
    pub fn claims(&self) -> Vec<String> {
        let mut claims: Vec<String> =
            self.0.iter().filter(|part| part["claimed"].is_object()).map(|part| part["claimed"].to_string()).collect();
        claims.dedup();
        claims
    }

    /// The name of the application that the session claims to be.
    pub fn application(&self) -> Option<&str> {
        self.0.iter().find_map(|part| part["claimed"]["application"].as_str())
    }

    /// The statements that were noted, in their order.
    pub fn statements(&self) -> Vec<String> {
        self.0.iter().filter_map(|part| part["statement"].as_str().map(str::to_owned)).collect()
    }
}

fn has_text(part: &Json, sought: &str) -> bool {
    match part {
        Json::Object(fields) => fields.values().any(|value| has_text(value, sought)),
        Json::Array(items) => items.iter().any(|item| has_text(item, sought)),
        other => shown_value(other).to_lowercase().contains(sought),
    }
}

/// The name is a path from the top (`claimed.jwt.sub`): what is known and what is claimed are not to be mistaken.
fn has_value(part: &Json, name: &str, value: &str) -> bool {
    let Json::Object(fields) = part else { return false };
    fields.iter().any(|(field, inner)| {
        let below = name.strip_prefix(field.as_str()).and_then(|rest| rest.strip_prefix('.'));
        (field == name && shown_value(inner) == value) || below.is_some_and(|rest| has_value(inner, rest, value))
    })
}

/// A text as it is, anything else as JSON.
fn shown_value(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Statements come from others, so control characters must not reach the terminal.
pub fn one_line(text: &str, most: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_by_text_and_by_value() {
        let part = r#"{"user": "app", "pid": 7, "statement": "DELETE FROM t WHERE a=1",
                       "claimed": {"jwt": {"sub": "42", "roles": ["Admin"]}}}"#;
        let said = Said(vec![serde_json::from_str(part).unwrap()]);
        let says = |text: &str| said.says(&text.parse().unwrap());
        for found in ["delete from", "ADMIN", "user=app", "pid=7", "claimed.jwt.sub=42", "where a=1"] {
            assert!(says(found), "{found}");
        }
        for absent in ["user", "user=ap", "sub=42", "jwt.sub=42", "a=1", "claimed.jwt=42", "insert"] {
            assert!(!says(absent), "{absent}");
        }
        assert!(!Said(Vec::new()).says(&"".parse().unwrap()), "nothing was said");
    }
}
