//! The throw-away server: it starts, ends in every way, and leaves nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::scratch::{Launch, Scratch, StopMode};

use crate::support::{Program, Release, connect, own_postgres, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

async fn count(server: &Scratch) -> i64 {
    connect(&server.url("postgres")).await.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_rows_survive_every_end() {
    for release in Release::ALL {
        let mut server = Launch::new(release.installation()).start().unwrap();
        let (port, home) = (server.port(), server.socket_dir().to_owned());
        connect(&server.url("postgres"))
            .await
            .batch_execute("CREATE TABLE t (); INSERT INTO t DEFAULT VALUES")
            .await
            .unwrap();
        for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
            server.stop(mode).unwrap();
            assert!(!server.is_running());
            server.stop(mode).unwrap();
            server.start().unwrap();
            assert_eq!(count(&server).await, 1, "{mode:?}");
        }
        let idle = connect(&server.url("postgres")).await;
        server.kill().unwrap();
        assert!(!server.is_running());
        server.start().unwrap();
        assert_eq!(count(&server).await, 1, "killed");
        assert!(idle.batch_execute("SELECT").await.is_err());
        server.restart().unwrap();
        assert_eq!(server.port(), port);
        drop(server);
        assert!(!home.exists());
    }
}

#[tokio::test]
async fn tcp_asks_for_the_password() {
    let server = own_postgres(Release::System);
    let url = server.tcp_url("postgres").unwrap();
    connect(&url).await.batch_execute("SELECT").await.unwrap();
    let (user, rest) = url.split_once('@').unwrap();
    let wrong = format!("{}x@{rest}", user);
    assert!(tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err());

    let quiet = Launch::new(Release::System.installation()).without_tcp().start().unwrap();
    assert_eq!(quiet.tcp_url("postgres"), None);
    assert!(std::net::TcpStream::connect(("127.0.0.1", quiet.port())).is_err());
    connect(&quiet.url("postgres")).await.batch_execute("SELECT").await.unwrap();
}

#[test]
fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let parent = crate::support::Directory::new();
    let launch = Launch::new(Release::System.installation()).within(parent.path()).set("max_wal_senders", "many");
    let failure = launch.start().unwrap_err();
    assert!(failure.cause().contains("max_wal_senders"), "{failure}");
    assert!(failure.remedy_text().is_some());
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_can_be_kept() {
    let mut server = own_postgres(Release::System);
    let home = server.keep().unwrap().to_owned();
    drop(server);
    assert!(home.join("data/PG_VERSION").exists());
    assert!(!home.join("data/postmaster.pid").exists());
    std::fs::remove_dir_all(home).unwrap();
}

/// `kill -9` lets nobody clean up; the server has to go by itself.
#[test]
fn a_server_does_not_outlive_its_owner() {
    let owner = Program::new(&std::env::current_exe().unwrap())
        .arguments(["--exact", "scratch::owner_of_a_server", "--ignored", "--nocapture"])
        .start();
    let home =
        |stdout: String| stdout.lines().find_map(|line| line.split_once("home=")).map(|(_, home)| PathBuf::from(home));
    wait_for("the owner has started its server", PATIENCE, || home(owner.stdout()).is_some());
    let home = home(owner.stdout()).unwrap();
    let pid = std::fs::read_to_string(home.join("data/postmaster.pid")).unwrap().lines().next().unwrap().to_owned();
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());
    owner.kill();
    wait_for("the server has gone", PATIENCE, || !process.exists());
    wait_for("its directory has gone", PATIENCE, || !home.exists());
}

#[test]
#[ignore = "not a test: the process that a_server_does_not_outlive_its_owner kills"]
fn owner_of_a_server() {
    let server = own_postgres(Release::System);
    println!("home={}", server.socket_dir().display());
    std::thread::sleep(PATIENCE);
}
