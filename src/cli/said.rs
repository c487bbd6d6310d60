//! Who ran a transaction and how, as far as it was said (context).

use serde_json::Value as Json;

use crate::model::Transaction;

/// The parts of a transaction's context; none where nothing was captured.
pub(super) struct Said(Vec<Json>);

impl Said {
    pub(super) fn of(transaction: &Transaction) -> Said {
        match transaction.context.as_deref().and_then(|text| serde_json::from_str(text).ok()) {
            Some(Json::Array(parts)) => Said(parts),
            Some(part) => Said(vec![part]),
            None => Said(Vec::new()),
        }
    }

    /// The part that the database itself noted, if any.
    fn noted(&self) -> Option<&Json> {
        self.0.iter().find(|part| part["user"].is_string())
    }

    /// Every name and value that was said, each pair once; a value that is no text as compact JSON.
    pub(super) fn lines(&self) -> Vec<(&str, String)> {
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

    /// What the database knows of the session: `app as owner from 10.0.0.7`.
    pub(super) fn who(&self) -> Option<String> {
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
    pub(super) fn claims(&self) -> Vec<String> {
        let mut claims: Vec<String> =
            self.0.iter().filter(|part| part["claimed"].is_object()).map(|part| part["claimed"].to_string()).collect();
        claims.dedup();
        claims
    }

    /// The statements that were noted, in their order.
    pub(super) fn statements(&self) -> Vec<String> {
        self.0.iter().filter_map(|part| part["statement"].as_str().map(str::to_owned)).collect()
    }
}

/// Statements come from others, so control characters must not reach the terminal.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() { shown + "…" } else { shown }
}
