//! Why a question has no answer, as the console shows it.

use serde_json::json;

use crate::failure::{Category, Failure};
use crate::http::Answer;

#[derive(Debug, Clone)]
pub(super) struct Trouble {
    status: &'static str,
    failure: Failure,
}

impl Trouble {
    pub(super) fn new(status: &'static str, cause: impl Into<String>, remedy: &str) -> Trouble {
        Trouble { status, failure: Failure::usage(cause).remedy(remedy) }
    }

    /// What is asked for does not exist, for this visitor at least.
    pub(super) fn absent(cause: impl Into<String>, remedy: &str) -> Trouble {
        Trouble::new("404 Not Found", cause, remedy)
    }

    /// The visitor may not see it.
    pub(super) fn forbidden(cause: impl Into<String>, remedy: &str) -> Trouble {
        Trouble::new("403 Forbidden", cause, remedy)
    }

    pub(super) fn answer(&self) -> Answer {
        let place = self.failure.place().map(|place| place.excerpt());
        let body = json!({ "cause": self.failure.cause(), "remedy": self.failure.remedy_text(), "place": place });
        Answer::json(self.status, body.to_string())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let status = match failure.category() {
            Category::Usage => "400 Bad Request",
            Category::Refused | Category::CheckFailed => "409 Conflict",
            Category::Failed => "500 Internal Server Error",
            Category::Transient => "503 Service Unavailable",
        };
        Trouble { status, failure }
    }
}
