use super::*;

fn report(fields: &[(u8, &str)]) -> ServerReport {
    let mut body = Vec::new();
    for (kind, value) in fields {
        body.push(*kind);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    ServerReport::read(&body).unwrap()
}

#[test]
fn message_detail_and_hint_become_one_line() {
    let failure: Failure = report(&[
        (b'S', "FEHLER"),
        (b'V', "ERROR"),
        (b'C', "42501"),
        (b'M', "permission\ndenied"),
        (b'D', "only\tsome"),
        (b'H', "ask"),
    ])
    .into();
    assert_eq!(failure.cause(), "permission denied; DETAIL: only some; HINT: ask (SQLSTATE 42501)");
    assert_eq!(failure.category(), Category::Failed);
    assert!(failure.remedy_text().is_some());
}

#[test]
fn codes_have_their_categories() {
    let cases = [
        ("57P01", "", Category::Transient),
        ("57P03", "", Category::Transient),
        ("08006", "", Category::Transient),
        ("08P01", "", Category::Failed),
        ("53300", "", Category::Transient),
        ("28P01", "", Category::Failed),
        ("28000", "", Category::Failed),
        ("3D000", "", Category::Failed),
        ("42501", "InitPostgres", Category::Failed),
        ("55006", "ReplicationSlotAcquire", Category::Refused),
        ("55006", "CheckTableNotInUse", Category::Failed),
        ("58P01", "WalSndSegmentOpen", Category::Refused),
        ("55000", "CreateDecodingContext", Category::Refused),
        ("55000", "CheckLogicalDecodingRequirements", Category::Failed),
        ("23505", "", Category::Failed),
    ];
    for (code, routine, category) in cases {
        let failure: Failure = report(&[(b'C', code), (b'R', routine), (b'M', "m")]).into();
        assert_eq!(failure.category(), category, "{code} {routine}");
    }
}

#[test]
fn the_holder_of_a_slot_is_named_in_any_language() {
    for message in ["replication slot \"s_1\" is active for PID 4711", "„s_1“ ist für PID 4711 aktiv…"] {
        let failure: Failure = report(&[(b'C', "55006"), (b'R', "ReplicationSlotAcquire"), (b'M', message)]).into();
        assert!(failure.remedy_text().unwrap().contains("process 4711"), "{failure:?}");
    }
    assert_eq!(last_number("é12é"), Some("12"));
    assert_eq!(last_number("none"), None);
}

#[test]
fn a_report_cut_anywhere_is_refused() {
    let body = b"SERROR\0C57P01\0Mgone\0\0";
    for cut in 0..body.len() {
        assert_eq!(ServerReport::read(&body[..cut]), Err(Malformed), "cut at {cut}");
    }
}

#[test]
fn a_socket_file_that_is_away_may_come_back() {
    for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset] {
        assert!(diagnose_io(&io::Error::from(kind)).is_transient(), "{kind}");
    }
    assert!(!diagnose_io(&io::Error::from(io::ErrorKind::PermissionDenied)).is_transient());
}
