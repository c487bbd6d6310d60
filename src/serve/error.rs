//! Errors as a client of PostgreSQL is told them.

use bytes::{BufMut, BytesMut};

use super::frame::put_text;
use crate::failure::{Category, Failure};
use crate::query::ONLY_READ;

/// An error with its SQLSTATE (PostgreSQL manual, "Error Codes").
#[derive(Debug, Clone)]
pub(super) struct SqlError {
    fatal: bool,
    code: &'static str,
    message: String,
    hint: Option<String>,
    /// Where in the statement, in characters and from 1.
    position: Option<String>,
}

impl SqlError {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { fatal: false, code, message: message.into(), hint: None, position: None }
    }

    /// One after which the connection ends.
    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { fatal: true, ..SqlError::new(code, message) }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// The fields of an ErrorResponse.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let fields = [(b'S', severity), (b'V', severity), (b'C', self.code), (b'M', &self.message)];
        let more = [(b'H', &self.hint), (b'P', &self.position)];
        let more = more.into_iter().filter_map(|(field, text)| text.as_deref().map(|text| (field, text)));
        for (field, text) in fields.into_iter().chain(more) {
            out.put_u8(field);
            put_text(out, text);
        }
        out.put_u8(0);
    }
}

impl From<Failure> for SqlError {
    fn from(failure: Failure) -> SqlError {
        let cause = failure.cause();
        let code = match failure.category() {
            _ if cause.ends_with(ONLY_READ) => "25006",
            Category::Usage if cause.starts_with("there is no table") => "42P01",
            Category::Usage if cause.contains("No field named") => "42703",
            Category::Usage if cause.contains("Invalid function") => "42883",
            Category::Usage => "42601",
            _ if cause.contains("needs more memory") => "53200",
            Category::Transient => "58030",
            _ => "XX000",
        };
        let hint = failure.remedy_text().map(str::to_owned);
        let position = failure.place().map(|place| place.offset().to_string());
        SqlError { fatal: false, code, message: cause.to_owned(), hint, position }
    }
}
