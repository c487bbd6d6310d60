//! What a caller may do about an error.
//!
//! Every error that leaves a module is a [`Failure`]: one line of cause, one line of remedy, and a
//! [`Category`] that alone decides between retrying, stopping and the exit code. Modules keep their
//! own detail in the cause; nobody outside matches on text.

use std::fmt;

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
}

/// The result type of the whole crate.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(category: Category, cause: impl Into<String>) -> Self {
        Failure { category, cause: cause.into(), remedy: None }
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
