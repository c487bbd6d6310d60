//! The archive outlives this program: others read the same history from it.

use afterimage::model::Lsn;
use serde_json::Value as Json;

use crate::support::{Database, Directory, Load, PATIENCE, Release, Site, postgres, python};

/// Reads `changes/public/<table>` with delta-rs, and its files, as the Delta log lists them, with DuckDB. Prints how
/// many changes of each kind both found, and the columns asked for, ordered.
const READ: &str = r#"
import sys, json, collections, decimal, datetime
import deltalake, duckdb
root, table, *columns = sys.argv[1:]
delta = deltalake.DeltaTable(f"{root}/changes/public/{table}")
rows = delta.to_pyarrow_table()
counts = dict(collections.Counter(rows["_op"].to_pylist()))
files = delta.file_uris()
duck = duckdb.sql(f"SELECT _op, count(*) FROM read_parquet({files!r}, union_by_name=true) GROUP BY 1").fetchall()
assert dict(duck) == counts, (duck, counts)
listed = ", ".join(f'"{c}"' for c in columns)
duck_rows = duckdb.sql(f"SELECT {listed} FROM read_parquet({files!r}, union_by_name=true) ORDER BY _lsn, _seq").fetchall()
places = sorted(range(rows.num_rows), key=lambda row: (rows["_lsn"][row].as_py(), rows["_seq"][row].as_py()))
delta_rows = [tuple(rows[c][row].as_py() for c in columns) for row in places]
def plain(value):
    if isinstance(value, (decimal.Decimal,)): return format(value, 'f')
    if isinstance(value, (datetime.datetime, datetime.date)): return value.isoformat()
    if isinstance(value, (bytes, bytearray)): return value.hex()
    return value
shown = [[plain(value) for value in row] for row in delta_rows]
assert shown == [[plain(value) for value in row] for row in duck_rows]
print(json.dumps({"counts": counts, "rows": shown}))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn foreign_readers_find_the_same_history() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let archiver = site.stream();
    let load = Load::start(&database, 11, 3);
    load.wait_for_more(150);
    load.stop().await;
    database.run("TRUNCATE heap").await;
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    // Stopped, its tables and its watermark agree, so that a reader who knows no watermark sees the same.
    site.catch_up();
    let root = directory.path().join("archive");
    let read = |table: &str, columns: &[&str]| -> Json {
        let arguments = [root.to_str().unwrap(), table].into_iter().chain(columns.iter().copied());
        serde_json::from_str(&python(READ, arguments)).unwrap()
    };
    for table in ["nasty", "heap", "journal", "core_relationships"] {
        let columns: &[&str] = match table {
            "nasty" => &["_lsn", "_seq", "_op", "id", "t", "j", "ta", "o", "big"],
            "heap" => &["_lsn", "_seq", "_xid", "_op", "a", "b"],
            "journal" => &["_lsn", "_seq", "_op", "worker", "step"],
            _ => &["_lsn", "_seq", "_op", "id", "relationship_strength", "is_active", "version"],
        };
        let theirs = read(table, columns);
        let counted = site.query(&format!("SELECT _op, count(*) AS n FROM changes.{table} GROUP BY _op"));
        assert!(!counted.is_empty(), "{table} was not changed");
        let counts: serde_json::Map<String, Json> =
            counted.iter().map(|row| (row["_op"].as_str().unwrap().to_owned(), row["n"].clone())).collect();
        assert_eq!(sorted(&theirs["counts"]), sorted(&Json::Object(counts)), "{table}");
        // JSON's numbers know no scale.
        let shown = |column: &&str| match *column {
            "relationship_strength" => format!("CAST(\"{column}\" AS varchar) AS \"{column}\""),
            _ => format!("\"{column}\""),
        };
        let list: Vec<String> = columns.iter().map(shown).collect();
        let ours = site.query(&format!("SELECT {} FROM changes.{table} ORDER BY _lsn, _seq", list.join(", ")));
        let theirs = theirs["rows"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{table}");
        for (our, their) in ours.iter().zip(theirs) {
            let our: Vec<String> = columns.iter().map(|column| text(&our[*column])).collect();
            let their: Vec<String> = their.as_array().unwrap().iter().map(text).collect();
            assert_eq!(our, their, "{table}");
        }
    }
    let truncates = read("heap", &["_op"])["counts"]["truncate"].as_i64().unwrap();
    assert!(truncates >= 1);
}

fn sorted(counts: &Json) -> Vec<(String, i64)> {
    let mut counts: Vec<_> =
        counts.as_object().unwrap().iter().map(|(op, n)| (op.clone(), n.as_i64().unwrap())).collect();
    counts.sort();
    counts
}

/// A value without regard to whether JSON has it as a number or as text; our SQL shows positions as PostgreSQL does.
fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.parse().map_or_else(|_| text.clone(), |lsn: Lsn| lsn.0.to_string()),
        other => other.to_string(),
    }
}
