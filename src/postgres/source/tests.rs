use super::*;
use crate::failure::Category;

fn resolve_with(url: Option<&str>, environment: &[(&str, &str)]) -> Result<Source> {
    let variable = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Source::resolve_in(url, &Surroundings { variable: &variable, user: &|| Some("worker".to_owned()) })
}

fn resolve(url: &str) -> Result<Source> {
    resolve_with(Some(url), &[])
}

fn network(name: &str, port: u16) -> Host {
    Host { place: Place::Network { lookup: name.into(), name: name.into() }, port }
}

fn directory(path: &str, port: u16) -> Host {
    Host { place: Place::Directory(path.into()), port }
}

#[test]
fn nothing_given_means_the_local_socket_and_the_users_own_database() {
    let source = resolve_with(None, &[]).unwrap();
    assert_eq!(source.hosts, [directory("/var/run/postgresql", 5432), directory("/tmp", 5432)]);
    assert_eq!((source.user(), source.database()), ("worker", "worker"));
    assert_eq!(source.tls.mode, Mode::Prefer);
    assert_eq!(source.connect_timeout, Some(Duration::from_secs(10)));
}

#[test]
fn the_environment_fills_what_the_address_leaves_open() {
    let environment = [
        ("PGHOST", "elsewhere"),
        ("PGPORT", "6000"),
        ("PGUSER", "u"),
        ("PGPASSWORD", "p"),
        ("PGDATABASE", ""),
        ("PGSSLMODE", "require"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGAPPNAME", "app"),
    ];
    let source = resolve_with(Some("postgres://here/"), &environment).unwrap();
    assert_eq!(source.hosts, [network("here", 6000)]);
    assert_eq!((source.user(), source.database()), ("u", "u"));
    assert_eq!(source.password(&source.hosts[0]).unwrap().expose(), b"p");
    assert_eq!(source.tls.mode, Mode::Require);
    assert_eq!(source.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(source.application_name.as_deref(), Some("app"));
}

#[test]
fn several_hosts_have_their_ports() {
    assert_eq!(
        resolve("postgres://a:1,b,[::1]:3/d").unwrap().hosts,
        [network("a", 1), network("b", 5432), network("::1", 3)]
    );
    assert_eq!(resolve("host=a,/s port=7").unwrap().hosts, [network("a", 7), directory("/s", 7)]);
    let by_address = resolve("host=a hostaddr=10.0.0.1").unwrap().hosts;
    assert_eq!(by_address[0].place, Place::Network { lookup: "10.0.0.1".into(), name: "a".into() });
    for text in ["host=a,b,c port=1,2", "host=a,b hostaddr=10.0.0.1", "port=0", "port=65536", "port=x"] {
        assert_eq!(resolve(text).unwrap_err().category(), Category::Usage, "{text}");
    }
}

#[test]
fn every_sslmode_is_known_and_nothing_else() {
    for mode in Mode::ALL {
        assert_eq!(resolve(&format!("sslmode={}", mode.as_str())).unwrap().tls.mode, mode);
    }
    assert!(resolve("sslmode=verify").is_err());
    assert_eq!(resolve("sslrootcert=system").unwrap().tls.mode, Mode::VerifyFull);
    assert!(resolve("sslrootcert=system sslmode=require").is_err());
    assert!(resolve("sslnegotiation=direct sslmode=prefer").is_err());
    assert!(resolve("sslnegotiation=direct sslmode=require").unwrap().tls.direct);
}

#[test]
fn a_timeout_of_zero_waits_for_ever() {
    assert_eq!(resolve("connect_timeout=0").unwrap().connect_timeout, None);
    assert_eq!(resolve("connect_timeout=-1").unwrap().connect_timeout, None);
    assert!(resolve("connect_timeout=soon").is_err());
}

#[test]
fn nothing_shows_the_password() {
    for text in ["postgres://u:hush@h:1,[::1]:2/d?options=-c%20x=hush", "host=/s password=hush options='-c x=hush'"] {
        let source = resolve(text).unwrap();
        for shown in [
            format!("{source}"),
            format!("{source:?}"),
            format!("{:?}", source.password(&source.hosts[0])),
            source.redacted(),
        ] {
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}

#[test]
fn the_redacted_address_leads_to_the_same_place() {
    for text in ["postgres://u:p@h:1,[::1]:2/my%2Fdb?sslmode=verify-full", "host=/s,h port=1,2 user='a b' dbname=d", ""]
    {
        let source = resolve(text).unwrap();
        let again = resolve(&source.redacted()).unwrap();
        assert_eq!(again.hosts, source.hosts, "{source}");
        assert_eq!((again.user(), again.database()), (source.user(), source.database()), "{source}");
    }
}

#[test]
fn another_database_keeps_everything_else() {
    let source = resolve("postgres://u:p@h/d").unwrap().with_database("other");
    assert_eq!(source.to_string(), "postgres://u@h:5432/other?sslmode=prefer");
    assert!(source.password(&source.hosts[0]).is_some());
}

#[test]
fn settings_reach_the_start_up_options_before_the_pinned_ones() {
    let options =
        resolve("options='-c work_mem=1MB'").unwrap().with_setting("wal_sender_timeout", "30 s").startup_options();
    assert!(options.starts_with(r"-c work_mem=1MB -c wal_sender_timeout=30\ s -c client_encoding=UTF8"), "{options}");
}

#[cfg(unix)]
#[test]
fn the_password_file_is_asked_for_the_host_and_database_at_hand() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("afterimage-source-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, "localhost:5432:d:u:by socket\nh:1:d:u:by name\nh:1:e:u:other database\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let passfile = path.to_str().unwrap();
    let password = |source: &Source| source.password(&source.hosts[0]).map(|secret| secret.0);

    let named = resolve(&format!("host=h port=1 user=u dbname=d passfile={passfile}")).unwrap();
    assert_eq!(password(&named).as_deref(), Some("by name"));
    assert_eq!(password(&named.with_database("e")).as_deref(), Some("other database"));
    assert_eq!(password(&named.with_database("f")), None);
    let local = resolve_with(Some("user=u dbname=d"), &[("PGPASSFILE", passfile)]).unwrap();
    assert_eq!(password(&local).as_deref(), Some("by socket"));
    let given = resolve(&format!("host=h port=1 user=u dbname=d password=given passfile={passfile}")).unwrap();
    assert_eq!(password(&given).as_deref(), Some("given"));
    std::fs::remove_file(&path).unwrap();
}
