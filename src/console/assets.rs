//! The pages, as `web/` builds them: part of the program, so that building it needs nothing but cargo.

use crate::http::Answer;

const PAGE: &[u8] = include_bytes!("web/dist/index.html");
const SCRIPT: &[u8] = include_bytes!("web/dist/console.js");
const EARLY: &[u8] = include_bytes!("web/dist/early.js");
const STYLE: &[u8] = include_bytes!("web/dist/console.css");
const LICENCE: &[u8] = include_bytes!("web/dist/console.js.LICENSE.txt");
const ICON: &[u8] = include_bytes!("web/dist/icon.svg");

/// The addresses of pages; the one page that there is shows what its address says.
const PAGES: [&str; 7] = ["/", "/transaction", "/row", "/table", "/differences", "/sql", "/health"];

/// A page or a part of one.
pub(super) fn asset(path: &str) -> Option<Answer> {
    let found = |content_type, bytes: &'static [u8]| Some(Answer::new("200 OK", content_type, bytes));
    match path {
        "/console.js" => found("text/javascript; charset=utf-8", SCRIPT),
        "/console.js.LICENSE.txt" => found("text/plain; charset=utf-8", LICENCE),
        "/early.js" => found("text/javascript; charset=utf-8", EARLY),
        "/console.css" => found("text/css; charset=utf-8", STYLE),
        "/icon.svg" => found("image/svg+xml", ICON),
        path if PAGES.contains(&path) => found("text/html; charset=utf-8", PAGE),
        _ => None,
    }
}
