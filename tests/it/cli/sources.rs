//! A source that cannot be reached, may not be used, or cannot be archived.

use afterimage::scratch::Launch;

use super::{Complaint, PASSWORD, PATIENCE, Scene, assert_has, complaint, misuse};
use crate::support::{Directory, Program, Release, connect, postgres};

fn init_of(source: &str, directory: &Directory) -> Complaint {
    init_with(source, directory, 1)
}

fn init_with(source: &str, directory: &Directory, code: i32) -> Complaint {
    let program = Program::afterimage(["init", "--source", source]).archive(&directory.archive());
    complaint(program.working_directory(directory.path()).run(PATIENCE), code)
}

#[test]
fn an_address_that_leads_nowhere() {
    let directory = Directory::new();
    let refused = init_of(&format!("postgres://u:{PASSWORD}@127.0.0.1:1/d"), &directory);
    assert_has(&refused.cause, &["no server listens there"]);
    assert_has(&refused.remedy, &["host and port"]);
    let unknown = init_of(&format!("postgres://u:{PASSWORD}@no-such-host.invalid/d?connect_timeout=20"), &directory);
    assert_has(&unknown.cause, &["no-such-host.invalid"]);
    let no_socket = init_of("host=/nonexistent dbname=d user=u", &directory);
    assert_has(&no_socket.cause, &["no server listens there"]);
}

#[tokio::test]
async fn a_login_that_fails() {
    let directory = Directory::new();
    let server = postgres(Release::System);
    let url = server.tcp_url("postgres").unwrap();
    let (_, place) = url.rsplit_once('@').unwrap();
    let wrong = init_of(&format!("postgres://postgres:{PASSWORD}@{place}"), &directory);
    assert_has(&wrong.cause, &["password authentication failed"]);
    assert_has(&wrong.remedy, &["PGPASSWORD"]);
    let none = init_of(&format!("postgres://postgres@{place}"), &directory);
    assert_has(&none.cause, &["asks for a password"]);
    let user = init_of(&server.url("postgres").replace("postgres@/", "nobody_here@/"), &directory);
    assert_has(&user.cause, &["nobody_here"]);
    assert_has(&user.remedy, &["role exists"]);
    let database = init_of(&server.url("no_such_database"), &directory);
    assert_has(&database.cause, &["no_such_database"]);
    assert_has(&database.remedy, &["psql -l"]);
}

#[test]
fn an_address_that_cannot_be_read_and_its_password_stays_hidden() {
    let directory = Directory::new();
    let addresses = [
        format!("mysql://u:{PASSWORD}@h/d"),
        format!("postgres://u:{PASSWORD}@h:port/d"),
        format!("postgres://u:{PASSWORD}/x@h/d"),
        format!("postgres://u:{PASSWORD}@h:99999/d"),
        format!("postgres://u:{PASSWORD}@h/d?sslmode=maybe"),
        format!("postgres://u:{PASSWORD}@h/d?colour=red"),
        format!("host=h password={PASSWORD} password"),
        format!("password='{PASSWORD}"),
        format!("postgres://u:{PASSWORD}%zz@h/d"),
        "nonsense".to_owned(),
    ];
    for address in addresses {
        let complaint = init_with(&address, &directory, 2);
        assert_has(&complaint.cause, &["the source's address"]);
    }
}

#[test]
fn nothing_named() {
    let directory = Directory::new();
    let bare = |arguments: &[&'static str]| {
        Program::afterimage(arguments.iter().copied()).working_directory(directory.path()).run(PATIENCE)
    };
    let no_archive = complaint(bare(&["status"]), 2);
    assert_eq!(no_archive.cause, "no archive is named");
    assert_has(&no_archive.remedy, &["--archive", "AFTERIMAGE_ARCHIVE"]);
    let no_source = complaint(bare(&["init", "--archive", "somewhere"]), 2);
    assert_eq!(no_source.cause, "no source is named");
    assert_has(&no_source.remedy, &["--source", "AFTERIMAGE_SOURCE"]);
    assert!(!directory.join("somewhere").exists());
    // What an unset shell variable leaves must not mean the local server.
    for flag in ["--source", "--archive"] {
        assert_has(&misuse(bare(&["init", flag, ""])), &[flag]);
    }
}

/// Many shells set PGUSER; with it alone a file's source must not be exchanged for the local server.
#[test]
fn pguser_alone_names_no_source() {
    let directory = Directory::new();
    let program = Program::afterimage(["init", "--archive", "a"]).variable("PGUSER", "u").variable("PGPORT", "1");
    let complaint = complaint(program.working_directory(directory.path()).run(PATIENCE), 2);
    assert_eq!(complaint.cause, "no source is named");
}

#[tokio::test]
async fn the_log_level_is_too_low() {
    let server = Launch::new(Release::System.installation()).set("wal_level", "replica").start().unwrap();
    connect(&server.url("postgres")).await.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let complaint = init_of(&server.url("postgres"), &Directory::new());
    assert_eq!(complaint.cause, "wal_level is replica, archiving needs logical");
    assert_eq!(complaint.remedy, "ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL");
}

/// Does word for word what the errors say until there is none, and then everything works for that role.
#[tokio::test]
async fn the_grants_that_errors_name_are_enough() {
    for release in [Release::System, Release::Eighteen] {
        let owner = format!("owner_{}", std::process::id());
        let role = format!("archivist_{}", std::process::id());
        let tables = format!(
            "CREATE ROLE {owner}; CREATE ROLE {role} LOGIN;
             CREATE SCHEMA \"Odd one\"; CREATE TABLE \"Odd one\".t (id int PRIMARY KEY);
             CREATE TABLE mine (id int PRIMARY KEY); CREATE TABLE supers (id int PRIMARY KEY);
             ALTER TABLE mine OWNER TO {owner}; ALTER TABLE \"Odd one\".t OWNER TO {owner}"
        );
        let scene = Scene::new(release, &tables).await;
        let as_role = scene.database.url().replace("postgres@/", &format!("{role}@/"));
        let mut complaints = Vec::new();
        let end = loop {
            let program = scene.offline(["init"]).variable("AFTERIMAGE_SOURCE", &as_role);
            let end = program.run(PATIENCE);
            if end.code == Some(0) || complaints.len() > 5 {
                break end;
            }
            let complaint = complaint(end, 1);
            let sql = complaint.remedy.split_once(": ").map_or(complaint.remedy.as_str(), |(_, sql)| sql);
            scene.database.run(sql).await;
            complaints.push(complaint.cause);
        };
        end.expect(0);
        let expected = ["may not replicate", "may not create a publication", "may not read", "may not publish"];
        assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
        for (complaint, expected) in complaints.iter().zip(expected) {
            assert_has(complaint, &[expected, &role]);
        }
        assert_has(&complaints[2], &["\"Odd one\".t", "public.mine", "public.supers"]);

        scene.database.run("INSERT INTO mine VALUES (1)").await;
        let run = |arguments: &[&'static str]| {
            let program = scene.offline(arguments.iter().copied()).variable("AFTERIMAGE_SOURCE", &as_role);
            program.run(PATIENCE)
        };
        run(&["run", "--until", "now"]).expect(0);
        run(&["mark", "here", "--wait", "0s"]).expect(0);
        run(&["run", "--until", "now"]).expect(0);
        assert_eq!(run(&["export", "mine", "--at", "mark:here"]).expect(0).stdout, "id\n1\n");
        assert_has(&run(&["status"]).expect(3).stderr, &["no archiver is running"]);
    }
}

#[tokio::test]
async fn tables_that_are_not_there_or_cannot_be_archived() {
    let scene =
        Scene::new(Release::System, "CREATE TABLE nokey (a int); CREATE UNLOGGED TABLE u (a int PRIMARY KEY)").await;
    let unknown = complaint(scene.run(["init", "--tables", "ordres"]), 2);
    assert_eq!(unknown.cause, "no table of the source matches ordres");
    let open = complaint(scene.run(["init", "--tables", "\"open"]), 2);
    assert_has(&open.cause, &["a quote is left open"]);
    let nothing = complaint(scene.run(["init"]), 1);
    assert_has(&nothing.cause, &["no table with a usable replica identity"]);
    assert_has(&nothing.remedy, &["--set-identity-full"]);
    let workers = complaint(scene.run(["init", "--copy-workers", "0"]), 2);
    assert_has(&workers.remedy, &["from 1 to 64"]);
    let slots: i64 = scene.database.connect().await.query_one(OURS, &[]).await.unwrap().get(0);
    assert_eq!(slots, 0, "nothing is left in the source");
}

const OURS: &str = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
    + (SELECT count(*) FROM pg_publication)";
