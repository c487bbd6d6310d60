//! The recipes of docs/gate.md, taken from the page and run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::Watch;
use crate::support::{End, PATIENCE, Program, Release, executable, python};

const PAGE: &str = include_str!("../../../docs/gate.md");

/// The pipelines on the page, parsed by somebody else.
fn pipelines() -> Vec<Json> {
    let blocks: Vec<&str> = PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let script = "import sys, json, yaml; print(json.dumps([yaml.safe_load(block) for block in sys.argv[1:]]))";
    serde_json::from_str(&python(script, blocks)).unwrap()
}

/// What the page says of a tool: the command between the two gates, and the query for the version.
fn tool(name: &str) -> (String, String) {
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&format!("| {name} | `"))).unwrap();
    let (command, rest) = row.split_once("` | `").unwrap();
    (command.to_owned(), rest.strip_suffix("` |").unwrap().to_owned())
}

impl Watch {
    /// A directory to work in, with our program, Python and Alembic on its path.
    pub(super) fn workshop(&self, gate: &str) -> PathBuf {
        let directory = self.directory.join("workshop");
        fs::create_dir_all(directory.join("bin")).unwrap();
        fs::create_dir_all(directory.join("deploy")).unwrap();
        let (ours, python) = (Program::afterimage([]).words().remove(0), executable("python"));
        let python = python.display();
        write_script(directory.join("bin/afterimage"), &format!("exec '{ours}' \"$@\""));
        write_script(directory.join("bin/python"), &format!("exec '{python}' \"$@\""));
        write_script(directory.join("bin/alembic"), &format!("exec '{python}' -m alembic \"$@\""));
        fs::write(directory.join("deploy/gate.toml"), gate).unwrap();
        directory
    }

    /// Runs one step as a pipeline does.
    pub(super) fn step(&self, script: &str, variables: &[(&str, &str)]) -> End {
        let directory = self.directory.join("workshop");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", directory.join("bin").display());
        let mut program = Program::new("/bin/bash".as_ref()).arguments(["-eo", "pipefail", "-c", script]);
        for (name, value) in variables {
            program = program.variable(name, value);
        }
        let configuration = self.configuration();
        program = program.variable("PATH", &path).variable("AFTERIMAGE_CONFIG", configuration.to_str().unwrap());
        program.source(&self.database).archive(&self.directory.archive()).working_directory(&directory).run(PATIENCE)
    }

    /// The script that the recipes call to migrate.
    fn migration(&self, sql: &str) {
        let psql = Release::System.installation().program("psql");
        let command = format!("'{}' -X \"$AFTERIMAGE_SOURCE\" -c \"{sql}\"", psql.display());
        write_script(self.directory.join("workshop/migrate"), &command);
    }
}

fn write_script(path: PathBuf, command: &str) {
    fs::write(&path, format!("#!/bin/sh\n{command}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const GATE: &str = "[[expect]]\ntable = \"core_relationships\"\nupdate = \"1..500\"\n";
const HARMLESS: &str = "UPDATE core_relationships SET organization_id = 1 WHERE id < 5";
const HARMFUL: &str = "DELETE FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'";

#[tokio::test(flavor = "multi_thread")]
async fn github_actions_recipe_passes_and_closes() {
    let pipelines = pipelines();
    let steps = pipelines.iter().find_map(Json::as_array).expect("a list of steps");
    let watch = Watch::begin(Release::System, "").await;
    let directory = watch.workshop(GATE);
    let summary = directory.join("summary.md");
    let run = |number: &str, sql: &str| {
        watch.migration(sql);
        fs::write(&summary, "").unwrap();
        let mut code = 0;
        for step in steps {
            if code != 0 && step["if"] != "always()" {
                continue;
            }
            let script = step["run"].as_str().unwrap().replace("${{ github.run_number }}", number);
            assert!(!script.contains("${{"), "{script}");
            let end = watch.step(&script, &[("GITHUB_STEP_SUMMARY", summary.to_str().unwrap())]);
            code = if code == 0 { end.code.unwrap() } else { code };
        }
        (code, fs::read_to_string(&summary).unwrap())
    };
    let (code, told) = run("7", HARMLESS);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("## Gate before `release-7`: passed") && told.contains("## Gate after `release-7`: passed"));
    let (code, told) = run("8", HARMFUL);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("## Gate after `release-8`: **closed**") && told.contains("--to 'mark:release-8'"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gitlab_ci_recipe_passes_and_closes() {
    let pipelines = pipelines();
    let job = pipelines.iter().find_map(|pipeline| pipeline.get("migrate")).expect("a job");
    let lines: Vec<&str> = job["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let watch = Watch::begin(Release::System, "").await;
    let directory = watch.workshop(GATE);
    for (number, sql, code) in [("7", HARMLESS, 0), ("8", HARMFUL, 3)] {
        watch.migration(sql);
        let told = watch.step(&lines.join("\n"), &[("CI_PIPELINE_IID", number)]).expect(code);
        let kept = directory.join(job["artifacts"]["paths"][0].as_str().unwrap().replace('*', "after"));
        let report = fs::read_to_string(kept).unwrap();
        assert!(report.contains(&format!("## Gate after `release-{number}`")), "{report}\n{}", told.stderr);
    }
    assert_eq!(job["artifacts"]["when"], "always", "the report of a closed gate is the one that is wanted");
}

/// Runs a tool's command between the two gates; they know the version before it and after it.
fn between_gates(watch: &Watch, tool_name: &str, (before, after): (&str, &str), expect: &str) {
    let (command, query) = tool(tool_name);
    let version = |name: &str, is: &str| format!("{name} = {{ sql = \"{query}\", is = \"{is}\" }}\n");
    let gate = format!("{}{}{expect}", version("version_before", before), version("version_after", after));
    fs::write(watch.directory.join("workshop/deploy/gate.toml"), gate).unwrap();
    let closed = watch.step("afterimage gate after release-9 --file deploy/gate.toml", &[]);
    assert_eq!(closed.code, Some(4), "there is no mark yet: {}", closed.stderr);
    watch.step("afterimage gate before release-9 --file deploy/gate.toml", &[]).expect(0);
    let early = watch.step("afterimage gate after release-9 --file deploy/gate.toml", &[]).expect(3);
    assert!(early.stdout.contains(&format!("the schema's version is \"{before}\"")), "{}", early.stdout);
    watch.step(&command, &[]).expect(0);
    let open = watch.step("afterimage gate after release-9 --file deploy/gate.toml", &[]).expect(0);
    assert!(open.stdout.contains(&format!("the schema's version is \"{after}\"")), "{}", open.stdout);
}

fn write(directory: &Path, path: &str, text: &str) {
    let file = directory.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn alembic_recipe() {
    let watch = Watch::begin(Release::System, "").await;
    let directory = watch.workshop("");
    let file = |path: &str, text: &str| write(&directory, path, text);
    file("alembic.ini", "[alembic]\nscript_location = migrations\n");
    let environment = "import os, psycopg
from alembic import context
from sqlalchemy import create_engine
engine = create_engine('postgresql+psycopg://', creator=lambda: psycopg.connect(os.environ['AFTERIMAGE_SOURCE']))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
";
    file("migrations/env.py", environment);
    let revision = |number: &str, down: &str, does: &str| {
        format!(
            "from alembic import op\nrevision = '{number}'\ndown_revision = {down}\ndef upgrade():\n    op.execute(\"{does}\")\n"
        )
    };
    file("migrations/versions/0001.py", &revision("0001", "None", "CREATE TABLE stages (id int PRIMARY KEY)"));
    let does = "UPDATE core_relationships SET organization_id = 1 WHERE id <= 5";
    file("migrations/versions/0002.py", &revision("0002", "'0001'", does));
    watch.step("alembic upgrade 0001", &[]).expect(0);
    let expect =
        "[[expect]]\ntable = \"core_relationships\"\nupdate = 5\n[[expect]]\ntable = \"alembic_version\"\nupdate = 1\n";
    between_gates(&watch, "Alembic", ("0001", "0002"), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn django_recipe() {
    let watch = Watch::begin(Release::System, "").await;
    let directory = watch.workshop("");
    let file = |path: &str, text: &str| write(&directory, path, text);
    let manage = "import os, sys, psycopg
from django.conf import settings
from django.core.management import execute_from_command_line
said = psycopg.conninfo.conninfo_to_dict(os.environ['AFTERIMAGE_SOURCE'])
keys = {'NAME': 'dbname', 'USER': 'user', 'PASSWORD': 'password', 'HOST': 'host', 'PORT': 'port'}
database = {key: said.get(name) or '' for key, name in keys.items()} | {'ENGINE': 'django.db.backends.postgresql'}
settings.configure(DATABASES={'default': database}, INSTALLED_APPS=['shop'], DEFAULT_AUTO_FIELD='django.db.models.AutoField')
execute_from_command_line(sys.argv)
";
    file("manage.py", manage);
    file("shop/__init__.py", "");
    file("shop/migrations/__init__.py", "");
    let migration = |after: &str, sql: &str| {
        format!(
            "from django.db import migrations\nclass Migration(migrations.Migration):\n    dependencies = [{after}]\n    \
             operations = [migrations.RunSQL(\"{sql}\")]\n"
        )
    };
    file("shop/migrations/0001_initial.py", &migration("", "CREATE TABLE shop_item (id int PRIMARY KEY)"));
    let fill = migration("('shop', '0001_initial')", "INSERT INTO shop_item SELECT generate_series(1, 3)");
    file("shop/migrations/0002_fill.py", &fill);
    watch.step("python manage.py migrate shop 0001", &[]).expect(0);
    let expect =
        "[[expect]]\ntable = \"shop_item\"\ninsert = 3\n[[expect]]\ntable = \"django_migrations\"\ninsert = 1\n";
    between_gates(&watch, "Django", ("0001_initial", "0002_fill"), expect);
}

/// Only the tables that Drizzle and Flyway keep.
#[tokio::test(flavor = "multi_thread")]
async fn drizzle_and_flyway_queries_find_the_version() {
    let watch = Watch::begin(Release::System, "").await;
    let client = watch.database.connect().await;
    let tables = "CREATE SCHEMA drizzle;
        CREATE TABLE drizzle.__drizzle_migrations (id serial PRIMARY KEY, hash text NOT NULL, created_at bigint);
        INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('aaa', 1), ('bbb', 2);
        CREATE TABLE flyway_schema_history (installed_rank int PRIMARY KEY, version varchar(50), description varchar(200)
            NOT NULL, type varchar(20) NOT NULL, script varchar(1000) NOT NULL, checksum int, installed_by varchar(100) NOT
            NULL, installed_on timestamp NOT NULL DEFAULT now(), execution_time int NOT NULL, success boolean NOT NULL);
        INSERT INTO flyway_schema_history VALUES (1, '1', 'a', 'SQL', 'V1__a.sql', 1, 'me', now(), 1, true),
            (2, '2', 'b', 'SQL', 'V2__b.sql', 1, 'me', now(), 1, true),
            (3, NULL, 'views', 'SQL', 'R__views.sql', 1, 'me', now(), 1, true),
            (4, '3', 'c', 'SQL', 'V3__c.sql', 1, 'me', now(), 1, false)";
    client.batch_execute(tables).await.unwrap();
    for (name, version) in [("Drizzle", "bbb"), ("Flyway", "2")] {
        let found: String = client.query_one(&tool(name).1, &[]).await.unwrap().get(0);
        assert_eq!(found, version, "{name}");
    }
}
