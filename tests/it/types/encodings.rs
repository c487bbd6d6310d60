//! Text of every server encoding, names included.

use afterimage::model::quote_identifier;
use futures::StreamExt as _;

use crate::support::{Database, Directory, PATIENCE, Release, Site, State, connect, postgres};

/// A server encoding, and text that it has and ASCII has not.
const ENCODINGS: [(&str, &str); 16] = [
    ("UTF8", "Ünï 日本 💥"),
    ("LATIN1", "Ünïcøde ÿ £"),
    ("LATIN2", "Příliš žluťoučký łódź"),
    ("LATIN5", "İstanbul ğış"),
    ("LATIN9", "€ Žena œuvre ÿ"),
    ("ISO_8859_5", "Привет ёж"),
    ("WIN1250", "€ „łódź“ ž"),
    ("WIN1251", "Привет № ё"),
    ("WIN1252", "€ “quoted” œ ÿ"),
    ("KOI8R", "Пётр ёлка"),
    ("KOI8U", "Київ ґанок їжак"),
    ("EUC_JP", "日本語 テキスト ｱ"),
    ("EUC_JIS_2004", "日本語 テキスト"),
    ("EUC_CN", "简体中文 文本"),
    ("EUC_KR", "한국어 텍스트"),
    ("EUC_TW", "繁體中文 文字"),
];

#[tokio::test(flavor = "multi_thread")]
async fn text_of_every_encoding_comes_back() {
    for (encoding, sample) in ENCODINGS {
        expect_lossless(Release::System, encoding, sample).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_other_encodings_of_18_comes_back() {
    for (encoding, sample) in ENCODINGS.iter().filter(|(encoding, _)| ["LATIN1", "KOI8R", "EUC_JP"].contains(encoding))
    {
        expect_lossless(Release::Eighteen, encoding, sample).await;
    }
}

async fn create(release: Release, encoding: &str) -> Database {
    let options = format!("ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
    Database::create_with(postgres(release), &options).await
}

async fn expect_lossless(release: Release, encoding: &str, sample: &str) {
    let directory = Directory::new();
    let database = create(release, encoding).await;
    let (table, column) = (quote_identifier(sample), quote_identifier(&format!("c {sample}")));
    let insert = |id: i32| {
        format!(
            "INSERT INTO {table} VALUES ('{id} {sample}', '{sample}', ARRAY['{sample}', NULL, '{sample}, \"q\"'],
             '{{\"{sample}\": \"{sample}\"}}', '{sample}');"
        )
    };
    database
        .run(&format!(
            "CREATE TYPE {column} AS ENUM ('{sample}');
             CREATE TABLE {table} (id text PRIMARY KEY, {column} varchar(40), list text[], doc json, mood {column}); {}",
            insert(1)
        ))
        .await;
    let site = Site::local(&database, &directory);
    site.init();
    let image = State::of(&database).await;
    let change = format!("{} UPDATE {table} SET id = id || '{sample}' WHERE id LIKE '1%'; {}", insert(2), insert(3));
    database.run(&change).await;
    let changed = State::of(&database).await;
    site.catch_up();
    for state in [image, changed] {
        assert!(state.tables.values().any(|csv| csv.contains(sample)), "{encoding}: {state:?}");
        site.expect_equal(&state);
    }
}

/// SQL_ASCII has whatever bytes somebody sent.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_come_back() {
    let database = create(Release::System, "SQL_ASCII").await;
    let insert = |id: i32| {
        format!(
            r"INSERT INTO t VALUES (E'{id}\xff\xfe', E'caf\xe9', ARRAY[E'\xe9', 'a'], E'\xc3\xa9', E'\xe9'::char(3));"
        )
    };
    database
        .run(&format!(
            "CREATE TABLE t (id text PRIMARY KEY, a varchar(9), list text[], valid text, c char(3)); {}{}",
            insert(1),
            insert(2)
        ))
        .await;
    let change =
        format!(r"{} UPDATE t SET id = id || E'\xfd' WHERE id LIKE '1%'; DELETE FROM t WHERE id LIKE '2%';", insert(3));
    expect_same_bytes(&database, &change).await;
}

/// Archives the table `t`, changes it, and compares without taking anything for text.
async fn expect_same_bytes(database: &Database, change: &str) {
    let directory = Directory::new();
    let site = Site::local(database, &directory);
    site.init();
    database.run(change).await;
    let mut copied = copy(database).await;
    assert!(std::str::from_utf8(&copied.concat()).is_err(), "all of it is text");
    site.catch_up();
    let (now, file) = (site.watermark().await.to_string(), directory.join("t.csv"));
    site.command(["export", "t", "--at", &now, "--output", file.to_str().unwrap()]).run(PATIENCE).expect(0);
    let mut exported: Vec<Vec<u8>> =
        std::fs::read(file).unwrap().split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    copied.sort();
    exported.sort();
    assert_eq!(copied, exported);
}

/// The lines of `t`.
async fn copy(database: &Database) -> Vec<Vec<u8>> {
    let client = connect(database.url()).await;
    client.batch_execute("SET client_encoding = 'SQL_ASCII'").await.unwrap();
    let mut stream = Box::pin(client.copy_out("COPY (SELECT * FROM t) TO STDOUT (FORMAT csv, HEADER)").await.unwrap());
    let mut csv = Vec::new();
    while let Some(chunk) = stream.next().await {
        csv.extend_from_slice(&chunk.unwrap());
    }
    csv.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}
