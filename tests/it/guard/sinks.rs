//! Where alerts are told.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Watch;
use crate::support::{Release, wait_for};

const RULE: &str = "[[rule]]
name = \"mass\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 100
severity = \"CRITICAL\"
";

/// Somebody who listens for HTTP, or for mail, and keeps what is said.
struct Listener {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Answers the first so many requests with an error.
    fn http(refused: usize) -> Listener {
        Listener::start(move |stream, count| {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let length = text
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next().and_then(|line| line.trim().parse::<usize>().ok()));
                let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
                if read == 0 || length.is_some_and(|length| body >= length) {
                    let status = if count < refused { "503 Service Unavailable" } else { "200 OK" };
                    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    return text;
                }
            }
        })
    }

    /// As much of a mail server as a client needs.
    fn smtp() -> Listener {
        Listener::start(|stream, _| {
            let mut said = String::new();
            let mut in_data = false;
            let _ = write!(stream, "220 test\r\n");
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while std::io::BufRead::read_line(&mut reader, &mut line).unwrap_or(0) > 0 {
                said.push_str(&line);
                let word = line.trim_end().to_owned();
                line.clear();
                let answer = match (in_data, word.get(..4).unwrap_or(word.as_str())) {
                    (true, _) if word == "." => {
                        in_data = false;
                        "250 taken"
                    }
                    (true, _) => continue,
                    (false, "DATA") => {
                        in_data = true;
                        "354 go on"
                    }
                    (false, "QUIT") => {
                        let _ = write!(stream, "221 bye\r\n");
                        return said;
                    }
                    _ => "250 fine",
                };
                let _ = write!(stream, "{answer}\r\n");
                if answer == "250 taken" {
                    return said;
                }
            }
            said
        })
    }

    fn start(serve: impl Fn(&mut std::net::TcpStream, usize) -> String + Send + 'static) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&heard);
        std::thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let said = serve(&mut stream.unwrap(), count);
                kept.lock().unwrap().push(said);
            }
        });
        Listener { port, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// A port that nobody listens on.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sink_is_told_and_a_dead_one_holds_nobody_up() {
    let (slack, manager, mail) = (Listener::http(1), Listener::http(0), Listener::smtp());
    let told = crate::support::Directory::new();
    let file = told.join("told.json");
    let configuration = format!(
        "{RULE}
[[sink]]\nname = \"dead\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/\"
[[sink]]\nname = \"chat\"\nkind = \"slack\"\nurl = \"http://127.0.0.1:{}/hook\"
[[sink]]\nname = \"manager\"\nkind = \"alertmanager\"\nurl = \"http://127.0.0.1:{}/api/v2/alerts\"
[[sink]]\nname = \"mail\"\nkind = \"email\"\nurl = \"smtp://127.0.0.1:{}\"\nfrom = \"guard@example.org\"\nto = [\"dba@example.org\"]
[[sink]]\nname = \"program\"\nkind = \"exec\"\ncommand = [\"sh\", \"-c\", \"cat >>{}\"]
[[sink]]\nname = \"plan\"\nkind = \"table\"\ntable = \"critical_system_alerts\"
[[sink]]\nname = \"milder\"\nkind = \"stdout\"\nseverity = \"EMERGENCY\"
[[sink]]\nname = \"out\"\nkind = \"stdout\"\n",
        dead_port(),
        slack.port,
        manager.port,
        mail.port,
        file.display()
    );
    let watch = Watch::begin(Release::System, &configuration).await;
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM core_relationships WHERE id <= 150").await.unwrap();
    let alert = watch.alert_of("mass");
    let id = alert["id"].as_str().unwrap();
    let wait = |what: &str, is_so: &dyn Fn() -> bool| wait_for(what, Duration::from_secs(30), is_so);
    wait("Slack is told after it refused once", &|| slack.heard().len() >= 2);
    assert!(slack.heard()[1].contains("POST /hook") && slack.heard()[1].contains("\"text\":\"[CRITICAL] mass:"));
    wait("Alertmanager is told", &|| {
        manager.heard().iter().any(|said| said.contains("\"alertname\":\"afterimage_guard\""))
    });
    wait("mail is sent", &|| {
        mail.heard()
            .iter()
            .any(|said| said.contains("Subject: [CRITICAL] mass:") && said.contains("RCPT TO:<dba@example.org>"))
    });
    wait("the program is told", &|| std::fs::read_to_string(&file).is_ok_and(|text| text.contains(id)));
    wait("standard output has it once", &|| watch.archiver.stdout().matches(id).count() == 1);
    let sql = "SELECT alert_type, severity, metadata->>'id' FROM critical_system_alerts";
    let mut row = None;
    for _ in 0..100 {
        row = client.query_opt(sql, &[]).await.unwrap();
        if row.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let row = row.expect("the plan's table has the alert");
    let of = |at: usize| row.get::<_, String>(at);
    assert_eq!((of(0), of(1), of(2)), ("mass".to_owned(), "CRITICAL".to_owned(), id.to_owned()));
    assert!(watch.archiver.stderr().contains("the sink dead does not take alert"), "{}", watch.archiver.stderr());
    // The archive went on meanwhile.
    watch.afterimage(&["mark", "after-all-that"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_acknowledges_is_told_again_and_too_many_are_held_back() {
    let (all, pager) = (Listener::http(0), Listener::http(0));
    let configuration = format!(
        "{RULE}
[guard]\nescalate_after = \"2s\"\nalerts_per_hour = 1
[[sink]]\nname = \"all\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/\"
[[sink]]\nname = \"pager\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/\"\nescalation_only = true\n",
        all.port, pager.port
    );
    let watch = Watch::begin(Release::System, &configuration).await;
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM core_relationships WHERE id <= 150").await.unwrap();
    client.batch_execute("DELETE FROM core_relationships WHERE id <= 300").await.unwrap();
    watch.event_of("mass", "escalated");
    wait_for("the pager is told", Duration::from_secs(30), || {
        pager.heard().iter().any(|said| said.contains("\"event\":\"escalated\""))
    });
    assert!(pager.heard().iter().all(|said| !said.contains("\"event\":\"raised\"")));
    wait_for("both are in the archive", Duration::from_secs(30), || watch.alerts().len() == 2);
    let raised = all.heard().iter().filter(|said| said.contains("\"event\":\"raised\"")).count();
    assert_eq!(raised, 1, "the second one was held back");
}
