//! The image, and the compose file that starts it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::{PATIENCE, deployed, found, read, root, spoilt, tool};
use crate::support::{Directory, Program, python};

const DOCKERFILE: &str = "docker/Dockerfile";

/// What the build's stage takes from the working copy.
fn copied() -> Vec<String> {
    let text = read(&deployed(DOCKERFILE));
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
    let copies = copies.filter(|arguments| !arguments.starts_with("--from="));
    let sources = copies.flat_map(|arguments| {
        let paths: Vec<&str> = arguments.split_whitespace().collect();
        paths[..paths.len() - 1].iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()
    });
    let sources: Vec<String> = sources.collect();
    assert!(sources.contains(&"src".to_owned()), "what is copied was not found: {sources:?}");
    sources
}

#[test]
fn the_dockerfile_is_as_one_is_written() {
    tool("hadolint", &["--failure-threshold", "style", DOCKERFILE], &deployed("")).expect(0);
    let (directory, _) = spoilt(DOCKERFILE, "FROM debian:[^\n]*", "FROM debian:latest");
    tool("hadolint", &["--failure-threshold", "style", "Dockerfile"], directory.path()).expect(1);
}

#[test]
fn the_build_finds_all_that_it_reads() {
    let directory = Directory::new();
    let ignored = read(&root().join(".dockerignore"));
    for path in copied() {
        let (from, to) = (root().join(&path), directory.join(&path));
        assert!(from.exists(), "{path} is copied and does not exist");
        assert!(ignored.lines().any(|line| line == format!("!{path}")), "{path} is ignored");
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(&from).arg(&to).status().unwrap();
        assert!(copied.success(), "{path}");
    }
    // Cargo reads every manifest of the workspace, and looks for the targets that they name.
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1", "--no-deps"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata = String::from_utf8(cargo.stdout).unwrap();
    assert!(metadata.contains(r#""kind":["bin"],"crate_types":["bin"],"name":"afterimage""#), "{metadata}");
    for (file, text) in sources(&directory.join("src")) {
        for included in found(r#"include_(?:str|bytes)!\("([^"]+)"\)"#, &text) {
            let path = file.parent().unwrap().join(&included);
            assert!(path.exists(), "{} includes {included}, which is not copied", file.display());
        }
    }
}

fn sources(directory: &Path) -> Vec<(std::path::PathBuf, String)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read_one = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|extension| extension == "rs") => vec![(path.clone(), read(&path))],
        false => Vec::new(),
    };
    entries.flat_map(read_one).collect()
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_manifest_or_a_newer_one() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let least = manifest["package"]["rust-version"].as_str().unwrap().to_owned();
    let used = found(r"FROM rust:(\d+\.\d+)\.\d+-", &read(&deployed(DOCKERFILE))).pop_first().unwrap();
    let minor = |version: &str| version.split_once('.').unwrap().1.parse::<u32>().unwrap();
    assert!(minor(&used) >= minor(&least), "{used} is older than {least}");
    let version = manifest["package"]["version"].as_str().unwrap();
    for file in ["compose/compose.yaml", "kubernetes/kustomization.yaml", "docker/Dockerfile"] {
        assert!(read(&deployed(file)).contains(version), "{file} is of another version than {version}");
    }
}

/// A program in the place of ours that tells what it got.
const TELLS: &str = "#!/bin/sh\necho \"$@\"\nenv | grep -e ^PG -e ^AWS | sort\nif [ -n \"${PGPASSFILE:-}\" ]; then \
    stat --format=%a \"$PGPASSFILE\"; cat \"$PGPASSFILE\"; rm \"$PGPASSFILE\"; fi\n";

#[test]
fn the_entrypoint_reads_secrets_from_files() {
    let directory = Directory::new();
    let program = directory.join("afterimage");
    fs::write(&program, TELLS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (password, passwords) = (secret("password", "a b$c\n"), secret("pgpass", "*:*:*:*:secret\n"));
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let entrypoint =
        || Program::new(&deployed("docker/entrypoint")).arguments(["run", "--http"]).variable("PATH", &path);
    let end = entrypoint()
        .variable("PGPASSWORD_FILE", &password)
        .variable("AWS_SECRET_ACCESS_KEY_FILE", &password)
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/token");
    let said = end.run(PATIENCE).expect(0).stdout;
    assert_eq!(said, "run --http\nAWS_SECRET_ACCESS_KEY=a b$c\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nPGPASSWORD=a b$c\n");
    let said = entrypoint().variable("PGPASSFILE", &passwords).run(PATIENCE).expect(0).stdout;
    assert!(said.ends_with("\n600\n*:*:*:*:secret\n"), "{said}");
    let end = entrypoint().variable("PGPASSWORD_FILE", "/nowhere").run(PATIENCE);
    assert!(end.code != Some(0) && end.stdout.is_empty(), "it begins without its password: {end:?}");
}

/// What a schema does not see: that a name in one place is one in another.
const COMPOSE: &str = r#"
import sys, os, yaml
path = sys.argv[1]
whole = yaml.safe_load(open(path))
wrong = []
for name, service in whole["services"].items():
    for kind in ["secrets", "networks"]:
        wrong += [f"{name}: {kind} {one}" for one in service.get(kind, []) if one not in whole[kind]]
    wrong += [f"{name} depends on {one}" for one in service.get("depends_on", {}) if one not in whole["services"]]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        there = os.path.exists(os.path.join(os.path.dirname(path), source)) if source.startswith(".") else source in whole["volumes"]
        wrong += [] if there else [f"{name}: volume {source}"]
    for condition in service.get("depends_on", {}).items():
        if condition[1]["condition"] == "service_healthy" and "healthcheck" not in whole["services"][condition[0]]:
            wrong.append(f"{condition[0]} has no health check and {name} waits for it")
    hardened = service.get("read_only") is True and service.get("cap_drop") == ["ALL"] and service.get("security_opt") == ["no-new-privileges:true"]
    wrong += [] if hardened else [f"{name} is not hardened"]
    image = service["image"]
    wrong += [] if ":" in image and not image.endswith(":latest") else [f"{name}: {image} has no tag"]
    for port in service.get("ports", []):
        wrong += [] if port.startswith("127.0.0.1:") else [f"{name} is open to the network: {port}"]
    for variable, value in (service.get("environment") or {}).items():
        if ("PASSWORD" in variable or "SECRET" in variable or "KEY" in variable) and not str(value).startswith("/run/secrets/"):
            wrong.append(f"{name}: {variable} is no file")
        if str(value).startswith("/run/secrets/") and value.rsplit("/", 1)[1] not in service["secrets"]:
            wrong.append(f"{name} lacks the secret {value}")
for name, secret in whole["secrets"].items():
    wrong += [] if secret == {"file": f"./secrets/{name}"} else [f"the secret {name} is elsewhere"]
print("\n".join(wrong + sorted(whole["secrets"])))
"#;

#[test]
fn the_compose_file_holds_together() {
    let file = "compose/compose.yaml";
    let schema = ["--builtin-schema", "vendor.compose-spec"];
    tool("check-jsonschema", &[&schema[..], &[file]].concat(), &deployed("")).expect(0);
    let (directory, _) = spoilt(file, "cap_drop: \\[ALL\\]", "cap_drop: ALL");
    tool("check-jsonschema", &[&schema[..], &["compose.yaml"]].concat(), directory.path()).expect(1);
    let secrets: BTreeSet<String> = found(r"(?m)^  ([a-z_]+): \{file:", &read(&deployed(file)));
    let checked = python(COMPOSE, [deployed(file).to_str().unwrap()]);
    assert_eq!(checked.lines().map(str::to_owned).collect::<BTreeSet<_>>(), secrets);
    let (_directory, spoilt) = spoilt(file, "secrets: \\[source_archiver, store_key", "secrets: [store_key");
    assert!(python(COMPOSE, [spoilt.to_str().unwrap()]).contains("archiver lacks the secret"));
}

#[test]
fn secrets_are_made_once() {
    let directory = Directory::new();
    let prepare = directory.join("prepare");
    fs::copy(deployed("compose/prepare"), &prepare).unwrap();
    Program::new(&prepare).run(PATIENCE).expect(0);
    let made = |name: &str| read(&directory.join("secrets").join(name));
    let wanted = found(r"(?m)^  ([a-z_]+): \{file:", &read(&deployed("compose/compose.yaml")));
    let first: Vec<String> = wanted.iter().map(|name| made(name)).collect();
    assert!(first.iter().all(|secret| secret.len() == 40 && secret.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), first.len(), "two are the same");
    assert_eq!(fs::metadata(directory.join("secrets")).unwrap().permissions().mode() & 0o777, 0o700);
    Program::new(&prepare).run(PATIENCE).expect(0);
    assert_eq!(first, wanted.iter().map(|name| made(name)).collect::<Vec<_>>(), "they were made again");
}
