//! The password file (PostgreSQL manual, "The Password File").

use std::path::Path;

/// The lines of a password file: `host:port:database:user:password`, where `*` matches anything and a
/// backslash makes the next character itself.
#[derive(Clone, Default)]
pub(super) struct PasswordFile(Vec<[String; 5]>);

impl PasswordFile {
    /// Reads a password file. As libpq does, one that is missing is empty, and one that others can
    /// read is passed over with a warning.
    pub(super) fn load(path: &Path) -> PasswordFile {
        let Ok(metadata) = std::fs::metadata(path) else { return PasswordFile::default() };
        if !metadata.is_file() || readable_by_others(&metadata) {
            tracing::warn!(path = %path.display(), "password file passed over: it must be a plain file that only its owner can read (chmod 0600)");
            return PasswordFile::default();
        }
        std::fs::read_to_string(path).map(|text| PasswordFile::parse(&text)).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "password file passed over");
            PasswordFile::default()
        })
    }

    fn parse(text: &str) -> PasswordFile {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        PasswordFile(lines.filter_map(|line| split_line(line.trim_end_matches('\r'))).collect())
    }

    /// The password of the first line that matches.
    pub(super) fn password(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        let matching =
            self.0.iter().find(|line| line.iter().zip(wanted).all(|(field, want)| field == "*" || field == want));
        matching.map(|line| line[4].as_str())
    }
}

#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::fs::Metadata) -> bool {
    false
}

fn split_line(line: &str) -> Option<[String; 5]> {
    let mut fields: [String; 5] = Default::default();
    let mut at = 0;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => fields[at].extend(characters.next()),
            // A colon in the password itself needs no backslash.
            ':' if at < 4 => at += 1,
            c => fields[at].push(c),
        }
    }
    (at == 4).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_wins() {
        let file = PasswordFile::parse("# a:b\nh:5432:d:u:one\n*:*:*:u:two:2\nhalf:a:line\n*:*:d\\:x:*:th\\:ree\\\\\n");
        assert_eq!(file.password("h", 5432, "d", "u"), Some("one"));
        assert_eq!(file.password("h", 5433, "d", "u"), Some("two:2"));
        assert_eq!(file.password("h", 5432, "d:x", "w"), Some(r"th:ree\"));
        assert_eq!(file.password("h", 5432, "d", "w"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("afterimage-passfile-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, expected) in [(0o644, None), (0o600, Some("secret"))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(PasswordFile::load(&path).password("h", 1, "d", "u"), expected, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
