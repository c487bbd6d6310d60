//! A request, read strictly: whatever could be understood in two ways is refused, so that no proxy in front of it
//! understands another request than we do.

use std::net::IpAddr;

/// Bytes of a request up to the end of its headers, at most.
pub(super) const HEAD: usize = 16 << 10;
/// Bytes of its body.
pub(super) const BODY: usize = 256 << 10;
/// Headers, at most.
const HEADERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
}

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// From the first slash up to the question mark; never decoded.
    pub path: String,
    /// What follows it, decoded, in its order.
    pub query: Vec<(String, String)>,
    /// Names in small letters.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// From where it comes; `None` where that is not known.
    pub peer: Option<IpAddr>,
}

impl Request {
    /// A GET, for tests.
    #[cfg(test)]
    pub fn of(path: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request { method: Method::Get, path: path.to_owned(), query: Vec::new(), headers, body: Vec::new(), peer: None }
    }

    /// A header that is there once; its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// Whether a header is there, once or more often.
    pub fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }

    /// The first value of a name in the query that is not empty.
    pub fn asked(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Every value of a name in the query that is not empty.
    pub fn all_asked<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query
            .iter()
            .filter(move |(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

/// Why a request is refused: status and a line that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str, pub(super) &'static str);

const fn bad(why: &'static str) -> Refused {
    Refused("400 Bad Request", why)
}

/// A request without its body, and how many bytes that has.
pub(super) struct Head {
    pub(super) request: Request,
    pub(super) body: usize,
}

/// Reads what stands before the empty line, that line included.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Refused> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("this is no HTTP/1.1 request"))?;
    let text = text.strip_suffix("\r\n\r\n").ok_or(bad("the request ends before its headers do"))?;
    let mut lines = text.split("\r\n");
    let (method, target, newer) = request_line(lines.next().unwrap_or_default())?;
    let headers = lines.map(header_line).collect::<Result<Vec<_>, _>>()?;
    if headers.len() > HEADERS {
        return Err(Refused("431 Request Header Fields Too Large", "too many headers"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request =
        Request { method, path: path.to_owned(), query: pairs(query)?, headers, body: Vec::new(), peer: None };
    let hosts = request.headers.iter().filter(|(name, _)| name == "host").count();
    if hosts > 1 || (hosts == 0 && newer) {
        return Err(bad("a request names one host"));
    }
    if request.has_header("transfer-encoding") {
        return Err(Refused("501 Not Implemented", "a body has a content-length here, and no transfer-encoding"));
    }
    let body = body_length(&request)?;
    Ok(Head { request, body })
}

fn request_line(line: &str) -> Result<(Method, &str, bool), Refused> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("this is no HTTP/1.1 request"));
    };
    let newer = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err(bad("this is no HTTP/1.1 request")),
    };
    if !target.starts_with('/') || target.starts_with("//") || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("the address asked for is no path"));
    }
    if target.contains('#') {
        return Err(bad("a fragment stays with the browser"));
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        _ => return Err(Refused("405 Method Not Allowed", "only GET, HEAD and POST are answered")),
    };
    Ok((method, target, newer))
}

fn header_line(line: &str) -> Result<(String, String), Refused> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let (name, value) = line.split_once(':').ok_or(bad("a header has no colon"))?;
    // Neither a folded line nor a blank before the colon: intermediaries differ about both.
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(bad("a header's name is none"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(bad("a header's value has control characters"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn body_length(request: &Request) -> Result<usize, Refused> {
    if !request.has_header("content-length") {
        return match request.method {
            Method::Post => Err(Refused("411 Length Required", "a POST says how long its body is")),
            _ => Ok(0),
        };
    }
    let digits = request.header("content-length").filter(|text| !text.is_empty() && text.len() <= 9);
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length: usize = digits.and_then(|text| text.parse().ok()).ok_or(bad("the content-length is no number"))?;
    match request.method {
        _ if length > BODY => Err(Refused("413 Content Too Large", "the body is too long")),
        Method::Get | Method::Head if length > 0 => Err(bad("only a POST has a body")),
        _ => Ok(length),
    }
}

/// `a=1&b=%20`.
fn pairs(query: &str) -> Result<Vec<(String, String)>, Refused> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Some((decoded(name)?, decoded(value)?))
    };
    parts.map(|part| pair(part).ok_or(bad("the query is not encoded as a form"))).collect()
}

/// The text that percent signs and plus signs stand for.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits =
                    text.get(at + 1..at + 3).filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                at += 3;
            }
            byte => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> &'static str {
        head(bytes).map_or_else(|refused| refused.0, |_| "200 OK")
    }

    #[test]
    fn a_request_is_read() {
        let head = head(b"POST /a/b?x=1&y=%C3%A9+z&x=2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-A:\t b \r\n\r\n");
        let Head { request, body } = head.unwrap();
        assert_eq!((request.method, request.path.as_str(), body), (Method::Post, "/a/b", 3));
        assert_eq!(request.asked("y"), Some("\u{e9} z"));
        assert_eq!(request.all_asked("x").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((request.header("x-a"), request.header("absent")), (Some("b"), None));
    }

    #[test]
    fn whatever_is_accepted_is_a_request() {
        let whole: &[u8] = b"POST /a?x=%41&y HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX: y\r\n\r\n";
        let mut accepted = 0;
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                for bytes in [&changed[..], &changed[..at], &changed[at..]] {
                    let Ok(Head { request, body }) = head(bytes) else { continue };
                    accepted += 1;
                    assert!(request.path.starts_with('/') && body <= BODY, "{:?}", String::from_utf8_lossy(bytes));
                    assert!(request.path.bytes().all(|byte| byte.is_ascii_graphic()));
                    assert!(request.headers.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
                }
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let many = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(HEADERS));
        let refused: [(&[u8], &str); 25] = [
            (b"", "400"),
            (b"\r\n\r\n", "400"),
            (b"GET /\r\n\r\n", "400"),
            (b"GET  / HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET / HTTP/1.1 \r\nhost: h\r\n\r\n", "400"),
            (b"GET / HTTP/2.0\r\nhost: h\r\n\r\n", "400"),
            (b"GET http://h/ HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET //h/ HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET /#a HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET /\x7f HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET /?a=%f HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET /?a=%ff HTTP/1.1\r\nhost: h\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nhost: h\r\nhost: i\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nhost: h\r\n folded\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nhost : h\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\nhost: h\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "400"),
            (b"POST / HTTP/1.1\r\nhost: h\r\n\r\n", "411"),
            (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 999999999\r\n\r\n", "413"),
            (b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n", "501"),
            (b"DELETE / HTTP/1.1\r\nhost: h\r\n\r\n", "405"),
        ];
        for (bytes, wanted) in refused {
            assert!(status(bytes).starts_with(wanted), "{:?}: {}", String::from_utf8_lossy(bytes), status(bytes));
        }
        assert!(status(many.as_bytes()).starts_with("431"));
        assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), "200 OK");
    }
}
