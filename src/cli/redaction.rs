//! Keeps passwords out of what is shown: whoever mixes two arguments up finds his address in the message.

use std::sync::LazyLock;

use regex::Regex;

/// The password of a URL. It may itself hold an `@` that should have been encoded.
static IN_URL: LazyLock<Regex> = LazyLock::new(|| pattern(r"(://[^:/@\s]*):\S*@"));
/// The password among `key=value` pairs, or after a URL's question mark.
static IN_PAIR: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?i)(password\s*=\s*)('[^']*'|[^\s&'"\x1b]+)"#));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns are constants that the tests below use")
}

/// The text without the passwords that addresses in it carry.
pub(super) fn without_passwords(text: &str) -> String {
    let text = IN_URL.replace_all(text, "$1:…@");
    IN_PAIR.replace_all(&text, "$1…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_loses_its_password() {
        let cases = [
            ("'postgres://u:sesame@h/db' found", "'postgres://u:…@h/db' found"),
            ("postgres://u:se@sa/me@h/db?x=1", "postgres://u:…@h/db?x=1"),
            ("\"s3://key:sesame@bucket\"", "\"s3://key:…@bucket\""),
            ("host=h password=sesame user=u", "host=h password=… user=u"),
            ("host=h PASSWORD = 'se same' user=u", "host=h PASSWORD = … user=u"),
            ("postgres://h/db?password=sesame&user=u", "postgres://h/db?password=…&user=u"),
            ("\x1b[33mpassword=sesame\x1b[0m", "\x1b[33mpassword=…\x1b[0m"),
        ];
        for (text, shown) in cases {
            assert_eq!(without_passwords(text), shown);
        }
    }

    #[test]
    fn what_has_none_stays() {
        for text in ["postgres://u@h:5432/db", "s3://bucket/prefix", "16/B374D848", "add --source URL"] {
            assert_eq!(without_passwords(text), text);
        }
    }
}
