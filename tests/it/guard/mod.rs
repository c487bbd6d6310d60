//! The guard, as whoever runs the built program meets it: alerts before the commit and after, what is stopped, and where
//! alerts are told. Tests of the protection plan's mechanisms carry their names.

mod alerts;
mod check;
mod doctor;
mod flights;
mod gate;
mod health;
mod incidents;
mod listener;
mod packs;
mod probes;
mod recipes;
mod sinks;
mod thresholds;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{
    CERTIFICATE, Database, Directory, End, PATIENCE, Program, Release, Running, own_postgres, wait_for,
};

/// What of the ERP the guard's tests need: relationships of users to organizations, and others.
const ERP: &str = "
CREATE TABLE core_relationships (id int PRIMARY KEY, organization_id int NOT NULL, from_entity_id text NOT NULL,
    relationship_type text NOT NULL, relationship_data jsonb);
INSERT INTO core_relationships SELECT g, g % 7, 'user ' || g / 2, CASE WHEN g % 100 < 2 THEN 'USER_MEMBER_OF_ORG'
    ELSE 'HAS_STATUS' END, jsonb_build_object('n', g) FROM generate_series(1, 20000) g;
CREATE TABLE critical_system_alerts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), alert_type text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL', 'EMERGENCY')), message text NOT NULL,
    metadata jsonb DEFAULT '{}', created_at timestamptz DEFAULT now(), acknowledged_at timestamptz, acknowledged_by text);
ANALYZE";

/// A guarded database on a server of its own, since transactions stay open here.
struct Watch {
    // Dropped in this order.
    archiver: Running,
    database: Database,
    _server: afterimage::scratch::Scratch,
    directory: Directory,
}

impl Watch {
    /// The ERP, guarded by this configuration.
    async fn begin(release: Release, configuration: &str) -> Watch {
        Watch::over(release, ERP, configuration).await
    }

    async fn over(release: Release, sql: &str, configuration: &str) -> Watch {
        let server = own_postgres(release);
        let database = Database::create(&server).await;
        database.run(sql).await;
        let directory = Directory::new();
        fs::write(directory.join("afterimage.toml"), configuration).unwrap();
        fs::write(directory.join("trusted.pem"), CERTIFICATE).unwrap();
        let program = |arguments: &[&'static str]| program(&database, &directory, arguments);
        program(&["init"]).run(PATIENCE).expect(0);
        let archiver = program(&["run", "--flush-interval", "50ms", "--http", "127.0.0.1:0"]).start().streaming();
        Watch { archiver, database, _server: server, directory }
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("afterimage.toml")
    }

    #[track_caller]
    fn afterimage(&self, arguments: &[&str]) -> End {
        program(&self.database, &self.directory, arguments).run(PATIENCE)
    }

    /// Every alert with its events, newest first.
    #[track_caller]
    fn alerts(&self) -> Vec<Json> {
        let end = self.afterimage(&["guard", "alerts", "--all", "--json"]);
        assert!(matches!(end.code, Some(0 | 3)), "{}{}", end.stdout, end.stderr);
        serde_json::from_str(&end.stdout).unwrap()
    }

    /// Waits for the alerts of a rule.
    #[track_caller]
    fn alert_of(&self, rule: &str) -> Json {
        let mut found = None;
        wait_for(&format!("an alert of {rule}"), Duration::from_secs(60), || {
            found = self.alerts().into_iter().find(|alert| alert["rule"] == rule);
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits for another one than that.
    #[track_caller]
    fn alert_of_another(&self, rule: &str, known: &Json) -> Json {
        let mut found = None;
        wait_for(&format!("another alert of {rule}"), Duration::from_secs(60), || {
            found = self.alerts().into_iter().find(|alert| alert["rule"] == rule && alert["id"] != known["id"]);
            found.is_some()
        });
        found.unwrap()
    }

    #[track_caller]
    fn event_of(&self, rule: &str, event: &str) -> Json {
        let mut found = None;
        wait_for(&format!("{rule} is {event}"), Duration::from_secs(60), || {
            let alerts = self.alerts();
            let events = alerts
                .iter()
                .filter(|alert| alert["rule"] == rule)
                .flat_map(|alert| alert["events"].as_array().cloned().unwrap_or_default());
            found = events.into_iter().find(|one| one["event"] == event);
            found.is_some()
        });
        found.unwrap()
    }

    async fn count(&self, sql: &str) -> i64 {
        self.database.connect().await.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await.unwrap().get(0)
    }

    /// Waits until everything that has happened so far is judged.
    async fn settle(&self) {
        let name = format!("settled-{}", uuid::Uuid::new_v4());
        self.afterimage(&["mark", &name]).expect(0);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
}

fn program(database: &Database, directory: &Directory, arguments: &[&str]) -> Program {
    let configuration = directory.join("afterimage.toml");
    let program = Program::afterimage(arguments.iter().copied()).source(database).archive(&directory.archive());
    let trusted = directory.join("trusted.pem");
    let program = program.variable("SSL_CERT_FILE", trusted.to_str().unwrap());
    program.variable("AFTERIMAGE_CONFIG", configuration.to_str().unwrap())
}
