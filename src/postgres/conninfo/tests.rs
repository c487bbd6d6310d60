use super::*;
use crate::failure::Category;

fn parsed(text: &str) -> Vec<(&'static str, String)> {
    parse(text).unwrap().into_iter().collect()
}

fn pairs(list: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    list.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    let cases: &[(&str, &[(&'static str, &str)])] = &[
        ("postgres://", &[]),
        ("postgresql://localhost", &[("host", "localhost")]),
        (
            "postgres://u:p%40%2F@h:1/d",
            &[("dbname", "d"), ("host", "h"), ("password", "p@/"), ("port", "1"), ("user", "u")],
        ),
        ("postgres://u:@h", &[("host", "h"), ("user", "u")]),
        ("postgres:///d?host=/tmp&port=7", &[("dbname", "d"), ("host", "/tmp"), ("port", "7")]),
        ("postgres://%2Fvar%2Frun/d", &[("dbname", "d"), ("host", "/var/run")]),
        ("postgres://[::1]:5/d", &[("dbname", "d"), ("host", "::1"), ("port", "5")]),
        ("postgres://a,b:6,[::2]", &[("host", "a,b,::2"), ("port", ",6,")]),
        ("postgres://h?ssl=true", &[("host", "h"), ("sslmode", "require")]),
        ("postgres://h?sslmode=verify-ca&keepalives=1", &[("host", "h"), ("sslmode", "verify-ca")]),
        ("postgres://u:a?b@h", &[("host", "h"), ("password", "a?b"), ("user", "u")]),
    ];
    for (text, expected) in cases {
        assert_eq!(parsed(text), pairs(expected), "{text}");
    }
}

#[test]
fn pairs_are_read_as_libpq_reads_them() {
    let text = r"host = localhost  port=5433 password='it\'s a \\ secret' user=a\ b dbname=''";
    let expected =
        [("dbname", ""), ("host", "localhost"), ("password", r"it's a \ secret"), ("port", "5433"), ("user", "a b")];
    assert_eq!(parsed(text), pairs(&expected));
    assert_eq!(parsed("  "), pairs(&[]));
}

#[test]
fn what_is_wrong_is_refused_without_repeating_a_secret() {
    let cases = [
        "postgres://u:hush/hush@h/d",
        "postgres://u:hush@hush@h/d",
        "postgres://u:50%hush@h",
        "postgres://u:hush%00@h",
        "postgres://u:hush@[::1/d",
        "postgres://u:hush@h?oops",
        "postgres://u:hush@h?pool_timeout=1",
        "password=hush hush host=h",
        "password='hush",
        "password=hush hush",
        "mysql://u:hush@h/d",
        "hush",
    ];
    for text in cases {
        let failure = parse(text).unwrap_err();
        assert_eq!(failure.category(), Category::Usage, "{text}");
        assert!(!format!("{failure:?}").contains("hush"), "{failure:?}");
    }
}

#[test]
fn encoding_is_undone_by_decoding() {
    for text in ["plain", "a b/c@d:e?f%g", "grün"] {
        assert_eq!(decode(&encode(text)).unwrap(), text);
    }
}
