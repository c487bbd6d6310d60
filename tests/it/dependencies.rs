//! Enforces `deny.toml`, which is in cargo-deny's format: the licences, sources and crates that may be depended on.
//! Compiling cargo-deny itself takes longer than all our tests.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    wildcards: Deny,
    multiple_versions: Allow,
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Deny,
    unknown_git: Deny,
    allow_registry: BTreeSet<String>,
    allow_git: BTreeSet<String>,
}

/// The only level enforced here; a milder one in `deny.toml` must not pass for it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Allow {
    Allow,
}

/// A crate as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Requirement>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    name: String,
    req: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[test]
fn every_dependency_is_allowed() {
    let policy: Policy = toml::from_str(include_str!("../../deny.toml")).unwrap();
    let packages = dependencies();
    assert!(packages.iter().any(|package| package.name == "tokio"), "the dependencies were not found");
    let objections: Vec<String> = packages.iter().flat_map(|package| objections(&policy, package)).collect();
    assert!(objections.is_empty(), "\n{}", objections.join("\n"));
}

#[test]
fn what_is_not_allowed_is_seen() {
    let policy: Policy = toml::from_str(
        "licenses.allow = ['MIT']
         [bans]
         wildcards = 'deny'
         multiple-versions = 'allow'
         deny = [{ crate = 'banned', reason = 'because' }]
         [sources]
         unknown-registry = 'deny'
         unknown-git = 'deny'
         allow-registry = ['https://registry']
         allow-git = ['https://git/fork']",
    )
    .unwrap();
    let check = |name: &str, license: Option<&str>, source: Option<&str>, req: &str| {
        let dependencies = vec![Requirement { name: "x".into(), req: req.into() }];
        let (license, source) = (license.map(str::to_owned), source.map(str::to_owned));
        objections(&policy, &Package { name: name.into(), version: "1.0.0".into(), license, source, dependencies })
    };
    let registry = Some("registry+https://registry");
    assert!(check("fine", Some("MIT"), registry, "*").is_empty());
    assert!(check("fine", Some("MIT"), Some("git+https://git/fork?branch=main#123"), "*").is_empty());
    assert!(check("ours", Some("MIT"), None, "^1").is_empty());
    assert_eq!(check("ours", Some("MIT"), None, "*").len(), 1);
    assert_eq!(check("banned", Some("MIT"), registry, "^1"), ["banned 1.0.0 is banned: because"]);
    assert_eq!(check("viral", Some("GPL-3.0"), registry, "^1").len(), 1);
    assert_eq!(check("silent", None, registry, "^1").len(), 1);
    assert_eq!(check("fork", Some("MIT"), Some("git+https://git/other#123"), "^1").len(), 1);
    assert_eq!(check("foreign", Some("MIT"), Some("registry+https://registry/else"), "^1").len(), 1);
}

#[test]
fn a_licence_expression_is_evaluated() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "A WITH x"].map(str::to_owned));
    let permits = |expression: &str| is_permitted(expression, &allowed);
    for expression in ["MIT", "GPL OR MIT", "GPL/MIT", "A WITH x", "(MIT OR GPL) AND Apache-2.0", "GPL AND GPL OR MIT"]
    {
        assert!(permits(expression), "{expression} was refused");
    }
    for expression in ["GPL", "MIT AND GPL", "A", "A WITH y", "(MIT OR GPL) AND GPL", "", "MIT OR", "(MIT", "MIT MIT"] {
        assert!(!permits(expression), "{expression} was permitted");
    }
}

fn objections(policy: &Policy, package: &Package) -> Vec<String> {
    let whole = format!("{} {}", package.name, package.version);
    let mut objections = Vec::new();
    let Bans { wildcards: Deny::Deny, multiple_versions: Allow::Allow, deny } = &policy.bans;
    if let Some(ban) = deny.iter().find(|ban| ban.name == package.name) {
        objections.push(format!("{whole} is banned: {}", ban.reason));
    }
    if !package.license.as_ref().is_some_and(|license| is_permitted(license, &policy.licenses.allow)) {
        objections.push(format!("{whole} has a licence that is not allowed: {:?}", package.license));
    }
    match &package.source {
        Some(source) if !is_known_source(source, &policy.sources) => {
            objections.push(format!("{whole} is from {source}, which is not allowed"));
        }
        Some(_) => {}
        // No source: it is this very crate.
        None => objections.extend(wildcards(package)),
    }
    objections
}

fn wildcards(package: &Package) -> impl Iterator<Item = String> {
    let any = package.dependencies.iter().filter(|dependency| dependency.req == "*");
    any.map(|dependency| format!("{} is required in any version", dependency.name))
}

fn is_known_source(source: &str, sources: &Sources) -> bool {
    let Sources { unknown_registry: Deny::Deny, unknown_git: Deny::Deny, allow_registry, allow_git } = sources;
    let repository = |git: &str| git.split(['?', '#']).next().unwrap_or_default().to_owned();
    source.strip_prefix("registry+").is_some_and(|registry| allow_registry.contains(registry))
        || source.strip_prefix("git+").is_some_and(|git| allow_git.contains(&repository(git)))
}

/// Evaluates an SPDX expression; anything that is not one is not permitted.
fn is_permitted(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    any_of(&mut tokens, allowed).is_some_and(|permitted| permitted && tokens.is_empty())
}

fn any_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut permitted = all_of(tokens, allowed)?;
    while tokens.pop_if(|token| *token == "OR").is_some() {
        permitted |= all_of(tokens, allowed)?;
    }
    Some(permitted)
}

fn all_of(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut permitted = one(tokens, allowed)?;
    while tokens.pop_if(|token| *token == "AND").is_some() {
        permitted &= one(tokens, allowed)?;
    }
    Some(permitted)
}

fn one(tokens: &mut Vec<&str>, allowed: &BTreeSet<String>) -> Option<bool> {
    let license = tokens.pop()?;
    if license == "(" {
        let permitted = any_of(tokens, allowed)?;
        return (tokens.pop()? == ")").then_some(permitted);
    }
    if tokens.pop_if(|token| *token == "WITH").is_none() {
        return Some(allowed.contains(license));
    }
    let exception = tokens.pop()?;
    Some(allowed.contains(&format!("{license} WITH {exception}")))
}

/// Everything that is compiled for this machine's target, and ourselves.
fn dependencies() -> Vec<Package> {
    let target = format!("--filter-platform={}", host());
    let metadata = run(env!("CARGO"), &["metadata", "--locked", "--format-version=1", &target]);
    serde_json::from_str::<Metadata>(&metadata).unwrap().packages
}

fn host() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = run(&rustc, &["--version", "--verbose"]);
    version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).args(arguments).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
