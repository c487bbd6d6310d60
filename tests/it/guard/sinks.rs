//! Where alerts are told.

use std::net::TcpListener;
use std::time::Duration;

use base64::Engine as _;

use super::Watch;
use super::listener::{Listener, Secret};
use crate::support::{Release, wait_for};

const RULE: &str = "[[rule]]
name = \"mass\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 100
severity = \"CRITICAL\"
";

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

/// Passwords and webhooks' addresses are secrets: they go to nobody but the server that was meant.
#[tokio::test(flavor = "multi_thread")]
async fn mail_and_webhooks_go_over_tls_to_servers_that_are_trusted_only() {
    let (mail, hook) = (Listener::smtp_over(Secret::Trusted), Listener::http_over(Secret::Trusted));
    let (false_mail, false_hook) = (Listener::smtp_over(Secret::Untrusted), Listener::http_over(Secret::Untrusted));
    let sink = |name: &str, mail: u16, hook: u16| {
        format!(
            "[[sink]]\nname = \"{name}-mail\"\nkind = \"email\"\nurl = \"smtps://guard:o%2Ben%20sesame@localhost:{mail}\"
from = \"guard@example.org\"\nto = [\"dba@example.org\", \"cto@example.org\"]
[[sink]]\nname = \"{name}-hook\"\nkind = \"webhook\"\nurl = \"https://localhost:{hook}/secret\"\n"
        )
    };
    let sinks = [sink("right", mail.port, hook.port), sink("wrong", false_mail.port, false_hook.port)].concat();
    let watch = Watch::begin(Release::System, &format!("{RULE}{sinks}")).await;
    watch.database.run("DELETE FROM core_relationships WHERE id <= 150").await;
    let wait = |what: &str, is_so: &dyn Fn() -> bool| wait_for(what, Duration::from_secs(60), is_so);
    wait("mail is sent", &|| mail.heard().iter().any(|said| said.contains("Subject: [CRITICAL] mass:")));
    let said = mail.heard().concat();
    let login = said.lines().find_map(|line| line.strip_prefix("AUTH PLAIN ")).unwrap_or_else(|| panic!("{said}"));
    let login = base64::engine::general_purpose::STANDARD.decode(login).unwrap();
    assert_eq!(String::from_utf8(login).unwrap(), "\0guard\0o+en sesame");
    assert!(said.contains("RCPT TO:<dba@example.org>") && said.contains("RCPT TO:<cto@example.org>"), "{said}");
    wait("the webhook is told", &|| hook.heard().iter().any(|said| said.contains("\"rule\":\"mass\"")));
    for name in ["wrong-mail", "wrong-hook"] {
        let complaint = format!("the sink {name} does not take alert");
        wait(&complaint, &|| watch.archiver.stderr().contains(&complaint));
    }
    assert!(!watch.archiver.stderr().contains("secret"), "{}", watch.archiver.stderr());
    let leaked = [false_mail.heard(), false_hook.heard()].concat().concat();
    assert_eq!(leaked, "", "nothing is said to who is not who it should be");
}
