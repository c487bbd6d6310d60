//! Who wrote and with which statement: what the source's triggers note, and what applications claim.

use serde_json::{Value as Json, json};

use crate::support::{Database, Directory, PATIENCE, Release, Site, node, postgres, python};

/// A database with a role that owns nothing, and an archive of it that was begun with these options.
async fn begun<'a>(database: &'a Database, directory: &Directory, options: &[&str]) -> Site<'a> {
    let role = app(database);
    database
        .run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE u (id int PRIMARY KEY);
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9);
             CREATE ROLE {role} LOGIN PASSWORD 'sesame'; GRANT ALL ON t, u, parted, part TO {role}"
        ))
        .await;
    let site = Site::local(database, directory);
    let begun = site.command(["init"].into_iter().chain(options.iter().copied())).run(PATIENCE).expect(0);
    assert!(begun.stdout.contains("have triggers that tell who wrote"), "{}", begun.stdout);
    site
}

fn app(database: &Database) -> String {
    format!("app_{}", database.name())
}

/// The context of the newest transactions, the oldest first.
fn contexts(site: &Site<'_>, count: usize) -> Vec<Json> {
    site.catch_up();
    let log = site.command(["log", "--json", "-n", &count.to_string()]).run(PATIENCE).expect(0).stdout;
    let mut contexts: Vec<Json> =
        log.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["context"].clone()).collect();
    contexts.reverse();
    contexts
}

fn statements(context: &Json) -> Vec<&str> {
    context.as_array().unwrap().iter().filter_map(|part| part["statement"].as_str()).collect()
}

async fn on_both(test: impl AsyncFn(Release)) {
    for release in [Release::System, Release::Eighteen] {
        test(release).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_says_who_ran_it_and_how() {
    on_both(async |release| {
        let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
        let site = begun(&database, &directory, &["--context"]).await;
        let (session, role) = (database.connect().await, app(&database));
        session.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).await.unwrap();
        session.batch_execute("INSERT INTO t VALUES (1, 'one')").await.unwrap();
        // What changes nothing is in no transaction.
        session.batch_execute("UPDATE t SET note = 'x' WHERE id = 77").await.unwrap();
        session.batch_execute("BEGIN").await.unwrap();
        for _ in 0..3 {
            session.batch_execute("UPDATE t SET note = note || '!'").await.unwrap();
        }
        session.batch_execute("INSERT INTO parted VALUES (1)").await.unwrap();
        session.batch_execute("SET LOCAL request.jwt.claims = '{\"sub\": \"7\"}'; TRUNCATE u").await.unwrap();
        let forged = r#"{"user": "postgres", "statement": "SELECT 1"}"#;
        let claim = format!("SELECT pg_logical_emit_message(true, 'afterimage', '{forged}')");
        session.batch_execute(&claim).await.unwrap();
        session.batch_execute("COMMIT").await.unwrap();
        session.batch_execute("INSERT INTO part VALUES (2)").await.unwrap();

        let said = contexts(&site, 3);
        let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        assert_eq!(said[0].as_array().unwrap().len(), 1, "{said:?}");
        assert_eq!(said[0][0]["user"], json!(role));
        assert_eq!(said[0][0]["pid"], json!(pid));
        assert_eq!(said[0][0]["statement"], "INSERT INTO t VALUES (1, 'one')");
        let texts = statements(&said[1]);
        assert_eq!(texts[..2], ["UPDATE t SET note = note || '!'", "INSERT INTO parted VALUES (1)"]);
        assert!(texts[2].ends_with("TRUNCATE u"), "{texts:?}");
        assert_eq!(texts.len(), 3);
        assert_eq!(said[1][2]["claimed"]["jwt"], json!({ "sub": "7" }));
        // What anybody can say is not what is known.
        assert_eq!(said[1][3], json!({ "claimed": { "message": { "user": "postgres", "statement": "SELECT 1" } } }));
        assert_eq!(statements(&said[2]), ["INSERT INTO part VALUES (2)"]);

        let log = site.command(["log", "-n", "1"]).run(PATIENCE).expect(0).stdout;
        assert!(log.contains(&format!("by {role}")) && log.contains(": INSERT INTO part VALUES (2)"), "{log}");
        let told = |filter: &str| {
            let lines = site.command(["log", "--json", "--context", filter]).run(PATIENCE).expect(0).stdout;
            lines.lines().count()
        };
        assert_eq!(told(&format!("user={role}")), 3);
        assert_eq!((told("user=postgres"), told("claimed.message.user=postgres")), (0, 1), "a claim is a claim");
        assert_eq!((told("truncate U"), told("claimed.jwt.sub=7"), told("user=app_")), (1, 1, 0));
        let stat = site.command(["log", "--stat", "--context", "truncate u"]).run(PATIENCE).expect(0).stdout;
        assert!(stat.contains(&format!("user:   {role}\n")) && stat.contains("\n    public.u truncated\n"), "{stat}");
        let log = site.command(["log", "--json", "-n", "1"]).run(PATIENCE).expect(0).stdout;
        let xid = serde_json::from_str::<Json>(&log).unwrap()["xid"].to_string();
        // The page wants the present, and other tests' databases move it on.
        let _archiver = site.start();
        let page = site.command(["incident", &xid]).run(PATIENCE);
        assert!(page.stdout.contains(&format!("who       {role}")), "{page:?}");
        assert!(page.stdout.contains("how       INSERT INTO part VALUES (2)"), "{page:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tables_and_definitions_say_it_too() {
    on_both(async |release| {
        let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
        let site = begun(&database, &directory, &["--context=t,new*", "--context-redact", "literals"]).await;
        database.run("CREATE TABLE newer (id int PRIMARY KEY, note text DEFAULT 'it''s')").await;
        database.run("INSERT INTO newer VALUES (1, 'secret')").await;
        database.run("CREATE TABLE other (id int PRIMARY KEY)").await;
        database.run("INSERT INTO other VALUES (1)").await;
        let said = contexts(&site, 4);
        assert_eq!(statements(&said[0]), ["CREATE TABLE newer (id int PRIMARY KEY, note text DEFAULT ?)"]);
        assert_eq!(statements(&said[1]), ["INSERT INTO newer VALUES (?, ?)"]);
        assert_eq!(statements(&said[2]), ["CREATE TABLE other (id int PRIMARY KEY)"]);
        assert_eq!(said[3], Json::Null);
        let ddl = site.query("SELECT statement FROM afterimage.ddl WHERE tag = 'CREATE TABLE' ORDER BY lsn");
        assert_eq!(ddl[0]["statement"], "CREATE TABLE newer (id int PRIMARY KEY, note text DEFAULT ?)");
        // The triggers are no part of what the application made.
        let told = site.query("SELECT count(*) AS n FROM afterimage.ddl WHERE objects LIKE '%afterimage_context%'");
        assert_eq!(told[0]["n"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redacted_never_leaves_the_source() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    let site = begun(&database, &directory, &["--context", "--context-redact", "literals"]).await;
    let statements_run = [
        "INSERT INTO t VALUES (4711001, 'se4711cret')",
        r"UPDATE t SET note = E'a\'se4711cret' || 'x''se4711cret' WHERE true",
        "UPDATE t SET note = $$it's$$ || 'se4711cret'",
        "UPDATE t SET note = /* don't */ 'se4711cret' -- it's\n || 'se4711cret'",
        "UPDATE t SET note = /* a /* ' */ b */ 'se4711cret'",
        "SET standard_conforming_strings = off; UPDATE t SET note = 'a' || 'se4711cret'",
        "UPDATE t SET note = 'a\\'se4711cret'",
    ];
    // The last is read as the one before it has set.
    let session = database.connect().await;
    for sql in statements_run {
        session.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let said = contexts(&site, statements_run.len());
    for (context, sql) in said.iter().zip(statements_run) {
        assert!(statements(context)[0].contains('?'), "{sql}: {context}");
        assert!(!context.to_string().contains("4711"), "{sql}: {context}");
    }
    // By a rule of one's own, in an archive that exists.
    let rule = site.command(["init", "--context", "--context-redact", "[0-9]{4}se[a-z]+"]).run(PATIENCE).expect(0);
    assert!(rule.stdout.contains("nothing but context was changed"), "{}", rule.stdout);
    database.run("UPDATE t SET note = '4711secret kept'").await;
    assert_eq!(statements(&contexts(&site, 1)[0]), ["UPDATE t SET note = '? kept'"]);
    let wrong = site.command(["init", "--context", "--context-redact", "("]).run(PATIENCE).expect(2);
    assert!(wrong.stderr.contains("context_redact has"), "{}", wrong.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_a_warning_and_what_is_removed_is_gone() {
    on_both(async |release| {
        let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
        let site = begun(&database, &directory, &["--context"]).await;
        database.run("DROP FUNCTION afterimage.redacted").await;
        database.run("INSERT INTO t VALUES (1, 'one')").await;
        assert_eq!(contexts(&site, 1), [Json::Null]);
        // Only where it is asked for.
        site.command(["init", "--context=u"]).run(PATIENCE).expect(0);
        let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'afterimage_context'";
        let client = database.connect().await;
        assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 1);
        site.command(["init", "--no-context"]).run(PATIENCE).expect(0);
        assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 0);
        database
            .run("INSERT INTO u VALUES (1); CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)")
            .await;
        assert_eq!(contexts(&site, 1), [Json::Null]);
        assert!(site.command(["incident", "1"]).run(PATIENCE).code != Some(0));
    })
    .await;
}

/// Very many statements of one transaction are not kept one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_statements_says_that_there_were_more() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    let site = begun(&database, &directory, &["--context"]).await;
    let session = database.connect().await;
    session.batch_execute("BEGIN").await.unwrap();
    for id in 0..120 {
        session.batch_execute(&format!("INSERT INTO u VALUES ({id})")).await.unwrap();
    }
    session.batch_execute("COMMIT").await.unwrap();
    let said = contexts(&site, 1);
    let parts = said[0].as_array().unwrap();
    assert_eq!((parts.len(), &parts[100]), (101, &json!({ "more": true })));
}

/// Whoever may not write messages cannot forge what the database notes, which still works.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_write_messages_is_noted_all_the_same() {
    on_both(async |release| {
        let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
        let site = begun(&database, &directory, &["--context"]).await;
        let role = app(&database);
        database.run(&documented("sql")).await;
        let session = database.connect().await;
        session.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).await.unwrap();
        let forged = "SELECT pg_logical_emit_message(true, 'afterimage.statement', '{\"user\": \"postgres\"}')";
        assert!(session.batch_execute(forged).await.is_err());
        session.batch_execute("SET afterimage.context = '{\"request\": 7}'; INSERT INTO u VALUES (1)").await.unwrap();
        let said = contexts(&site, 1);
        assert_eq!(said[0][0]["user"], json!(role));
        assert_eq!(said[0][0]["claimed"]["context"], json!({ "request": 7 }));
    })
    .await;
}

/// The recipe of `docs/context.md`.
#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy_and_psycopg_say_for_whom_they_work() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    let site = begun(&database, &directory, &["--context"]).await;
    let recipe = documented("python");
    let script = format!(
        "{recipe}\nimport sys\nurl = sys.argv[1]
engine = create_engine(url.replace('postgresql://', 'postgresql+psycopg://').replace('postgres://', 'postgresql+psycopg://'))
listen(engine)
token = acting_for.set({{'user': 'ada@example.org', 'request': 'r-1'}})
with engine.begin() as connection:
    connection.execute(text(\"INSERT INTO t VALUES (1, 'by sqlalchemy')\"))
acting_for.reset(token)
with engine.begin() as connection:
    connection.execute(text(\"INSERT INTO t VALUES (2, 'for nobody')\"))
with psycopg.connect(url) as connection:
    say(connection, {{'user': 'grace@example.org'}})
    connection.execute(\"INSERT INTO t VALUES (3, 'by psycopg')\")
"
    );
    python(&script, [database.url()]);
    let said = contexts(&site, 3);
    assert_eq!(said[0][0]["claimed"]["context"], json!({ "user": "ada@example.org", "request": "r-1" }));
    assert_eq!(said[1][0]["claimed"].get("context"), None, "{said:?}");
    assert_eq!(said[2][0]["claimed"]["context"], json!({ "user": "grace@example.org" }));
}

/// The recipe of `docs/context.md`.
#[tokio::test(flavor = "multi_thread")]
async fn node_says_for_whom_it_works() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    let site = begun(&database, &directory, &["--context"]).await;
    let recipe = documented("javascript");
    let script = format!(
        "{recipe}
const pool = new Pool({{ connectionString: process.argv[1] }});
(async () => {{
  await transaction(pool, {{ user: 'ada@example.org' }}, async (client) => {{
    await client.query('INSERT INTO t VALUES ($1, $2)', [1, 'by node']);
  }});
  await pool.query('INSERT INTO t VALUES ($1, $2)', [2, 'for nobody']);
  await pool.end();
}})().catch((error) => {{ console.error(error); process.exit(1); }});"
    );
    node(&script, [database.url()]);
    let said = contexts(&site, 2);
    assert_eq!(said[0][0]["claimed"]["context"], json!({ "user": "ada@example.org" }));
    assert_eq!(said[0][0]["statement"], "INSERT INTO t VALUES ($1, $2)");
    assert_eq!(said[1][0]["claimed"].get("context"), None, "{said:?}");
}

/// The first block of this language in `docs/context.md`.
fn documented(language: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/context.md")).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}
