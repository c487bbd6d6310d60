//! Libraries that know nothing of us read the tables as they lie in the archive, changes of definitions and all.

use super::{HISTORY, TABLES, statements};
use crate::support::{Database, Directory, PATIENCE, Release, Site, delta_jars, postgres, python_program};

const READERS: &str = include_str!("readers.py");

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
    let read = |table: &str, readers: &[&str]| -> u64 {
        let directory = directory.path().join("archive").join(table);
        let arguments = [directory.to_str().unwrap()].into_iter().chain(readers.iter().copied());
        let program = python_program(READERS, arguments).variable("DELTA_JARS", &delta_jars());
        program.run(5 * PATIENCE).expect(0).stdout.trim().parse().unwrap()
    };
    let light = ["duckdb", "chdb", "polars", "daft"];
    for table in ["changes/public/persons", "changes/public/bag", "changes/public/days", "images/public/people"] {
        assert!(read(table, &light) > 0, "{table} has no rows");
    }
    // Columns were added, renamed, dropped, added again and widened under the first name.
    let everyone: Vec<&str> = light.into_iter().chain(["pyspark"]).collect();
    assert!(read("changes/public/people", &everyone) > 0);
}
