//! Incidents as they happen, while an archiver runs, and what the restore makes of them: rows, constraints, sequences and
//! triggers afterwards, on the oldest and the newest release at hand.

mod gone;
mod incident;
mod interruptions;
mod random;
mod selections;
mod undo;
mod wedge;

use std::future::Future;

use tokio_postgres::SimpleQueryMessage;

use crate::support::{Database, Directory, End, PATIENCE, Program, Release, Running, postgres};

/// Tells a story on each of the releases.
async fn on_both<F: Future<Output = ()>>(story: impl Fn(Release) -> F) {
    for release in [Release::System, Release::Eighteen] {
        story(release).await;
    }
}

/// A database with its archive and its archiver.
struct Scene {
    database: Database,
    directory: Directory,
    _archiver: Running,
}

impl Scene {
    /// A database in which this SQL has run, archived from then on.
    async fn begin(release: Release, sql: &str) -> Scene {
        let database = Database::create(postgres(release)).await;
        database.run(sql).await;
        let directory = Directory::new();
        let program = |arguments: &[&'static str]| {
            Program::afterimage(arguments.iter().copied()).source(&database).archive(&directory.archive())
        };
        program(&["init", "--set-identity-full"]).run(PATIENCE).expect(0);
        let archiver = program(&["run", "--flush-interval", "50ms"]).start().streaming();
        Scene { database, directory, _archiver: archiver }
    }

    /// Runs SQL in one transaction and gives its number.
    async fn transaction(&self, sql: &str) -> String {
        let client = self.database.connect().await;
        client.batch_execute("BEGIN").await.unwrap();
        let row = client.query_one("SELECT pg_current_xact_id()::xid::text", &[]).await.unwrap();
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        client.batch_execute("COMMIT").await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get(0)
    }

    /// Each row as one text, its columns with bars between them, in the order of the texts.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let messages = self.database.connect().await.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let fields = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL"));
                Some(fields.collect::<Vec<_>>().join("|"))
            }
            _ => None,
        });
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        rows
    }

    /// The one value of a query.
    async fn value(&self, sql: &str) -> String {
        self.rows(sql).await.concat()
    }

    /// What the table demands and does: constraints, indexes, triggers, each with its state.
    async fn rules(&self, table: &str) -> Vec<String> {
        let sql = format!(
            "SELECT conname, pg_get_constraintdef(oid), condeferrable, condeferred FROM pg_constraint
               WHERE '{table}'::regclass IN (conrelid, confrelid)
             UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, indisreplident FROM pg_index
               WHERE indrelid = '{table}'::regclass
             UNION ALL SELECT tgname, pg_get_triggerdef(oid) || tgenabled::text, false, false FROM pg_trigger
               WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
        );
        self.rows(&sql).await
    }

    #[track_caller]
    fn afterimage<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> End {
        let program = Program::afterimage(arguments).source(&self.database).archive(&self.directory.archive());
        program.variable("XDG_STATE_HOME", self.directory.path().to_str().unwrap()).run(PATIENCE)
    }

    #[track_caller]
    fn restore(&self, arguments: &[&str]) -> End {
        self.afterimage([&["restore"], arguments].concat())
    }
}

/// Requires that a text has all of these.
#[track_caller]
fn assert_has(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}
