//! What a transaction's context is made of: parts that the source's trigger noted, and parts that applications claim.

use serde_json::{Value as Json, json};

/// A part that an application says of itself, with nothing that could be taken for what the database knows.
pub(super) fn claimed(message: Json) -> Json {
    json!({ "claimed": { "message": message } })
}

/// A part that the trigger noted. What it took from settings is text there; JSON in it is shown as such.
pub(super) fn noted(mut part: Json) -> Json {
    if let Some(Json::Object(settings)) = part.get_mut("claimed") {
        for (_, value) in settings.iter_mut().filter(|(name, _)| *name != "application") {
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            if let Some(parsed) = parsed {
                *value = parsed;
            }
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_never_what_is_known() {
        let part = claimed(json!({ "user": "postgres", "statement": "SELECT 1" }));
        assert_eq!(part.get("user"), None);
        assert_eq!(part["claimed"]["message"]["user"], "postgres");
    }

    #[test]
    fn settings_that_are_json_are_shown_as_json() {
        let part =
            json!({ "user": "u", "claimed": { "application": "1", "jwt": "{\"sub\":\"7\"}", "context": "{half" } });
        let part = noted(part);
        assert_eq!(part["claimed"], json!({ "application": "1", "jwt": { "sub": "7" }, "context": "{half" }));
        assert_eq!(noted(json!("text")), json!("text"));
    }
}
