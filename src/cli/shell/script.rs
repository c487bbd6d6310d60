//! From lines to statements, which end in `;`, and backslash commands, which end with their line. As psql reads them
//! (PostgreSQL manual, "Lexical Structure"): what is quoted or commented ends nothing.

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A statement without its `;`.
    Statement(String),
    /// A command without its backslash.
    Command(String),
}

/// Lines as they come.
#[derive(Debug, Default)]
pub(super) struct Script {
    statement: String,
    /// Whether the statement has more than blanks and comments.
    begun: bool,
    within: Within,
    parentheses: usize,
}

/// What the next character stands in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Within {
    #[default]
    Nothing,
    /// `'…'`; in `E'…'` a backslash takes the next character.
    Text {
        escapes: bool,
    },
    Identifier,
    /// `$tag$ … $tag$`, by its tag with the dollars.
    Dollars(String),
    /// `/* … */`, which nest.
    Comment(usize),
}

impl Script {
    /// Takes a line without its end, and gives what it completes.
    pub(super) fn line(&mut self, line: &str) -> Vec<Item> {
        let mut items = Vec::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let taken = match &self.within {
                Within::Nothing => match self.outside(rest, c) {
                    Step::Take(taken) => taken,
                    Step::End => {
                        items.extend(self.end().map(Item::Statement));
                        rest = &rest[1..];
                        continue;
                    }
                    Step::Command => {
                        items.push(Item::Command(rest[1..].trim().to_owned()));
                        rest = "";
                        continue;
                    }
                    // A comment to the line's end stays in the statement: whoever edits it sees it again.
                    Step::Line => rest.len(),
                },
                Within::Text { escapes: true } if c == '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                Within::Text { .. } => self.until("'", rest),
                Within::Identifier => self.until("\"", rest),
                Within::Dollars(tag) => {
                    let tag = tag.clone();
                    self.until(&tag, rest)
                }
                Within::Comment(depth) => {
                    let depth = *depth;
                    match rest.get(..2) {
                        Some("/*") => self.enter(Within::Comment(depth + 1), 2),
                        Some("*/") if depth > 1 => self.enter(Within::Comment(depth - 1), 2),
                        Some("*/") => self.enter(Within::Nothing, 2),
                        _ => c.len_utf8(),
                    }
                }
            };
            self.statement.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        if !self.statement.is_empty() {
            self.statement.push('\n');
        }
        items
    }

    /// A character outside of everything, and what it begins.
    fn outside(&mut self, rest: &str, c: char) -> Step {
        match c {
            _ if rest.starts_with("--") => return Step::Line,
            _ if rest.starts_with("/*") => return Step::Take(self.enter(Within::Comment(1), 2)),
            ';' if self.parentheses == 0 => return Step::End,
            '\\' => return Step::Command,
            c if c.is_whitespace() => return Step::Take(c.len_utf8()),
            _ => self.begun = true,
        }
        match c {
            '\'' => {
                let before = self.statement.strip_suffix(['e', 'E']);
                let escapes = before.is_some_and(|before| !before.ends_with(in_word));
                Step::Take(self.enter(Within::Text { escapes }, 1))
            }
            '"' => Step::Take(self.enter(Within::Identifier, 1)),
            '$' if !self.statement.ends_with(in_word) => match dollar_tag(rest) {
                Some(tag) => Step::Take(self.enter(Within::Dollars(tag.to_owned()), tag.len())),
                None => Step::Take(1),
            },
            '(' => {
                self.parentheses += 1;
                Step::Take(1)
            }
            ')' => {
                self.parentheses = self.parentheses.saturating_sub(1);
                Step::Take(1)
            }
            c => Step::Take(c.len_utf8()),
        }
    }

    fn enter(&mut self, within: Within, taken: usize) -> usize {
        self.within = within;
        taken
    }

    /// Goes on to behind the end, if it comes, one character at a time otherwise.
    fn until(&mut self, end: &str, rest: &str) -> usize {
        match rest.starts_with(end) {
            true => self.enter(Within::Nothing, end.len()),
            false => rest.chars().next().map_or(0, char::len_utf8),
        }
    }

    /// What was begun and not ended; nothing is begun then.
    pub(super) fn end(&mut self) -> Option<String> {
        let script = std::mem::take(self);
        script.begun.then(|| script.statement().to_owned())
    }

    /// What was begun.
    pub(super) fn statement(&self) -> &str {
        self.statement.trim()
    }

    /// The sign that psql's prompt has for what is begun.
    pub(super) fn sign(&self) -> char {
        match &self.within {
            Within::Text { .. } => '\'',
            Within::Identifier => '"',
            Within::Dollars(_) => '$',
            Within::Comment(_) => '*',
            Within::Nothing if self.parentheses > 0 => '(',
            Within::Nothing if self.begun => '-',
            Within::Nothing => '=',
        }
    }
}

/// What becomes of a character.
enum Step {
    /// So many bytes belong to the statement.
    Take(usize),
    /// The rest of the line does, and means nothing.
    Line,
    End,
    Command,
}

/// Whether a name goes on with it.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// `$$` or `$tag$` at the beginning.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = 1 + text.get(1..)?.find('$')?;
    let tag = &text[1..end];
    let name = tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_ascii_digit());
    name.then(|| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<String> {
        let mut script = Script::default();
        let mut items: Vec<Item> = text.lines().flat_map(|line| script.line(line)).collect();
        items.extend(script.end().map(Item::Statement));
        let shown = |item| match item {
            Item::Statement(text) => text,
            Item::Command(text) => format!("\\{text}"),
        };
        items.into_iter().map(shown).collect()
    }

    #[test]
    fn statements_end_in_semicolons_and_commands_with_their_line() {
        let text = "SELECT 1; SELECT\n  2 -- two;\n; \\x on\n;;\n\\d t \nSELECT 3";
        assert_eq!(items(text), ["SELECT 1", "SELECT\n  2 -- two;", "\\x on", "\\d t", "SELECT 3"]);
        assert_eq!(items("-- nothing\n/* but ; comments */\n  \n"), [] as [&str; 0]);
        assert_eq!(items("SELECT 1 \\g\n"), ["\\g", "SELECT 1"]);
    }

    #[test]
    fn what_is_quoted_ends_nothing() {
        for text in [
            "SELECT ';', 'it''s;\n\\d '",
            "SELECT \"a;\"\"b\"",
            "SELECT $$a;'b$$",
            "SELECT $x$ ; $$ ; $x$",
            "SELECT E'\\';'",
            "SELECT 'back\\' , e'\\\\'",
            "SELECT a$b$ FROM t",
            "SELECT (1; 2)",
            "SELECT /* /* ; */ ' ; */ 1",
            "SELECT $1",
        ] {
            assert_eq!(items(&format!("{text};\nSELECT 2;")), [text, "SELECT 2"], "{text}");
        }
    }

    #[test]
    fn the_prompt_says_what_is_open() {
        for (text, sign) in [
            ("", '='),
            ("-- comment", '='),
            ("SELECT", '-'),
            ("SELECT '", '\''),
            ("SELECT \"", '"'),
            ("SELECT $a$", '$'),
            ("/*", '*'),
            ("SELECT (", '('),
            ("SELECT (1);", '='),
        ] {
            let mut script = Script::default();
            script.line(text);
            assert_eq!(script.sign(), sign, "{text}");
        }
    }
}
