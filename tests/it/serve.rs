//! The read-only endpoint, asked by the clients that people have: psql of two releases, psycopg, Node's pg, and a client of
//! ours; and by those who want more than they may.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::{
    CERTIFICATE, Database, Directory, End, KEY, PATIENCE, Program, Release, Running, Site, node, postgres, python,
    wait_for,
};

const PASSWORD: &str = "sesame";

const SHOP: &str = "
CREATE TABLE orders (id int PRIMARY KEY, organization_id int NOT NULL, note text, price numeric(10, 2), at timestamptz,
  tags text[]);
CREATE TABLE people (id int PRIMARY KEY, organization_id int NOT NULL);
CREATE TABLE colours (id int PRIMARY KEY, name text);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders SELECT g, 1 + g % 2, 'note ' || g, g * 1.25, '2025-10-09 14:03:00+00', ARRAY['a', 'b c']
  FROM generate_series(1, 10) g;
INSERT INTO people VALUES (1, 1), (2, 2);
INSERT INTO colours VALUES (1, 'red')";

/// An endpoint over an archive; all ends with the test.
struct Scene {
    database: Database,
    directory: Directory,
    server: Running,
    port: u16,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with("").await
    }

    /// With more configuration.
    async fn with(more: &str) -> Scene {
        let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
        database.run(SHOP).await;
        let site = Site::local(&database, &directory);
        site.init();
        for sql in [
            "UPDATE orders SET note = 'changed' WHERE id IN (3, 4)",
            "UPDATE orders SET organization_id = 1 WHERE id = 5",
            "DELETE FROM orders WHERE id IN (7, 8)",
            "TRUNCATE people",
        ] {
            database.run(sql).await;
        }
        site.catch_up();
        std::fs::write(directory.join("password"), format!("{PASSWORD}\n")).unwrap();
        let user = |name: &str, rest: &str| {
            format!("[[serve.user]]\nname = \"{name}\"\npassword_file = {:?}\n{rest}\n", directory.join("password"))
        };
        let config = [
            "[serve]\nlisten = \"127.0.0.1:0\"\n".to_owned(),
            more.to_owned(),
            user("auditor", ""),
            user("clerk", "tables = [\"public.colours\"]"),
            user("tenant", "tables = [\"public.*\"]\nwhere = \"organization_id = 1\""),
        ];
        std::fs::write(directory.join("afterimage.toml"), config.concat()).unwrap();
        let config = directory.join("afterimage.toml");
        let server = Program::afterimage(["serve", "--config", config.to_str().unwrap()]).archive(&directory.archive());
        let server = server.start();
        let address = || {
            let said = server.stderr();
            let (_, rest) = said.split_once("serving PostgreSQL clients on 127.0.0.1:")?;
            rest.lines().next()?.parse().ok()
        };
        wait_for("the endpoint listens", PATIENCE, || address().is_some());
        let port = address().unwrap();
        Scene { database, directory, server, port }
    }

    fn url(&self, user: &str) -> String {
        format!("postgresql://{user}:{PASSWORD}@127.0.0.1:{}/shop", self.port)
    }

    async fn connect(&self, user: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(user), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs psql of a release.
    fn psql(&self, release: Release, user: &str, commands: &[&str]) -> End {
        let url = self.url(user);
        let commands = commands.iter().flat_map(|command| ["-c", *command]);
        let arguments = [url.as_str(), "-X", "-A", "-t", "-P", "pager=off", "-v", "ON_ERROR_STOP=1"];
        let psql = release.installation().program("psql");
        Program::new(&psql).arguments(arguments).arguments(commands).run(PATIENCE)
    }
}

/// The first column of every row.
async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn refused(client: &Client, sql: &str) -> String {
    let error = client.simple_query(sql).await.map(|_| ()).expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_finds_its_way() {
    let scene = Scene::new().await;
    for release in [Release::System, Release::Eighteen] {
        let psql = |commands: &[&str]| {
            let end = scene.psql(release, "auditor", commands).expect(0);
            assert_eq!(end.stderr, "", "{commands:?}");
            end.stdout
        };
        let changes = "SELECT id, note, price, at, tags FROM changes.orders WHERE _op = 'update' AND id = 3";
        assert_eq!(psql(&[changes]), "3|changed|3.75|2025-10-09 14:03:00+00|{a,\"b c\"}\n");
        assert_eq!(psql(&["SELECT NULL, true, 1.50::numeric(10,2)"]), "|t|1.50\n");
        let tables = psql(&["\\dt"]);
        for table in ["changes|orders|table|auditor", "changes|people|table|auditor", "images|colours|table|auditor"] {
            assert!(tables.lines().any(|line| line == table), "{tables}");
        }
        assert_eq!(psql(&["\\d"]), tables);
        let columns = psql(&["\\d changes.orders"]);
        for column in ["_lsn|bigint|||", "_ts|timestamp with time zone|||", "price|numeric|||", "_old|json|||"] {
            assert!(columns.lines().any(|line| line == column), "{column} is not in {columns}");
        }
        assert_eq!(psql(&["\\d images.colours"]).lines().filter(|line| line.starts_with("name|text")).count(), 1);
        assert!(psql(&["\\dn"]).contains("changes|"));
        assert!(psql(&["\\l"]).contains(scene.database.name()));
        assert!(psql(&["\\du"]).contains("auditor"));
        assert_eq!(psql(&["\\conninfo", "SHOW transaction_read_only"]).lines().last(), Some("on"));
        let expanded = psql(&["\\x", "SELECT count(*) AS n FROM changes.orders"]);
        assert!(expanded.contains("n|5"), "{expanded}");
        let missing = scene.psql(release, "auditor", &["\\d nothing"]).expect(1);
        assert!(missing.stderr.contains("Did not find any relation"), "{missing:?}");
        assert_eq!(
            psql(&["BEGIN", "SET application_name = 'x'", "SELECT count(*) FROM changes.colours", "COMMIT"])
                .lines()
                .last(),
            Some("COMMIT")
        );
    }
    drop(scene.server);
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_ask_in_their_ways() {
    let scene = Scene::new().await;
    let client = scene.connect("auditor").await;
    // In binary, with values.
    let sql = "SELECT _lsn, id, price::text, at, note FROM changes.orders WHERE id = $1 AND _op = $2";
    let row = client.query_one(sql, &[&3_i32, &"update"]).await.unwrap();
    assert!(row.get::<_, i64>(0) > 0);
    assert_eq!((row.get::<_, i32>(1), row.get::<_, &str>(2), row.get::<_, &str>(4)), (3, "3.75", "changed"));
    let fetched: Vec<i32> = {
        let mut client = scene.connect("auditor").await;
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind("SELECT id FROM images.orders ORDER BY id", &[]).await.unwrap();
        let mut ids = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 3).await.unwrap();
            ids.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
            if rows.len() < 3 {
                break ids;
            }
        }
    };
    assert_eq!(fetched, (1..=10).collect::<Vec<_>>());

    let said = python(
        "import psycopg, sys, decimal
with psycopg.connect(sys.argv[1]) as connection:
    cursor = connection.execute('SELECT id, price, at, note FROM changes.orders WHERE id = %s AND _op = %s', [4, 'update'])
    print(cursor.fetchall())
    with connection.cursor(binary=True) as cursor:
        print(cursor.execute('SELECT id, price, note, true FROM images.orders WHERE id = %s', [2]).fetchall())
    try:
        connection.execute('DELETE FROM orders')
    except psycopg.errors.ReadOnlySqlTransaction as error:
        print('read only')
",
        [scene.url("auditor").as_str()],
    );
    let wanted =
        "[(4, Decimal('5.00'), datetime.datetime(2025, 10, 9, 14, 3, tzinfo=datetime.timezone.utc), 'changed')]
[(2, Decimal('2.50'), 'note 2', True)]
read only
";
    assert_eq!(said, wanted);

    let said = node(
        "const { Client } = require('pg');
(async () => {
  const client = new Client({ connectionString: process.argv[1] });
  await client.connect();
  const found = await client.query('SELECT id, price, at, note FROM changes.orders WHERE id = $1 AND _op = $2', [3, 'update']);
  console.log(JSON.stringify(found.rows));
  await client.query('INSERT INTO orders VALUES (1)').catch((error) => console.log(error.code));
  await client.end();
})().catch((error) => { console.error(error); process.exit(1); });",
        [scene.url("auditor").as_str()],
    );
    assert_eq!(
        said,
        "[{\"id\":3,\"price\":\"3.75\",\"at\":\"2025-10-09T14:03:00.000Z\",\"note\":\"changed\"}]\n25006\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_keeps_what_it_saw_first() {
    let scene = Scene::new().await;
    let client = scene.connect("auditor").await;
    let count = "SELECT count(*) FROM changes.colours";
    client.simple_query("BEGIN").await.unwrap();
    assert_eq!(texts(&client, count).await, ["0"]);
    scene.database.run("UPDATE colours SET name = 'blue'").await;
    Site::local(&scene.database, &scene.directory).catch_up();
    assert_eq!(texts(&client, count).await, ["0"]);
    client.simple_query("COMMIT").await.unwrap();
    assert_eq!(texts(&client, count).await, ["1"]);
    // As PostgreSQL does, a transaction that failed says so until it ends.
    client.simple_query("BEGIN").await.unwrap();
    assert_eq!(refused(&client, "SELECT 1 / 0").await.len(), 5);
    assert_eq!(refused(&client, count).await, "25P02");
    client.simple_query("ROLLBACK").await.unwrap();
    assert_eq!(texts(&client, count).await, ["1"]);
    assert_eq!(texts(&client, "SELECT 1; SELECT 2").await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_written_and_nothing_read_elsewhere() {
    let scene = Scene::new().await;
    let client = scene.connect("auditor").await;
    let writing = [
        "INSERT INTO changes.orders VALUES (1)",
        "UPDATE changes.orders SET id = 1",
        "DELETE FROM changes.orders",
        "TRUNCATE changes.orders",
        "DROP TABLE changes.orders",
        "CREATE TABLE t (id int)",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
        "COPY changes.orders TO '/tmp/x'",
        "COPY (SELECT 1) TO STDOUT",
        "/* SELECT */ VACUUM",
        "DO $$ BEGIN END $$",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION auditor",
        "EXPLAIN ANALYZE INSERT INTO changes.orders VALUES (1)",
        "WITH gone AS (DELETE FROM changes.orders RETURNING *) SELECT * FROM gone",
        "SELECT * INTO t FROM changes.orders",
        "SELECT 1; DROP TABLE changes.orders",
    ];
    for sql in writing {
        let code = refused(&client, sql).await;
        assert!(code == "25006" || code == "42601", "{sql}: {code}");
    }
    let elsewhere = [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('x')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT * FROM dblink('', '')",
        "SELECT * FROM pg_catalog.pg_authid, changes.orders",
    ];
    for sql in elsewhere {
        refused(&client, sql).await;
    }
    assert_eq!(texts(&client, "SELECT count(*) FROM changes.orders").await, ["5"]);
    assert_eq!(texts(&client, "SELECT usename FROM pg_catalog.pg_shadow").await, [] as [&str; 0]);
    // Nothing is said rather than what is not known.
    assert_eq!(refused(&client, "SELECT count(*) FROM pg_catalog.pg_shadow").await, "0A000");
}

/// Every way to a row, and what an error or a plan could give away.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_rows_and_of_nobody_elses_a_trace() {
    let scene = Scene::new().await;
    let tenant = scene.connect("tenant").await;
    let auditor = scene.connect("auditor").await;
    assert_eq!(texts(&auditor, "SELECT id FROM images.orders WHERE organization_id = 2 ORDER BY id").await.len(), 5);
    assert_eq!(texts(&tenant, "SELECT id FROM images.orders ORDER BY id").await, ["2", "4", "6", "8", "10"]);
    assert_eq!(texts(&tenant, "SELECT count(*) FROM images.orders").await, ["5"]);
    assert_eq!(texts(&tenant, "SELECT count(*) FROM images.orders WHERE organization_id <> 1 OR true").await, ["5"]);
    // 4 was its own before and after, 5 came from another, 8 was its own, 3 and 7 never were.
    let mine = "SELECT _op FROM changes.orders ORDER BY _lsn";
    assert_eq!(texts(&tenant, mine).await, ["update", "delete"]);
    assert_eq!(texts(&tenant, "SELECT _old['id'] FROM changes.orders WHERE _op = 'delete'").await, ["8"]);
    // A truncation is everybody's.
    assert_eq!(texts(&tenant, "SELECT _op FROM changes.people").await, [] as [&str; 0]);
    assert_eq!(texts(&auditor, "SELECT _op FROM changes.people").await, ["truncate"]);
    for _ in 0..3 {
        // A condition of its own is never asked of rows that are not: 7 is in nobody's rows but another's.
        assert_eq!(texts(&tenant, "SELECT id FROM images.orders WHERE 1 / (id - 7) > 5").await, [] as [&str; 0]);
        assert_eq!(refused(&tenant, "SELECT id FROM images.orders WHERE 1 / (id - 8) > 5").await.len(), 5);
    }
    // States and the functions of history are limited as well.
    assert_eq!(texts(&tenant, "SELECT id FROM orders ORDER BY id").await, ["2", "4", "5", "6", "10"]);
    assert_eq!(texts(&tenant, "SELECT count(*) FROM versions('orders') WHERE organization_id <> 1").await, ["0"]);
    assert_eq!(texts(&tenant, "SELECT _op FROM changes('orders') ORDER BY _lsn").await, ["update", "delete"]);
    let self_join = "SELECT a.id FROM images.orders a JOIN changes.orders b ON a.organization_id <> b.organization_id";
    assert_eq!(texts(&tenant, self_join).await, [] as [&str; 0]);
    assert_eq!(
        texts(&tenant, "SELECT max(id) FROM images.orders UNION SELECT max(id) FROM images.people ORDER BY 1").await,
        ["1", "10"]
    );
    // Where the condition cannot be asked, nothing is there to see.
    assert_eq!(refused(&tenant, "SELECT * FROM images.colours").await, "42601");
    for hidden in
        ["afterimage.transactions", "afterimage.ddl", "afterimage.relations", "afterimage.messages", "images.nothing"]
    {
        assert_eq!(refused(&tenant, &format!("SELECT * FROM {hidden}")).await, "42P01", "{hidden}");
    }
    assert_eq!(refused(&tenant, "EXPLAIN ANALYZE SELECT * FROM images.orders").await, "42501");
    assert_eq!(refused(&tenant, "explain verbose SELECT * FROM images.orders").await, "42501");
    assert!(tenant.query("EXPLAIN ANALYZE SELECT * FROM images.orders", &[]).await.is_err());
    let listed =
        texts(&tenant, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'afterimage'").await;
    assert_eq!(listed, [] as [&str; 0]);

    let clerk = scene.connect("clerk").await;
    assert_eq!(texts(&clerk, "SELECT name FROM images.colours").await, ["red"]);
    for hidden in [
        "images.orders",
        "changes.orders",
        "changes.\"public.orders\"",
        "changes.public.orders",
        "afterimage.transactions",
    ] {
        assert_eq!(refused(&clerk, &format!("SELECT * FROM {hidden}")).await, "42P01", "{hidden}");
    }
    assert_eq!(texts(&clerk, "SHOW TABLES").await, ["changes.colours", "colours", "images.colours"]);
    assert_eq!(texts(&clerk, "SELECT relname FROM pg_catalog.pg_class").await, ["colours", "colours", "colours"]);
    let suggestion = clerk.simple_query("SELECT * FROM changes.order").await.map(|_| ()).unwrap_err();
    assert!(!format!("{suggestion:?}").contains("orders"), "{suggestion:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_knows_the_password_gets_in() {
    let scene = Scene::with("connections = 3\n").await;
    let with = async |user: &str, password: &str| {
        let url = format!("postgresql://{user}:{password}@127.0.0.1:{}/shop", scene.port);
        tokio_postgres::connect(&url, NoTls).await.map(|_| ()).unwrap_err()
    };
    for (user, password) in [("auditor", "wrong"), ("nobody", PASSWORD), ("auditor", ""), ("tenant", "Sesame")] {
        let error = with(user, password).await;
        let code = error.code().map(|code| code.code().to_owned());
        assert!(code.as_deref() == Some("28P01") || password.is_empty(), "{user}: {error:?}");
    }
    // Whoever skips logging in is not heard.
    for bytes in [
        &b"Q\0\0\0\x0dSELECT 1\0"[..],
        b"\0\0\0\x08\0\x03\0\0",
        b"\xff\xff\xff\xff\xff",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0",
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", scene.port)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.write_all(b"Q\0\0\0\x0dSELECT 1\0").await.unwrap();
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.contains(&b'D') || answer.first() == Some(&b'E'), "{answer:?}");
    }
    // Those that were turned away may still be on their way out.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = [scene.connect("auditor").await, scene.connect("auditor").await, scene.connect("auditor").await];
    let error = with("auditor", PASSWORD).await;
    assert_eq!(error.code().unwrap().code(), "53300");
    assert_eq!(texts(&held[0], "SELECT 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted() {
    let files = Directory::new();
    let (certificate, key) = (files.join("certificate.pem"), files.join("key.pem"));
    std::fs::write(&certificate, CERTIFICATE).unwrap();
    std::fs::write(&key, KEY).unwrap();
    let config = format!("tls_certificate = {certificate:?}\ntls_key = {key:?}\nrequire_tls = true\n");
    let scene = Scene::with(&config).await;
    // That of the wheel was built without TLS.
    let ask = |release: Release, options: &str| {
        let url = format!("{}?{options}", scene.url("auditor"));
        let psql = release.installation().program("psql");
        Program::new(&psql).arguments([url.as_str(), "-X", "-A", "-t", "-c", "SELECT 7"]).run(PATIENCE)
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    assert_eq!(ask(Release::System, &trusted).expect(0).stdout, "7\n");
    for release in [Release::System, Release::Eighteen] {
        let plain = ask(release, "sslmode=disable").expect(2);
        assert!(plain.stderr.contains("encrypted connections only"), "{plain:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_can_be_cancelled_and_takes_only_so_long() {
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 3";
    let scene = Scene::with("statement_timeout = \"2s\"\n").await;
    let client = scene.connect("auditor").await;
    let began = Instant::now();
    assert_eq!(refused(&client, endless).await, "57014");
    assert!(began.elapsed() >= Duration::from_secs(2));
    let cancel = client.cancel_token();
    let waiting = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    let began = Instant::now();
    assert_eq!(refused(&client, endless).await, "57014");
    assert!(began.elapsed() < Duration::from_millis(1900));
    waiting.await.unwrap();
    assert_eq!(texts(&client, "SELECT 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_configured_wrongly_is_said() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    database.run(SHOP).await;
    Site::local(&database, &directory).init();
    let config = directory.join("afterimage.toml");
    let run = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
        Program::afterimage(serve).archive(&directory.archive()).run(PATIENCE)
    };
    assert!(run("").expect(2).stderr.contains("nobody may log in"));
    let user = "[[serve.user]]\nname = \"a\"\npassword_file = \"/nonexistent\"\n";
    assert!(run(user).expect(2).stderr.contains("/nonexistent"));
    assert!(run("[serve]\nrequire_tls = true\n").expect(2).stderr.contains("nobody may log in"));
    assert!(run("[serve]\ntls_key = \"x\"\n").expect(2).stderr.contains("only one"));
}
