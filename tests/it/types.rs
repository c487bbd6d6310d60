//! Every type, every value: what comes back is what COPY wrote.

mod encodings;
mod literals;
mod tables;

use afterimage::columnar::Storage;

use self::literals::{BUILT_IN, CONTRIB, LATER, Literals, MADE, NOT_IN_WHEEL, OF_MADE, WHEEL, WITHOUT_INPUT};
use self::tables::{TypedTable, literal, tables};
use crate::support::{Database, Directory, PATIENCE, Release, Site, State, connect, own_postgres, postgres, python};

/// The literals of the built-in types that a release has.
fn built_in(release: Release) -> Vec<Literals> {
    let major = release.installation().major();
    let lacks = |name: &str| release != Release::System && NOT_IN_WHEEL.contains(&name);
    let always = BUILT_IN.iter().filter(|(name, _)| !lacks(name));
    let later = LATER.iter().filter(|(first, _)| *first <= major).map(|(_, literals)| literals);
    always.chain(later).copied().collect()
}

/// Says which values a server does not read, all at once: in a long statement they would be hard to find.
async fn expect_readable(database: &Database, literals: &[Literals]) {
    let client = database.connect().await;
    let mut wrong = String::new();
    for (name, values) in literals {
        for value in *values {
            if let Err(error) = client.batch_execute(&format!("SELECT {}", literal(name, value))).await {
                wrong += &format!("{name} {value:?}: {}\n", error.as_db_error().unwrap());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Half of the rows are in the base image, half come from changes, some from updates of the one by the other.
async fn expect_lossless(database: &Database, prefix: &str, literals: &[Literals]) {
    expect_readable(database, literals).await;
    let tables = tables(prefix, literals);
    let directory = Directory::new();
    let create: String = tables.iter().map(|table| table.create() + &table.insert()).collect();
    database.run(&create).await;
    let site = Site::local(database, &directory);
    site.init();
    let image = State::of(database).await;
    assert!(tables.len() <= image.tables.len());
    let changes: Vec<String> = tables.iter().map(TypedTable::change).collect();
    let archiver = site.stream();
    // A transaction of many tables, and then each in its own.
    database.run(&format!("BEGIN; {} COMMIT", changes.concat())).await;
    let changed = State::of(database).await;
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    for table in &tables {
        database.run(&table.change_again()).await;
    }
    let last = State::of(database).await;
    site.catch_up();
    for state in [&image, &changed, &last] {
        site.expect_equal(state);
    }
    // The archiver that came later found the columns of the one before.
    let definitions = site.query("SELECT definition FROM afterimage.relations");
    assert!(!definitions.is_empty());
    for row in definitions {
        assert!(!row["definition"].as_str().unwrap().contains("~1"), "{row}");
    }
}

async fn every_built_in_type(release: Release) {
    let database = Database::create(postgres(release)).await;
    database.run(MADE).await;
    expect_lossless(&database, "built_in", &built_in(release)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_built_in_type_comes_back() {
    every_built_in_type(Release::System).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_built_in_type_of_18_comes_back() {
    every_built_in_type(Release::Eighteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_were_made_come_back() {
    for release in [Release::System, Release::Eighteen] {
        let database = Database::create(postgres(release)).await;
        database.run(MADE).await;
        expect_lossless(&database, "made", OF_MADE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_extensions_come_back() {
    for (release, extensions) in [(Release::System, CONTRIB), (Release::Eighteen, WHEEL)] {
        let database = Database::create(postgres(release)).await;
        let create: String =
            extensions.iter().map(|(name, _)| format!("CREATE EXTENSION IF NOT EXISTS {name} CASCADE;")).collect();
        database.run(&create).await;
        let literals: Vec<Literals> = extensions.iter().flat_map(|(_, literals)| literals.iter().copied()).collect();
        expect_lossless(&database, "extension", &literals).await;
    }
}

/// Values come in binary as long as every table can do with it, and as text from then on.
#[tokio::test(flavor = "multi_thread")]
async fn values_in_binary_are_those_of_the_text() {
    let binary = |columns: &[&str], literals: &[Literals]| -> Vec<Literals> {
        literals.iter().filter(|(name, _)| columns.contains(name)).copied().collect()
    };
    for release in Release::ALL {
        let server = own_postgres(release);
        let database = Database::create(&server).await;
        let literals = binary(BINARY, &built_in(release));
        assert_eq!(literals.len(), BINARY.len());
        let columns: String = literals.iter().enumerate().map(|(at, (name, _))| format!(", c{at} {name}")).collect();
        database.run(&format!("CREATE DOMAIN positive AS numeric CHECK (VALUE > 0); CREATE TABLE t (id int PRIMARY KEY{columns}, p positive);
            CREATE TABLE f (id int{columns}); ALTER TABLE f REPLICA IDENTITY FULL")).await;
        let directory = Directory::new();
        let site = Site::local(&database, &directory);
        site.init();
        let archiver = site.stream();
        let mut rows = String::new();
        for (at, (name, values)) in literals.iter().enumerate() {
            for value in *values {
                let value = literal(name, value);
                rows += &format!(
                    "INSERT INTO t (id, c{at}, p) VALUES ((SELECT count(*) FROM t), {value}, 1.500);
                    INSERT INTO f (id, c{at}) VALUES ((SELECT count(*) FROM f), {value});"
                );
            }
        }
        database.run(&rows).await;
        database.run("UPDATE f SET id = id + 100000 WHERE id % 2 = 0; DELETE FROM f WHERE id % 5 = 0; UPDATE t SET id = -id WHERE id % 3 = 1").await;
        let first = State::of(&database).await;
        let client = database.connect().await;
        let asked =
            "SELECT query FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE '%START_REPLICATION%'";
        let sent: String = client.query_one(asked, &[]).await.unwrap().get(0);
        assert!(sent.contains("binary"), "{sent}");
        // From here on text is needed.
        database.run("CREATE TABLE n (id int PRIMARY KEY, v interval); INSERT INTO n VALUES (1, '1 mon 2 days'); UPDATE t SET p = 3").await;
        let last = State::of(&database).await;
        // Waits until it is archived.
        site.expect_equal(&last);
        let sent: String = client.query_one(asked, &[]).await.unwrap().get(0);
        assert!(!sent.contains("binary"), "{sent}");
        archiver.signal("TERM");
        archiver.wait(PATIENCE).expect(0);
        site.expect_equal(&first);
    }
}

/// What comes in binary.
const BINARY: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "oid",
    "real",
    "double precision",
    "numeric",
    "numeric(12,4)",
    "numeric(38,38)",
    "text",
    "character varying(10)",
    "character(5)",
    "name",
    "json",
    "jsonb",
    "uuid",
    "bytea",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
];

/// A list that somebody wrote would otherwise pass for every type there is.
#[tokio::test(flavor = "multi_thread")]
async fn no_built_in_type_is_forgotten() {
    for release in Release::ALL {
        let client = Database::create(postgres(release)).await.connect().await;
        let types = client.query(ARRAY_TYPES, &[]).await.unwrap();
        assert!(types.len() > 60, "only {} types", types.len());
        let mut known: Vec<u32> = Vec::new();
        for (name, _) in built_in(release) {
            known.push(client.query_one("SELECT $1::text::regtype::oid", &[&name]).await.unwrap().get(0));
        }
        for row in types {
            let (oid, name, array, delimiter): (u32, String, u32, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let lacking = release != Release::System && NOT_IN_WHEEL.contains(&name.as_str());
            assert!(known.contains(&oid) || lacking || WITHOUT_INPUT.contains(&name.as_str()), "no values of {name}");
            let Storage::List { element, delimiter: ours } = Storage::of(array, -1) else {
                panic!("{name}[] is not stored as a list");
            };
            assert_eq!((*element, ours), (Storage::of(oid, -1), delimiter.as_bytes()[0]), "{name}");
        }
    }
}

const ARRAY_TYPES: &str = "SELECT oid, format_type(oid, NULL), typarray, typdelim::text FROM pg_type
    WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typarray <> 0";

/// Types without arrays, whose values only the server itself can make.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_only_the_server_makes_come_back() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    database
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int DEFAULT 7); INSERT INTO t SELECT g, g % 10, g % 20 FROM generate_series(1, 500) g;
             CREATE STATISTICS s ON a, b FROM t; ANALYZE t;
             CREATE TABLE made (id int PRIMARY KEY, tree pg_node_tree, d pg_ndistinct, p pg_dependencies, m pg_mcv_list)",
        )
        .await;
    let insert = |id: i32| {
        format!(
            "INSERT INTO made SELECT {id}, (SELECT adbin FROM pg_attrdef LIMIT 1), stxdndistinct, stxddependencies, stxdmcv
             FROM pg_statistic_ext_data"
        )
    };
    database.run(&insert(1)).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run(&insert(2)).await;
    let state = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&state);
}

/// What the owner of the source finds convenient to read must not decide what the archive says.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_role_and_the_database_do_not_matter() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    let role = format!("odd_{}", database.name());
    let mut settings = format!("CREATE ROLE {role} SUPERUSER LOGIN;");
    for (name, value) in ODD_SETTINGS {
        settings += &format!("ALTER ROLE {role} SET {name} = {value};");
        settings += &format!("ALTER ROLE {role} IN DATABASE {} SET {name} = {value};", database.name());
    }
    database.run(&settings).await;
    let insert = |id: i32| {
        format!(
            "INSERT INTO t VALUES ({id}, '2025-10-09', '2025-10-09 14:03:00.25', '2025-10-09 14:03:00+00', '12:00+05:30',
             '1 year -2 mons 3 days -04:05:06.789', '\\x00ff5c', 0.1, 1e-300, 1234567.89, '<a>b</a>', 'pg_class',
             ARRAY[NULL, 'NULL', 'a b'], ARRAY['2025-10-09 14:03:00'::timestamp, 'infinity'], ARRAY['\\xff'::bytea],
             '[2025-01-01,2025-02-01)', '\\')"
        )
    };
    database
        .run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, tt timetz, i interval, b bytea, f4 real,
             f8 double precision, m money, x xml, r regclass, ta text[], tsa timestamp[], ba bytea[], dr daterange, t text);
             {}",
            insert(1)
        ))
        .await;
    let url = database.url().replacen("//postgres@", &format!("//{role}@"), 1);
    assert_ne!(url, database.url());
    // The settings are in force where nobody pins them.
    let shown = connect(&url).await.query_one("SELECT d::text FROM public.t", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "09.10.2025");
    let site = Site::local(&database, &directory).source(&url);
    site.init();
    database.run(&insert(2)).await;
    let state = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&state);
}

const ODD_SETTINGS: [(&str, &str); 15] = [
    ("DateStyle", "'German, DMY'"),
    ("IntervalStyle", "'iso_8601'"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("bytea_output", "'escape'"),
    ("extra_float_digits", "-15"),
    ("client_encoding", "'LATIN1'"),
    ("xmlbinary", "'hex'"),
    ("xmloption", "'document'"),
    ("search_path", "'\"$user\"'"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "'serializable'"),
];

/// Reads the changes of `lists` with delta-rs and, from the files that the Delta log lists, with DuckDB; prints each
/// column's type and values as both see them.
const READ_LISTS: &str = r#"
import sys, json, deltalake, duckdb
delta = deltalake.DeltaTable(sys.argv[1])
rows = delta.to_pyarrow_table().sort_by("_seq")
columns = [c for c in rows.column_names if not c.startswith("_")]
listed = ", ".join(columns)
duck = duckdb.sql(f"SELECT {listed} FROM read_parquet({delta.file_uris()!r}) ORDER BY _seq").fetchall()
for at, column in enumerate(columns):
    values = rows[column].to_pylist()
    assert values == [row[at] for row in duck], (column, values, [row[at] for row in duck])
    print(column, rows[column].type, json.dumps(values, default=str))
print("_exact", [[(name, text.decode()) for name, text in row or []] for row in rows["_exact"].to_pylist()])
"#;

/// A table without any `timestamp` but inside lists needs Delta's feature for it just as well.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_are_lists_to_every_reader() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    database
        .run(
            "CREATE TABLE lists (ints int[], flags bool[], cents numeric(10,2)[], days date[], clocks timestamp[],
             moments timestamptz[], bytes bytea[], texts text[], uuids uuid[]); ALTER TABLE lists REPLICA IDENTITY FULL",
        )
        .await;
    let site = Site::local(&database, &directory);
    site.init();
    database
        .run(
            r"INSERT INTO lists VALUES
             ('{1,NULL,3}', '{t,f}', '{1.50,-0.01}', '{2025-10-09}', '{2025-10-09 14:03:00.25}', '{2025-10-09 14:03:00+00}',
              ARRAY['\xff00'::bytea], '{a,NULL,b c}', '{00000000-0000-0000-0000-000000000007}'),
             ('{}', NULL, '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
             ('{{4}}', '{t}', '{NaN}', '{infinity}', '[0:0]={epoch}', NULL, NULL, '[5:5]={z}', NULL)",
        )
        .await;
    site.catch_up();
    let path = directory.path().join("archive/changes/public/lists");
    let read = python(READ_LISTS, [path.to_str().unwrap()]);
    assert_eq!(read, LISTS);
    let rows = site.query(
        "SELECT array_length(ints) AS n, ints[3] AS third, cents[1] > 1 AS more, array_to_string(texts, '|') AS joined
         FROM changes.lists ORDER BY _seq LIMIT 1",
    );
    assert_eq!(rows, [serde_json::json!({"n": 3, "third": 3, "more": true, "joined": "a|b c"})]);
}

const LISTS: &str = r#"ints list<element: int32> [[1, null, 3], [], null]
flags list<element: bool> [[true, false], null, [true]]
cents list<element: decimal128(10, 2)> [["1.50", "-0.01"], [], null]
days list<element: date32[day]> [["2025-10-09"], [], null]
clocks list<element: timestamp[us]> [["2025-10-09 14:03:00.250000"], [], null]
moments list<element: timestamp[us, tz=UTC]> [["2025-10-09 14:03:00+00:00"], [], null]
bytes list<element: binary> [["b'\\xff\\x00'"], [], null]
texts list<element: string> [["a", null, "b c"], [], null]
uuids list<element: string> [["00000000-0000-0000-0000-000000000007"], [], null]
_exact [[], [], [('ints', '{{4}}'), ('cents', '{NaN}'), ('days', '{infinity}'), ('clocks', '[0:0]={"1970-01-01 00:00:00"}'), ('texts', '[5:5]={z}')]]
"#;
