//! `query` without SQL: what is piped into it, and what a person types on a terminal.

use std::fs;

use super::{PATIENCE, Scene, assert_has, complaint, json_lines};
use crate::support::{Directory, End, Release, python};

/// A table with a past, and another that came later.
async fn scene() -> Scene {
    let scene = Scene::archived(
        Release::System,
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY, note text, price numeric(10,2));
         INSERT INTO sales.orders VALUES (1, 'first', 1.50), (2, NULL, 2);",
    )
    .await;
    scene.database.run("UPDATE sales.orders SET note = 'second' WHERE id = 2").await;
    scene.database.run("CREATE TABLE late (k text PRIMARY KEY)").await;
    scene.database.run("INSERT INTO late VALUES ('a')").await;
    scene.catch_up();
    scene
}

fn script(scene: &Scene, arguments: &[&str], text: &str) -> End {
    let program = scene.offline(["query"].into_iter().chain(arguments.iter().copied()));
    program.input(text).run(PATIENCE)
}

#[tokio::test]
async fn scripts_are_statements_and_commands() {
    let scene = scene().await;
    let first = json_lines(&scene.ask_offline(["log", "--json"])).pop().unwrap()["xid"].to_string();
    fs::write(scene.directory.join("more.sql"), "SELECT 'from a file' AS said;\n").unwrap();
    let text = format!(
        "SELECT id, note FROM sales.orders ORDER BY id; SELECT 'a;b' AS \"x;y\" -- ; \n;\n\\echo then: \n\\at before:{first}\n\
         SELECT id,\n  note\nFROM sales.orders ORDER BY id;\n\\at\n\\x\nSELECT 1 AS one, 'zwei' AS two;\n\\x off\n\\a\n\
         SELECT note FROM sales.orders WHERE id = 2 \\g\n\\i more.sql\n\\pset format csv\nSELECT 7 AS last"
    );
    let end = script(&scene, &[], &text).expect(0);
    let expected = " id |  note\n----+--------\n  1 | first\n  2 | second\n(2 rows)\n\
         \x20x;y\n-----\n a;b\n(1 row)\nthen:\n\
         \x20id | note\n----+-------\n  1 | first\n  2 |\n(2 rows)\n\
         -[ RECORD 1 ]\none | 1\ntwo | zwei\n\
         note\nsecond\n(1 row)\nsaid\nfrom a file\n(1 row)\nlast\n7\n";
    assert_eq!(end.stdout, expected);
    assert_eq!(end.stderr, "");
}

#[tokio::test]
async fn tables_are_described_where_the_session_is() {
    let scene = scene().await;
    let lines = |text: &str| script(&scene, &["--format", "unaligned"], text).expect(0).stdout;
    let all = lines("\\d");
    assert_has(&all, &["Schema|Name|Type\n", "public|late|table\n", "sales|orders|table\n", "afterimage|marks|log\n"]);
    assert_eq!(lines("\\dt sales.*"), "Schema|Name|Type\nsales|orders|table\n(1 row)\n");
    let orders = "Column|Type|Identity\nid|integer|key\nnote|text|\nprice|numeric(10,2)|\n(3 rows)\n";
    assert_eq!(lines("\\d sales.orders"), orders);
    assert_has(&lines("\\d afterimage.marks"), &["name|Utf8|"]);
    // As for tables that were not there yet.
    let first = json_lines(&scene.ask_offline(["log", "--json"])).pop().unwrap()["xid"].to_string();
    let early = lines(&format!("\\at before:{first}\n\\dt"));
    assert_eq!(early, "Schema|Name|Type\nsales|orders|table\n(1 row)\n");
    let absent = complaint(script(&scene, &[], &format!("\\at before:{first}\n\\d late")), 2);
    assert_eq!(absent.cause, "standard input:2: no archived table is named late");
    let given = scene.ask_offline(["query", "\\d sales.orders", "--format", "unaligned"]);
    assert_eq!(given, orders);
}

#[tokio::test]
async fn a_script_ends_where_it_fails() {
    let scene = scene().await;
    let end = script(
        &scene,
        &["--format", "csv"],
        "SELECT 1 AS a;\n\nSELECT note,\n       nmae FROM sales.orders;\nSELECT 2;\n",
    );
    let end = end.expect(2);
    assert_eq!(end.stdout, "a\n1\n");
    let said: Vec<&str> = end.stderr.lines().collect();
    assert_has(said[0], &["error: standard input:4: ", "nmae"]);
    assert_eq!(said[1..3], ["LINE 2:        nmae FROM sales.orders", "               ^"]);
    let table = script(&scene, &[], "SELECT * FROM sales.ordres").expect(2);
    assert_has(
        &table.stderr,
        &["LINE 1: SELECT * FROM sales.ordres\n                      ^\n", "did you mean sales.orders"],
    );
    let syntax = scene.offline(["query", "SELECT 1 FROM\nWHERE x"]).run(PATIENCE).expect(2);
    assert_has(&syntax.stderr, &["LINE 2: WHERE x\n        ^\n"]);
    for (text, cause) in [
        ("\\nonsense", "standard input:1: \\nonsense is no command here"),
        ("\\x perhaps", "standard input:1: \\x takes on or off, and not \"perhaps\""),
        ("\\e", "standard input:1: \\e is for a terminal"),
        ("\\at yesterday", "yesterday"),
        ("\\i no-such-file.sql", "no-such-file.sql"),
        ("\\pset format xls", "\"xls\" is no format"),
    ] {
        assert_has(&complaint(script(&scene, &[], text), 2).cause, &[cause]);
    }
    fs::write(scene.directory.join("self.sql"), "\\i self.sql\n").unwrap();
    assert_has(&complaint(script(&scene, &[], "\\i self.sql"), 2).cause, &["too many files run each other"]);
    let nothing = complaint(script(&scene, &[], "-- nothing\n"), 2);
    assert_eq!(nothing.cause, "no statement was given");
}

/// What other programs read in the files is what was asked for.
#[tokio::test]
async fn answers_become_files() {
    let scene = scene().await;
    let file = |name: &str| scene.directory.join(name).to_str().unwrap().to_owned();
    let sql = "SELECT id, note, price FROM sales.orders ORDER BY id";
    scene.ask_offline(["query", sql, "--format", "parquet", "--output", &file("orders.parquet")]);
    scene.ask_offline(["query", sql, "--format", "arrow", "-o", &file("orders.arrow")]);
    let text = format!(
        "\\timing on\n\\o {}\nSELECT 1 AS a;\nSELECT 2 AS b;\n\\o\nSELECT 3 AS c;\n\\pset format json\n\\o {}\n{sql};",
        file("numbers.csv"),
        file("orders.json")
    );
    let end = script(&scene, &["--format", "csv"], &text).expect(0);
    assert_eq!(end.stdout, "c\n3\n");
    assert_eq!(end.stderr.matches("Time: ").count(), 4, "{}", end.stderr);
    assert_eq!(fs::read_to_string(file("numbers.csv")).unwrap(), "a\n1\nb\n2\n");
    assert_eq!(json_lines(&fs::read_to_string(file("orders.json")).unwrap())[1]["note"], "second");
    let read = python(
        "import sys, duckdb, pyarrow\nprint(duckdb.sql(f\"SELECT * FROM '{sys.argv[1]}'\").fetchall())\n\
         print([tuple(row.values()) for row in pyarrow.ipc.open_file(sys.argv[2]).read_all().to_pylist()])",
        [file("orders.parquet").as_str(), file("orders.arrow").as_str()],
    );
    let row = "[(1, 'first', Decimal('1.50')), (2, 'second', Decimal('2.00'))]\n";
    assert_eq!(read, row.repeat(2));
    // A pipe is fine, but nothing can follow.
    let twice = script(&scene, &["--format", "parquet"], "SELECT 1 AS a; SELECT 2 AS b;").expect(2).stderr;
    assert_has(&twice, &["holds the answer to one statement"]);
    // What failed leaves no file.
    script(&scene, &["--output", &file("half.csv")], "SELECT 1; SELECT nothing;").expect(2);
    assert!(!fs::exists(file("half.csv")).unwrap());
    assert!(fs::read_dir(scene.directory.path()).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        !name.to_str().unwrap().ends_with(".partial")
    }));
}

/// Types on a pseudo-terminal. Its arguments are the program, then pairs: what to wait for on the screen, in what was
/// written after that of the last, and what to type then. Prints all that was written, without colours and cursor movements.
const TYPIST: &str = r#"
import os, pty, re, select, sys, time, fcntl, struct, termios
program, steps = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program, [program, "query"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
screen, seen, deadline = "", 0, time.time() + 90
def read(patience):
    global screen
    if not select.select([terminal], [], [], patience)[0]:
        return True
    try:
        data = os.read(terminal, 65536)
    except OSError:
        return False
    screen += data.decode(errors="replace")
    return bool(data)
for wanted, typed in zip(steps[::2], steps[1::2]):
    while wanted not in screen[seen:]:
        assert time.time() < deadline, f"{wanted!r} did not come:\n{screen!r}"
        assert read(1), f"ended before {wanted!r}:\n{screen!r}"
    seen = screen.index(wanted, seen) + len(wanted)
    # The terminal is handed to a statement a moment after its line has ended.
    time.sleep(1 if typed == "\x03" else 0)
    os.write(terminal, typed.encode())
while read(1):
    assert time.time() < deadline, f"did not end:\n{screen!r}"
print(re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", screen))
print("exit code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn typed(scene: &Scene, state: &Directory, steps: &[(&str, &str)]) -> String {
    let environment = [
        ("AFTERIMAGE_ARCHIVE", scene.directory.archive()),
        ("AFTERIMAGE_PAGER", "sed 's/^/page: /'".to_owned()),
        ("XDG_STATE_HOME", state.path().to_str().unwrap().to_owned()),
        ("TERM", "xterm".to_owned()),
        ("EDITOR", "sed -i 's/1/4711/'".to_owned()),
    ];
    let variables = environment.iter().map(|(name, value)| format!("import os; os.environ[{name:?}] = {value:?}\n"));
    let script = variables.collect::<String>() + TYPIST;
    let words = crate::support::Program::afterimage([]).words();
    let arguments = [words[0].as_str()].into_iter().chain(steps.iter().flat_map(|(wanted, typed)| [*wanted, *typed]));
    python(&script, arguments)
}

#[tokio::test]
async fn a_person_types() {
    let scene = scene().await;
    let state = Directory::new();
    let prompt = format!("{}=> ", scene.database.name());
    let more = format!("{}-> ", scene.database.name());
    let steps = [
        (prompt.as_str(), "\\timing\r"),
        ("Timing is on.", "sel\t"),
        ("select ", "id, pri\t"),
        ("price ", "\r"),
        (&more, "from sales.ord\t"),
        ("sales.orders ", "order by id;\r"),
        ("Time: ", ""),
        (&prompt, "\\d sales.orders\r"),
        ("numeric(10,2)", ""),
        (&prompt, "selct 1;\r"),
        ("^", ""),
        (&prompt, "SELECT count(*) FROM generate_series(1, 100000000000);\r"),
        ("000);", ""),
        ("\r\n", "\x03"),
        ("cancelled", ""),
        (&prompt, "SELECT 'x'\r"),
        (&more, "\x03"),
        ("^C", ""),
        (&prompt, "SELECT 1 AS answer;\r"),
        ("Time: ", ""),
        (&prompt, "\\e\r"),
        ("4711", ""),
        // Back to what was typed before, and into it behind its first word.
        (&prompt, "\x1b[A\x1b[A\x01\x1b[1;5C 2 AS two,\x05\r"),
        ("two |", ""),
        ("Time: ", ""),
        (&prompt, "\x12gener"),
        ("generate_series", "\x07\x15\\q\r"),
    ];
    let screen = typed(&scene, &state, &steps);
    assert_has(&screen, &["page:  id | price", "page:   1 |  1.50", "(2 rows)", "LINE 1: selct 1", "exit code 0"]);
    assert_has(&screen, &["error: cancelled", "4711", " two | answer", "numeric(10,2)"]);
    let remembered = fs::read_to_string(state.path().join("afterimage/query-history")).unwrap();
    let lines: Vec<&str> = remembered.lines().collect();
    assert_eq!(lines[..2], ["\\timing", "select id, price  from sales.orders order by id;"]);
    assert_eq!(lines.last(), Some(&"\\q"));

    // Another day.
    let steps = [
        (prompt.as_str(), "\x1b[A\x1b[A"),
        ("two", "\x03"),
        (&prompt, "\\pset format parquet\r"),
        (&prompt, "SELECT 1;\r"),
        ("not for a terminal", ""),
        (&prompt, "\x04"),
    ];
    assert_has(&typed(&scene, &state, &steps), &["name a file", "exit code 0"]);
}
