//! Archives that earlier versions of the program wrote are read as those versions read them.
//!
//! `tests/formats/` has a directory for each format of the archive: the archive, and what the version that wrote it said of it.
//! Where the present format has none, `AFTERIMAGE_BLESS=1` makes it; one that is there is never made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use afterimage::archive::FORMAT;

use crate::support::{Database, Directory, PATIENCE, Program, Release, Site, postgres};

/// What is asked of an archive, one JSON array of arguments a line.
const QUESTIONS: &str = r#"["export","shop.orders","--at","mark:first"]
["export","shop.orders","--at","mark:second"]
["export","shop.orders","--at","mark:third"]
["export","shop.lines","--at","mark:second"]
["export","shop.lines","--at","mark:third"]
["export","shop.loose","--at","mark:third"]
["export","shop.parts","--at","mark:third"]
["log","--json"]
["diff","--from","mark:first","--to","mark:third","--json"]
["history","shop.orders","2","--json"]
["blame","shop.orders","2","--json"]
["query","--format","csv","SELECT * FROM changes('shop.orders') ORDER BY _lsn, _seq"]
["query","--format","csv","SELECT * FROM versions('shop.lines') ORDER BY order_id, line, _from_lsn"]
["query","--format","csv","SELECT * FROM afterimage.transactions ORDER BY lsn"]
["query","--format","csv","SELECT * FROM afterimage.relations ORDER BY lsn, seq, oid"]
["query","--format","csv","SELECT * FROM afterimage.ddl ORDER BY lsn, seq"]
["query","--format","csv","SELECT * FROM afterimage.messages ORDER BY lsn, seq"]
["query","--format","csv","SELECT * FROM afterimage.marks ORDER BY lsn"]
["query","--format","csv","SELECT * FROM afterimage.gaps"]
["verify"]
"#;

const BEGINNING: &str = r#"CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('open', 'paid', 'sent');
CREATE TABLE shop.orders (id int PRIMARY KEY, state shop.state, placed timestamptz, total numeric(12,2), note text, data jsonb, "_lsn" int);
ALTER TABLE shop.orders ALTER note SET STORAGE EXTERNAL;
CREATE TABLE shop.lines (order_id int REFERENCES shop.orders ON DELETE CASCADE ON UPDATE CASCADE, line int, price float8, tags text[], PRIMARY KEY (order_id, line));
CREATE TABLE shop.loose (a text, b bytea); ALTER TABLE shop.loose REPLICA IDENTITY FULL;
CREATE TABLE shop.parts (id int, y int, v interval, PRIMARY KEY (id, y)) PARTITION BY LIST (y);
CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES IN (1);
INSERT INTO shop.orders SELECT i, (ARRAY['open','paid','sent'])[1 + i % 3]::shop.state, '2025-10-09 14:00Z'::timestamptz + i * interval '1 h', i * 1.25, repeat('long ', 800), jsonb_build_object('n', i), i FROM generate_series(1, 20) i;
INSERT INTO shop.lines SELECT i, l, i / 7.0::float8, ARRAY['a', NULL, 'c' || l] FROM generate_series(1, 20) i, generate_series(1, 3) l;
INSERT INTO shop.loose VALUES ('x', '\x00ff'), ('x', '\x00ff'), (NULL, NULL);
INSERT INTO shop.parts VALUES (1, 1, '1 mon 2 days 03:04:05.678')"#;

const FIRST: &str = "UPDATE shop.orders SET state = 'sent' WHERE id < 5; UPDATE shop.orders SET total = 'NaN', placed = 'infinity' WHERE id = 2;
DELETE FROM shop.orders WHERE id > 15; DELETE FROM shop.loose WHERE ctid = (SELECT min(ctid) FROM shop.loose); UPDATE shop.orders SET id = 100 WHERE id = 3";

const SECOND: &str = "ALTER TABLE shop.orders ADD added int DEFAULT 7; ALTER TABLE shop.orders RENAME note TO remark; ALTER TABLE shop.lines ALTER price TYPE numeric;
UPDATE shop.orders SET added = id; CREATE TABLE shop.parts_2 PARTITION OF shop.parts FOR VALUES IN (2); INSERT INTO shop.parts VALUES (1, 2, NULL)";

const UNSEEN: &str = "DELETE FROM shop.lines WHERE line = 2; INSERT INTO shop.orders VALUES (300, 'open')";

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_every_format_are_read_as_ever() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let present = formats.join(FORMAT.to_string());
    if !present.exists() && std::env::var_os("AFTERIMAGE_BLESS").is_some() {
        make(&present).await;
    }
    assert!(present.exists(), "there is no archive of format {FORMAT}; AFTERIMAGE_BLESS=1 makes one");
    for format in fs::read_dir(&formats).unwrap().map(|entry| entry.unwrap().path()) {
        let directory = Directory::new();
        run(Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(format.join("archive.tar.gz"))
            .arg("-C")
            .arg(directory.path()));
        let answers = fs::read_to_string(format.join("answers")).unwrap();
        let questions = answers.lines().filter_map(|line| line.strip_prefix("$ "));
        let again = ask(&directory, questions);
        assert_eq!(again, answers, "{}", format.display());
    }
}

/// What the program says to each question, below it.
fn ask<'a>(directory: &Directory, questions: impl Iterator<Item = &'a str>) -> String {
    let mut answers = String::new();
    for question in questions {
        let arguments: Vec<String> = serde_json::from_str(question).unwrap();
        let program = Program::afterimage(arguments.iter().map(String::as_str)).archive(&directory.archive());
        let end = program.run(PATIENCE).expect(0);
        // Rows of an export come in any order.
        let mut lines: Vec<&str> = end.stdout.lines().collect();
        if arguments[0] == "export" {
            lines.sort_unstable();
        }
        answers += &format!("$ {question}\n{}\n", lines.join("\n").replace(&directory.archive(), "ARCHIVE"));
    }
    answers
}

/// An archive with everything in it that the format knows, and the program's answers.
async fn make(format: &PathBuf) {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    database.run(BEGINNING).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run(FIRST).await;
    site.command(["mark", "first"]).run(PATIENCE).expect(0);
    site.catch_up();
    site.command(["maintain", "--retention", "0s"]).run(PATIENCE).expect(0);
    database.run(SECOND).await;
    site.command(["mark", "second"]).run(PATIENCE).expect(0);
    site.catch_up();
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", site.slot())).await;
    database.run(UNSEEN).await;
    site.catch_up();
    database.run("TRUNCATE shop.loose; SELECT pg_logical_emit_message(true, 'app', 'said')").await;
    site.command(["mark", "third"]).run(PATIENCE).expect(0);
    site.catch_up();
    let answers = ask(&directory, QUESTIONS.lines());
    fs::create_dir_all(format).unwrap();
    fs::write(format.join("answers"), answers).unwrap();
    let packed = format.join("archive.tar.gz");
    run(Command::new("tar")
        .args(["--create", "--gzip", "--owner=0", "--group=0", "--file"])
        .arg(packed)
        .arg("-C")
        .arg(directory.path())
        .arg("archive"));
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
