//! Server settings that every connection of ours pins.

/// What decides the text of a value, which rows a read returns and what ends a session early.
///
/// They travel in the start-up message, where they outrank what `ALTER ROLE … SET` and
/// `ALTER DATABASE … SET` say, and every server from version 14 on lets any role set them.
pub const PINNED_SETTINGS: &[(&str, &str)] = &[
    // The text of values.
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    // regclass and its kin write, and SQL reads, a name by the search path; quoting follows it.
    ("search_path", ""),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("timezone_abbreviations", "Default"),
    ("transform_null_equals", "off"),
    // A policy must make a read fail, never make it smaller.
    ("row_security", "off"),
    // Notices carry findings (a publication that does not exist), so nobody may silence them.
    ("client_min_messages", "notice"),
    // Waiting is bounded by whoever waits, not by the server.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// The first major version that has `transaction_timeout`, which older ones refuse at start-up.
const FIRST_WITH_TRANSACTION_TIMEOUT: u32 = 17;

/// What must be set by SQL once the server's version is known.
pub(super) fn late_settings(server_major: u32) -> Option<&'static str> {
    (server_major >= FIRST_WITH_TRANSACTION_TIMEOUT).then_some("SET transaction_timeout = 0")
}

/// Makes the server send the bytes of a database in SQL_ASCII as they are: it would check that they are UTF-8 and fail
/// where they are not. For connections that read values as bytes.
pub const RAW_WHERE_UNKNOWN: &str = "SELECT set_config('client_encoding', 'SQL_ASCII', false)
     WHERE current_setting('server_encoding') = 'SQL_ASCII'";

/// The start-up message's `options`: the user's first, so that the pinned ones win.
pub(super) fn startup_options(user: Option<&str>, extra: &[(String, String)]) -> String {
    let mut options = user.unwrap_or_default().trim().to_owned();
    let extra = extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in extra.chain(PINNED_SETTINGS.iter().copied()) {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str("-c ");
        push_escaped(&mut options, name);
        options.push('=');
        push_escaped(&mut options, value);
    }
    options
}

/// The server splits `options` at blanks and reads a backslash as "the next character is itself".
fn push_escaped(options: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_whitespace() || c == '\\' {
            options.push('\\');
        }
        options.push(c);
    }
}

/// The major version out of a `server_version` such as `15.8 (Debian 15.8-0+deb12u1)` or `19beta1`.
pub(super) fn major_version(server_version: &str) -> Option<u32> {
    let digits = server_version.len() - server_version.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    server_version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_settings_come_after_the_users_and_blanks_are_escaped() {
        let options = startup_options(Some("-c work_mem=1MB"), &[("application.note".into(), r"a \b".into())]);
        assert!(
            options.starts_with(r"-c work_mem=1MB -c application.note=a\ \\b -c client_encoding=UTF8"),
            "{options}"
        );
        assert!(options.contains(r"-c DateStyle=ISO,\ MDY "), "{options}");
        assert!(options.contains("-c search_path= "), "{options}");
    }

    #[test]
    fn versions_are_read_from_what_servers_say() {
        let versions = [("15.8 (Debian 15.8-0+deb12u1)", Some(15)), ("19beta1", Some(19)), ("", None), ("x", None)];
        for (text, major) in versions {
            assert_eq!(major_version(text), major, "{text}");
        }
    }
}
