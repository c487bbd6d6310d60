//! Who asks, and whether it is a page of ours that has them ask.
//!
//! On loopback without tokens everybody on the machine may look; there the name by which a browser came is checked, or a
//! page of somebody else's could have its own name resolve to this machine and read along. Everywhere else a request has a
//! user: by a token, in a header or in a cookie, or by the header of a proxy that is trusted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::failure::{Failure, Result};
use crate::http::Request;
use crate::query::Access;

/// The cookie that keeps a token.
const COOKIE: &str = "afterimage_token";
/// Seconds for which a browser keeps it: a day's work.
const KEPT: u32 = 12 * 60 * 60;
/// Characters of a token: fewer could be guessed, more do not fit into a request.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=512;

/// Somebody who may look.
#[derive(Debug, Clone)]
pub struct ConsoleUser {
    pub name: String,
    /// What they show to come in; `None` for those whom only a proxy can name.
    pub token: Option<String>,
    pub access: Access,
}

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub struct AdmissionSettings {
    pub users: Vec<ConsoleUser>,
    /// The header in which a trusted proxy names the user, in small letters.
    pub user_header: Option<String>,
    /// Who is such a proxy; this machine where it is empty.
    pub proxies: Vec<IpAddr>,
}

/// Whoever was let in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// `None` where nobody has to say who they are.
    pub(super) name: Option<String>,
    pub(super) access: Access,
}

/// Why somebody was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// By the name that the browser used for this server.
    WrongHost,
    /// By a page of somebody else's.
    CrossSite,
    /// They have shown nothing, or nothing that is known.
    Unknown,
    /// The proxy names somebody who is not configured.
    Stranger,
}

/// See the module's documentation.
pub(super) struct Admission {
    /// By the digest of their tokens: looking one up takes the same time whatever is sent.
    tokens: HashMap<Vec<u8>, Arc<ConsoleUser>>,
    users: HashMap<String, Arc<ConsoleUser>>,
    user_header: Option<String>,
    proxies: Vec<IpAddr>,
    /// Everybody is let in.
    open: bool,
    /// Only names of this machine are answered to.
    checks_host: bool,
    encrypted: bool,
}

fn digest_of(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

impl Admission {
    /// Who is let in where a server listens there.
    ///
    /// # Errors
    /// Usage where a token cannot be used, and where the address can be reached from elsewhere and nobody would be asked who
    /// they are.
    pub(super) fn new(settings: AdmissionSettings, address: IpAddr, encrypted: bool) -> Result<Admission> {
        let AdmissionSettings { users, user_header, proxies } = settings;
        let mut tokens = HashMap::new();
        let mut by_name = HashMap::new();
        for user in users {
            let user = Arc::new(user);
            if let Some(token) = &user.token {
                require_token(&user.name, token)?;
                if let Some(other) = tokens.insert(digest_of(token), Arc::clone(&user)) {
                    return Err(Failure::usage(format!("{} and {} have the same token", other.name, user.name))
                        .remedy("give each its own in token_file"));
                }
            }
            by_name.insert(user.name.clone(), user);
        }
        let asks = !tokens.is_empty() || user_header.is_some();
        if !asks && !address.is_loopback() {
            return Err(Failure::usage(format!(
                "the console would listen on {address}, where others reach it, and ask nobody who they are"
            ))
            .remedy("give a [[serve.user]] a token_file, name a proxy's http_user_header, or listen on 127.0.0.1"));
        }
        let checks_host = address.is_loopback() && user_header.is_none();
        Ok(Admission { tokens, users: by_name, user_header, proxies, open: !asks, checks_host, encrypted })
    }

    /// Whether tokens are asked for.
    pub(super) fn takes_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether a page of ours asks, under a name of this server's.
    pub(super) fn is_ours(&self, request: &Request) -> Result<(), Turned> {
        if self.checks_host && !request.header("host").is_none_or(is_this_machine) {
            return Err(Turned::WrongHost);
        }
        // Browsers say where a request comes from; programs do not.
        match request.header("sec-fetch-site") {
            None | Some("same-origin" | "none") => {}
            Some(_) => return Err(Turned::CrossSite),
        }
        let origin = request.header("origin").map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
        match origin.is_none() || origin == request.header("host") || self.user_header.is_some() {
            true => Ok(()),
            false => Err(Turned::CrossSite),
        }
    }

    /// Who asks.
    pub(super) fn admit(&self, request: &Request) -> Result<Visitor, Turned> {
        if let Some(name) = self.named_by_proxy(request) {
            let user = self.users.get(name).ok_or(Turned::Stranger)?;
            return Ok(visitor(user));
        }
        let shown = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = shown.or_else(|| cookie(request));
        match token.and_then(|token| self.tokens.get(&digest_of(token.trim()))) {
            Some(user) => Ok(visitor(user)),
            None if self.open => Ok(Visitor { name: None, access: Access::default() }),
            None => Err(Turned::Unknown),
        }
    }

    fn named_by_proxy<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let name = request.header(self.user_header.as_deref()?)?;
        let peer = request.peer?.to_canonical();
        let trusted = match self.proxies.is_empty() {
            true => peer.is_loopback(),
            false => self.proxies.contains(&peer),
        };
        trusted.then_some(name)
    }

    /// The cookie that keeps a token that is known.
    pub(super) fn welcome(&self, token: &str) -> Option<String> {
        self.tokens.get(&digest_of(token))?;
        Some(self.set_cookie(token, KEPT))
    }

    /// The cookie that forgets it.
    pub(super) fn farewell(&self) -> String {
        self.set_cookie("", 0)
    }

    fn set_cookie(&self, token: &str, seconds: u32) -> String {
        let secure = if self.encrypted { "; Secure" } else { "" };
        format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }
}

fn visitor(user: &Arc<ConsoleUser>) -> Visitor {
    Visitor { name: Some(user.name.clone()), access: user.access.clone() }
}

/// A token travels in a header and in a cookie, so it has only what both can hold.
fn require_token(user: &str, token: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if TOKEN.contains(&token.len()) && token.bytes().all(fits) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "serve.user {user}: the token is not of {} to {} letters, digits and -._~+/=",
        TOKEN.start(),
        TOKEN.end()
    ))
    .remedy("make one: head -c 32 /dev/urandom | base64"))
}

fn cookie(request: &Request) -> Option<&str> {
    let pairs = request.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value).next()
}

/// Whether a Host header names this machine: nothing that somebody else's name server could say.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1";
    const ELSEWHERE: &str = "0.0.0.0";
    const TOKEN: &str = "0123456789abcdef";

    fn request(headers: &[(&str, &str)], peer: &str) -> Request {
        let mut request = Request::of("/", headers);
        request.peer = Some(peer.parse().unwrap());
        request
    }

    fn settings(token: Option<&str>) -> AdmissionSettings {
        let user = ConsoleUser { name: "ada".into(), token: token.map(str::to_owned), access: Access::default() };
        AdmissionSettings { users: vec![user], ..AdmissionSettings::default() }
    }

    fn admission(settings: AdmissionSettings, address: &str) -> Result<Admission> {
        Admission::new(settings, address.parse().unwrap(), false)
    }

    #[test]
    fn nobody_listens_to_others_without_asking_who_they_are() {
        assert!(admission(settings(None), ELSEWHERE).is_err());
        assert!(admission(settings(Some("short")), ELSEWHERE).is_err());
        let open = admission(settings(None), LOOPBACK).unwrap();
        assert_eq!(open.admit(&request(&[], LOOPBACK)).unwrap().name, None);
        for address in [LOOPBACK, ELSEWHERE] {
            let closed = admission(settings(Some(TOKEN)), address).unwrap();
            assert_eq!(closed.admit(&request(&[], LOOPBACK)).unwrap_err(), Turned::Unknown);
            for shown in [("authorization", format!("Bearer {TOKEN}")), ("cookie", format!("a=b; {COOKIE}={TOKEN}"))] {
                let named = closed.admit(&request(&[(shown.0, &shown.1)], "10.0.0.1")).unwrap().name;
                assert_eq!(named.as_deref(), Some("ada"));
            }
            assert!(closed.welcome("0123456789abcdeF").is_none());
            assert!(closed.welcome(TOKEN).unwrap().contains("HttpOnly; SameSite=Strict"));
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_users() {
        let mut trusting = settings(None);
        trusting.user_header = Some("x-user".into());
        let local = admission(trusting.clone(), ELSEWHERE).unwrap();
        let named = |name: &str, peer: &str, by: &Admission| by.admit(&request(&[("x-user", name)], peer));
        assert_eq!(named("ada", LOOPBACK, &local).unwrap().name.as_deref(), Some("ada"));
        assert_eq!(named("ada", "::ffff:127.0.0.1", &local).unwrap().name.as_deref(), Some("ada"));
        assert_eq!(named("bob", LOOPBACK, &local).unwrap_err(), Turned::Stranger);
        assert_eq!(named("ada", "10.0.0.1", &local).unwrap_err(), Turned::Unknown);
        trusting.proxies = vec!["10.0.0.1".parse().unwrap()];
        let remote = admission(trusting, ELSEWHERE).unwrap();
        assert!(named("ada", "10.0.0.1", &remote).is_ok());
        assert_eq!(named("ada", LOOPBACK, &remote).unwrap_err(), Turned::Unknown);
    }

    #[test]
    fn other_names_and_other_pages_are_turned_away_on_loopback() {
        let open = admission(settings(None), LOOPBACK).unwrap();
        for (host, ours) in [
            ("127.0.0.1:8432", true),
            ("localhost:8432", true),
            ("LOCALHOST", true),
            ("[::1]:8432", true),
            ("evil.example:8432", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(open.is_ours(&request(&[("host", host)], LOOPBACK)).is_ok(), ours, "{host}");
        }
        let from =
            |name: &str, value: &str| open.is_ours(&request(&[("host", "localhost:1"), (name, value)], LOOPBACK));
        assert_eq!(from("sec-fetch-site", "cross-site"), Err(Turned::CrossSite));
        assert_eq!(from("sec-fetch-site", "same-site"), Err(Turned::CrossSite));
        assert_eq!(from("origin", "http://evil.example"), Err(Turned::CrossSite));
        assert_eq!(from("origin", "null"), Err(Turned::CrossSite));
        assert_eq!(from("origin", "http://localhost:1"), Ok(()));
    }
}
