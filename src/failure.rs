//! What a caller may do about an error.
//!
//! Every error that leaves a module is a [`Failure`]: one line of cause, one line of remedy, and a
//! [`Category`] that alone decides between retrying, stopping and the exit code. Modules keep their
//! own detail in the cause; nobody outside matches on text.

use std::fmt;
use std::sync::Arc;

/// The few things that can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The same call may succeed later: a restarting server, a store that does not answer.
    Transient,
    /// It will not succeed until something outside is changed: settings, privileges, credentials, a full disk.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// A check or a gate says no: differences, impact, ill health.
    CheckFailed,
    /// Refused to protect data: a conflict, a gap, another writer, another database's archive.
    Refused,
}

impl Category {
    /// The documented exit code of a command that ends with this category.
    pub fn exit_code(self) -> u8 {
        match self {
            Category::Transient | Category::Failed => 1,
            Category::Usage => 2,
            Category::CheckFailed => 3,
            Category::Refused => 4,
        }
    }
}

/// An error with its cause and its remedy, each fit to be one line on a terminal.
#[derive(Debug, Clone)]
pub struct Failure {
    category: Category,
    cause: String,
    remedy: Option<String>,
    place: Option<Place>,
}

/// Where in a text that somebody wrote the cause lies.
#[derive(Debug, Clone)]
pub struct Place {
    text: Arc<str>,
    line: usize,
    column: usize,
}

impl Place {
    /// A line and a column of a text, in characters and from 1; `None` where the text has no such place.
    pub fn new(text: &str, line: usize, column: usize) -> Option<Place> {
        let width = text.lines().nth(line.checked_sub(1)?)?.chars().count();
        (1..=width + 1).contains(&column).then(|| Place { text: text.into(), line, column })
    }

    /// The line with a mark below the place, as psql shows it. Control characters are dots.
    pub fn excerpt(&self) -> String {
        let line = self.text.lines().nth(self.line - 1).unwrap_or_default();
        let plain = |c: char| if c.is_control() { '\u{b7}' } else { c };
        let (skipped, shown) = match self.column {
            0..=LEFT_OF_PLACE => ("", 0),
            column => ("...", column - LEFT_OF_PLACE),
        };
        let rest: String = line.chars().skip(shown).take(2 * LEFT_OF_PLACE).map(plain).collect();
        let before = format!("LINE {}: {skipped}", self.line);
        let blanks = before.chars().count() + self.column - 1 - shown;
        format!("{before}{rest}\n{}^", " ".repeat(blanks))
    }

    /// Its number among the text's characters, from 1.
    pub fn offset(&self) -> usize {
        let lines = self.text.split_inclusive('\n').take(self.line - 1);
        lines.map(|line| line.chars().count()).sum::<usize>() + self.column
    }
}

/// So many characters of a line are shown before a place in it.
const LEFT_OF_PLACE: usize = 50;

/// The result type of the whole crate.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(category: Category, cause: impl Into<String>) -> Self {
        Failure { category, cause: cause.into(), remedy: None, place: None }
    }

    pub fn transient(cause: impl Into<String>) -> Self {
        Self::new(Category::Transient, cause)
    }

    pub fn failed(cause: impl Into<String>) -> Self {
        Self::new(Category::Failed, cause)
    }

    pub fn usage(cause: impl Into<String>) -> Self {
        Self::new(Category::Usage, cause)
    }

    pub fn check_failed(cause: impl Into<String>) -> Self {
        Self::new(Category::CheckFailed, cause)
    }

    pub fn refused(cause: impl Into<String>) -> Self {
        Self::new(Category::Refused, cause)
    }

    /// Adds what the reader should do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds where in what somebody wrote the cause lies.
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// Puts what was being attempted in front of the cause.
    pub fn context(mut self, attempt: impl fmt::Display) -> Self {
        self.cause = format!("{attempt}: {}", self.cause);
        self
    }

    pub fn category(&self) -> Category {
        self.category
    }

    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub fn is_transient(&self) -> bool {
        self.category == Category::Transient
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Failure {}

/// Says what was being attempted when an error passes through.
pub trait Context<T> {
    fn context(self, attempt: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for std::result::Result<T, E> {
    fn context(self, attempt: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_under_its_line() {
        let text = "SELECT 1,\n\tnmae FROM t";
        let place = Place::new(text, 2, 2).unwrap();
        assert_eq!(place.excerpt(), "LINE 2: \u{b7}nmae FROM t\n         ^");
        assert_eq!(place.offset(), 12);
        assert!(Place::new(text, 3, 1).is_none() && Place::new(text, 0, 1).is_none());
        assert!(Place::new(text, 1, 11).is_none() && Place::new(text, 1, 10).is_some());
    }

    #[test]
    fn of_a_long_line_only_what_is_near_is_shown() {
        let text = format!("{}X{}", "a".repeat(200), "b".repeat(200));
        let excerpt = Place::new(&text, 1, 201).unwrap().excerpt();
        let (line, mark) = excerpt.split_once('\n').unwrap();
        assert!(line.starts_with("LINE 1: ...a") && line.chars().count() < 120, "{excerpt}");
        assert_eq!(line.chars().nth(mark.chars().count() - 1), Some('X'), "{excerpt}");
    }
}
