//! Libraries that know nothing of us read the tables as they lie in the archive, changes of definitions and all.

use super::{HISTORY, TABLES, statements};
use crate::support::{Database, Directory, PATIENCE, Release, Site, delta_jars, postgres, python_program};

const READERS: &str = concat!(include_str!("spark.py"), include_str!("readers.py"));

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn foreign_readers_agree_on_tables_whose_definitions_changed() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    let site = Site::local(&database, &directory);
    database.run(TABLES).await;
    site.init();
    for statement in statements(HISTORY) {
        database.run(&statement).await;
    }
    site.catch_up();
    let read = |kind: &str, table: &str, readers: &[&str]| {
        let directory = directory.path().join("archive").join(kind).join("public").join(table);
        let arguments = [directory.to_str().unwrap()].into_iter().chain(readers.iter().copied());
        let program = python_program(READERS, arguments).variable("DELTA_JARS", &delta_jars());
        let found = program.run(5 * PATIENCE).expect(0).stdout;
        let ours = site.query(&format!("SELECT count(*) AS rows FROM {kind}.{table}"));
        assert_eq!(found.trim(), ours[0]["rows"].to_string(), "{kind} of {table}");
        assert_ne!(found.trim(), "0", "{kind} of {table}");
    };
    let light = ["duckdb", "chdb", "polars", "daft"];
    for (kind, table) in [("changes", "persons"), ("changes", "bag"), ("changes", "days"), ("images", "people")] {
        read(kind, table, &light);
    }
    // Columns were added, renamed, dropped, added again and widened under the first name.
    let everyone: Vec<&str> = light.into_iter().chain(["pyspark"]).collect();
    read("changes", "people", &everyone);
}
