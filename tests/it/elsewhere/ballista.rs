//! Ballista: a scheduler and two executors, processes of their own, share the work on an archive in a bucket.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::{Known, change_jobs, compare, history, jobs, rows_of};
use crate::support::{
    Bucket, Database, Directory, Program, Release, Running, Site, postgres, s3, target_directory, wait_for,
};

const EXECUTORS: usize = 2;

/// Stops when it is dropped.
struct Cluster {
    port: String,
    _scheduler: Running,
    executors: Vec<Running>,
}

impl Cluster {
    fn start(directory: &Directory, bucket: &Bucket) -> Cluster {
        let (port, executors) = (free_port(), EXECUTORS.to_string());
        let start = |arguments: &[&str]| {
            let program = Program::new(&cluster_program()).arguments(arguments.iter().copied());
            bucket.variables().into_iter().fold(program, |program, (name, value)| program.variable(name, value)).start()
        };
        let scheduler = start(&["scheduler", &port, &executors]);
        let executor = |number: usize| {
            let work = directory.join(&format!("executor{number}"));
            start(&["executor", &port, &free_port(), &free_port(), work.to_str().unwrap()])
        };
        let executors: Vec<Running> = (0..EXECUTORS).map(executor).collect();
        let cluster = Cluster { port, _scheduler: scheduler, executors };
        wait_for("the scheduler has its executors", Duration::from_secs(60), || cluster.is_ready());
        cluster
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(format!("127.0.0.1:{}", self.port)) else { return false };
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// What each executor says of its tasks.
    fn told(&self) -> Vec<String> {
        self.executors.iter().map(Running::stderr).collect()
    }
}

fn cluster_program() -> PathBuf {
    let path = target_directory().join("peer/ballista-cluster");
    assert!(path.exists(), "there is no {}; run tests/install test", path.display());
    path
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_gives_the_rows_and_changes_of_an_archive_in_a_bucket() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    let bucket = s3().bucket();
    let site = Site::bucket(&database, &bucket);
    let points = history(&site, &directory).await;
    let cluster = Cluster::start(&directory, &bucket);
    let program = cluster_program();
    let variables: Vec<(&str, &str)> = bucket
        .variables()
        .into_iter()
        .chain([("BALLISTA", program.to_str().unwrap()), ("BALLISTA_SCHEDULER", cluster.port.as_str())])
        .collect();
    let last = &points[points.len() - 1..];
    assert_eq!(compare("ballista", &jobs(&site, last, "ballista"), &directory, &variables), rows_of(last));
    // Before the last changes of definitions, one table with a key and one without: each statement takes about a second.
    let earlier = &points[points.len() / 2];
    let tables = ["bag", "persons"].map(|table| (table.to_owned(), earlier.tables[table].clone()));
    let earlier = [Known { lsn: earlier.lsn.clone(), tables: tables.into_iter().collect() }];
    let compared = compare("ballista", &jobs(&site, &earlier, "ballista"), &directory, &variables);
    assert_eq!(compared, rows_of(&earlier));
    assert!(compare("ballista", &change_jobs(&site, "ballista"), &directory, &variables) > 20);
    for told in cluster.told() {
        assert!(told.contains("Execute task"), "an executor did nothing: {told}");
        assert!(told.contains("archive/changes/public/"), "an executor read no changes: {told}");
    }
}
