//! A line that is being edited. No terminal is looked at here.

use unicode_width::UnicodeWidthStr;

/// The text and where in it the cursor is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    text: String,
    /// In bytes, at the beginning of a character.
    cursor: usize,
}

impl Line {
    /// A text with the cursor behind it.
    pub(super) fn new(text: impl Into<String>) -> Line {
        let text = text.into();
        Line { cursor: text.len(), text }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn before(&self) -> &str {
        &self.text[..self.cursor]
    }

    fn after(&self) -> &str {
        &self.text[self.cursor..]
    }

    pub(super) fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    pub(super) fn left(&mut self) {
        self.cursor -= self.before().chars().next_back().map_or(0, char::len_utf8);
    }

    pub(super) fn right(&mut self) {
        self.cursor += self.after().chars().next().map_or(0, char::len_utf8);
    }

    pub(super) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    pub(super) fn word_left(&mut self) {
        let end = self.before().trim_end_matches(|c| !in_word(c));
        self.cursor = end.trim_end_matches(in_word).len();
    }

    pub(super) fn word_right(&mut self) {
        let rest = self.after().trim_start_matches(|c| !in_word(c));
        self.cursor = self.text.len() - rest.trim_start_matches(in_word).len();
    }

    pub(super) fn delete(&mut self) {
        if self.cursor < self.text.len() {
            self.text.remove(self.cursor);
        }
    }

    pub(super) fn backspace(&mut self) {
        if self.cursor > 0 {
            self.left();
            self.delete();
        }
    }

    pub(super) fn delete_to_end(&mut self) {
        self.text.truncate(self.cursor);
    }

    pub(super) fn delete_to_begin(&mut self) {
        self.replace_before(0, "");
    }

    /// Back to the blank before, as shells do.
    pub(super) fn delete_word(&mut self) {
        let end = self.before().trim_end();
        let begin = end.trim_end_matches(|c: char| !c.is_whitespace()).len();
        self.replace_before(begin, "");
    }

    /// Puts a text between this place and the cursor.
    pub(super) fn replace_before(&mut self, from: usize, text: &str) {
        self.text.replace_range(from..self.cursor, text);
        self.cursor = from + text.len();
    }

    /// Where the cursor and the end are on a terminal of this width, behind a prompt: rows and columns from 0.
    pub(super) fn places(&self, prompt: &str, width: usize) -> ((usize, usize), (usize, usize)) {
        let place = |columns: usize| (columns / width.max(1), columns % width.max(1));
        let start = prompt.width();
        (place(start + self.before().width()), place(start + self.text.width()))
    }
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_characters() {
        let mut line = Line::new("SELECT  größe, 日本 FROM t");
        line.home();
        line.word_right();
        assert_eq!(line.before(), "SELECT");
        line.word_right();
        line.left();
        line.backspace();
        line.insert("ß");
        assert_eq!(line.text(), "SELECT  größe, 日本 FROM t");
        line.end();
        line.word_left();
        line.word_left();
        assert_eq!(line.before(), "SELECT  größe, 日本 ");
        line.delete_word();
        assert_eq!(line.text(), "SELECT  größe, FROM t");
        line.delete_to_end();
        line.delete();
        line.right();
        assert_eq!(line.text(), "SELECT  größe, ");
        line.delete_to_begin();
        line.backspace();
        line.left();
        assert_eq!(line, Line::default());
    }

    #[test]
    fn a_long_line_goes_on_in_the_next_row() {
        let mut line = Line::new("日本abc");
        assert_eq!(line.places("=> ", 5), ((2, 0), (2, 0)));
        line.home();
        assert_eq!(line.places("=> ", 5), ((0, 3), (2, 0)));
    }
}
