use super::*;
use crate::failure::Category;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as i32 + 4).to_be_bytes(), body].concat()
}

fn wal_data(start: u64, body: &[u8]) -> Vec<u8> {
    frame(b'd', &[&b"w"[..], &start.to_be_bytes(), &9u64.to_be_bytes(), &7i64.to_be_bytes(), body].concat())
}

fn keepalive(end: u64, reply: u8) -> Vec<u8> {
    frame(b'd', &[&b"k"[..], &end.to_be_bytes(), &7i64.to_be_bytes(), &[reply]].concat())
}

fn stream() -> (ReplicationStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ReplicationStream { wire: Wire::new(Transport::Unix(ours)), ended: false }, theirs)
}

#[tokio::test]
async fn events_are_the_same_wherever_the_bytes_are_cut() {
    let notice = frame(b'N', b"SWARNUNG\0VWARNING\0C55000\0Mskipped\0\0");
    let bytes = [wal_data(5, b"row"), keepalive(6, 1), notice, wal_data(0, b""), frame(b'c', b"")].concat();
    let expected = [
        StreamEvent::WalData { start: Lsn(5), end: Lsn(9), sent: 7, body: Bytes::from_static(b"row") },
        StreamEvent::Keepalive { end: Lsn(6), sent: 7, reply_requested: true },
        StreamEvent::Notice("WARNING: skipped (SQLSTATE 55000)".into()),
        StreamEvent::WalData { start: Lsn(0), end: Lsn(9), sent: 7, body: Bytes::new() },
    ];
    for cut in 0..=bytes.len() {
        let (mut stream, mut server) = stream();
        let (head, tail) = bytes.split_at(cut);
        server.write_all(head).await.unwrap();
        let mut seen = Vec::new();
        // The stream is polled and dropped between the two halves, as a select! does.
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, stream.next()).await {
            match event.unwrap() {
                Some(event) => seen.push(event),
                None => break,
            }
        }
        server.write_all(tail).await.unwrap();
        while let Some(event) = stream.next().await.unwrap() {
            seen.push(event);
        }
        assert_eq!(seen, expected, "cut at {cut}");
        assert_eq!(stream.next().await.unwrap(), None, "cut at {cut}");
    }
}

#[test]
fn copy_data_cut_anywhere_or_unknown_is_refused() {
    let whole = &keepalive(1, 0)[5..];
    for cut in 0..whole.len() {
        assert_eq!(stream_event(Bytes::copy_from_slice(&whole[..cut])), Err(Malformed), "cut at {cut}");
    }
    let header = &wal_data(1, b"")[5..];
    for cut in 0..header.len() {
        assert_eq!(stream_event(Bytes::copy_from_slice(&header[..cut])), Err(Malformed), "cut at {cut}");
    }
    assert_eq!(stream_event(Bytes::from_static(b"x")), Err(Malformed));
    assert_eq!(stream_event(Bytes::from([whole, b"!"].concat())), Err(Malformed));
}

#[tokio::test]
async fn an_error_in_the_stream_is_a_failure_of_its_kind() {
    let (mut stream, mut server) = stream();
    server.write_all(&frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0")).await.unwrap();
    let failure = stream.next().await.unwrap_err();
    assert_eq!((failure.category(), failure.cause()), (Category::Transient, "going down (SQLSTATE 57P01)"));
}

#[tokio::test]
async fn a_status_has_the_layout_that_the_manual_gives() {
    let (mut stream, mut server) = stream();
    stream.send_status(Lsn(3), Lsn(2), Lsn(1), true).await.unwrap();
    let mut sent = [0; 39];
    server.read_exact(&mut sent).await.unwrap();
    assert_eq!(sent[..6], [b'd', 0, 0, 0, 38, b'r']);
    assert_eq!(sent[6..30], [3u64.to_be_bytes(), 2u64.to_be_bytes(), 1u64.to_be_bytes()].concat());
    let microseconds = i64::from_be_bytes(sent[30..38].try_into().unwrap());
    assert!(microseconds > 800_000_000_000_000, "after 2025: {microseconds}");
    assert_eq!(sent[38], 1);
}

#[tokio::test]
async fn stopping_says_so_and_reads_on_until_the_server_is_ready() {
    let (stream, mut server) = stream();
    let answer = [wal_data(5, b"late"), frame(b'c', b""), frame(b'C', b"COPY 0\0"), frame(b'Z', b"I")].concat();
    server.write_all(&answer).await.unwrap();
    stream.stop().await.unwrap();
    let mut sent = Vec::new();
    server.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, [frame(b'c', b""), frame(b'X', b"")].concat());
}

#[test]
fn commands_follow_the_servers_version_and_quote_what_they_are_given() {
    assert_eq!(
        create_slot_command("s", true, true, 14),
        "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
    );
    assert_eq!(
        create_slot_command("s", false, false, 14),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"
    );
    assert_eq!(
        create_slot_command("s", false, true, 15),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'export')"
    );
    assert_eq!(
        create_slot_command("s", false, false, 18),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing')"
    );
    let options = [("proto_version", "1".to_owned()), ("publication_names", r#""it's \ one""#.to_owned())];
    assert_eq!(
        start_command("s\"x", Lsn(0x1_0000_0002), &options),
        r#"START_REPLICATION SLOT "s""x" LOGICAL 1/2 ("proto_version" '1', "publication_names" '"it''s \ one"')"#
    );
}

#[test]
fn futures_can_move_between_threads() {
    fn assert_send<T: Send>(_: T) {}
    let source = Source::resolve(Some("postgres://u@localhost/d")).unwrap();
    assert_send(ReplicationConnection::connect(&source));
    assert_send(source.connect("test"));
}
