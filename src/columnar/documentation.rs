//! Renders `docs/types.md`, so that it cannot differ from the code.

use std::fmt::Write as _;

use super::Storage;
use super::built_in::{self, BuiltIn};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/types.md");

const HEAD: &str = "\
# How each PostgreSQL type is stored

This page is written from the code by its test `the_published_types_are_the_codes`; do not edit it.

PostgreSQL's text of a value is the truth. A typed column holds a value only where its text comes back from it byte for
byte. Any other value is NULL in its column, and its text is in the map `_exact` of the same row under the column's
stored name; that of an old row is in `_old._exact`. A NULL in a column is therefore NULL in the source only where
`_exact` does not name the column. The texts are those of a session with the settings in
[the archive's format](ARCHIVE.md#types).

| PostgreSQL | stored as | in `_exact` instead |
|---|---|---|
";

const TAIL: &str = "
## Arrays

An array of any type above is a list, with its elements stored as a column of the element type has its values. Lists
know neither dimensions nor bounds, so these are in `_exact`: arrays of several dimensions, arrays whose lower bound is
not 1, and arrays with an element that would be in `_exact` itself. An empty array is an empty list, a NULL element a
NULL. `oidvector` and `int2vector` are no arrays here: their text has no braces.

## Types that are made

| type | stored as |
|---|---|
| domain | the type at its bottom, with that type's modifier; an array of a domain: string |
| enum, composite, row type of a table, range and multirange of one's own, and every array of one | string |
| a type of an extension (`hstore`, `citext`, `ltree`, `cube`, `vector`, …), and every array of one | string |

Their oids differ from database to database, and so do their definitions over time. The text is what their output
function writes, and casts back in the source: `note::hstore`.

## Why so many strings

A type is typed where Arrow, Parquet and Delta all have it, and where a number or a date says all that the text says.

| type | why it is a string |
|---|---|
| `numeric` without precision | each value has a scale of its own, which a decimal column would lose: `1.0`, `1.00` |
| `time`, `time with time zone`, `interval` | Delta has none of them |
| `uuid` | Delta has none, and readers compare strings more easily than 16 bytes |
| `json`, `jsonb` | `json` keeps blanks and the order of keys; `jsonb` keeps numbers of any size |
| `xid`, `xid8`, `pg_lsn`, `tid` | they are compared in ways of their own, or do not fit a signed number |
| `money` | its text depends on the locale: here on `lc_monetary` C |
| `regclass` and its kin | their text is the name; `oid` is a number |
";

#[test]
fn the_published_types_are_the_codes() {
    if std::env::var_os("AFTERIMAGE_BLESS").is_some() {
        std::fs::write(PATH, page()).unwrap();
    }
    let published = std::fs::read_to_string(PATH).unwrap();
    assert_eq!(published, page(), "write it anew by running this test with AFTERIMAGE_BLESS=1");
}

fn page() -> String {
    let mut rows: Vec<(Storage, Vec<String>)> = Vec::new();
    let numeric = (Storage::of(built_in::NUMERIC, MODIFIER_10_2), "`numeric(p,s)`, p ≤ 38, 0 ≤ s ≤ p".to_owned());
    let plain = built_in::TYPES.iter().map(|known| (Storage::of(known.oid, -1), name(known)));
    for (storage, name) in plain.chain([numeric]) {
        match rows.iter_mut().find(|(other, _)| *other == storage) {
            Some((_, names)) => names.push(name),
            None => rows.push((storage, vec![name])),
        }
    }
    // What is not typed is the long row, and the rest of them all.
    rows.sort_by_key(|(storage, _)| *storage == Storage::Text);
    let mut page = HEAD.to_owned();
    for (storage, names) in rows {
        let (stored, outside) = describe(&storage);
        writeln!(page, "| {} | {stored} | {outside} |", names.join(", ")).unwrap();
    }
    page + TAIL
}

/// That of `numeric(10,2)`.
const MODIFIER_10_2: i32 = ((10 << 16) | 2) + 4;

fn name(known: &BuiltIn) -> String {
    match known.oid {
        built_in::NUMERIC => "any other `numeric`".to_owned(),
        _ => format!("`{}`", known.name),
    }
}

/// What a column is, in Delta's words, and which values it cannot hold.
fn describe(storage: &Storage) -> (&'static str, &'static str) {
    const YEARS: &str = "`infinity`, `-infinity`, years outside 0001 to 9999";
    match storage {
        Storage::Boolean => ("boolean", ""),
        Storage::Int16 => ("short (int16)", ""),
        Storage::Int32 => ("integer (int32)", ""),
        Storage::Int64 => ("long (int64)", ""),
        Storage::Float32 => ("float", ""),
        Storage::Float64 => ("double", ""),
        Storage::Decimal { .. } => ("decimal(p,s)", "`NaN`"),
        Storage::Date => ("date", YEARS),
        Storage::Timestamp => ("timestamp without zone, microseconds", YEARS),
        Storage::TimestampTz => ("timestamp UTC, microseconds", YEARS),
        Storage::Binary => ("binary", ""),
        Storage::Text => ("string", "text that is not UTF-8, which only a database in `SQL_ASCII` has"),
        Storage::List { .. } => unreachable!("no built-in type but an array is a list"),
    }
}

/// The page would otherwise promise what the code does not do.
#[test]
fn every_array_is_a_list_of_its_elements_storage() {
    for known in built_in::TYPES {
        let Storage::List { element, .. } = Storage::of(known.array, -1) else { panic!("{} has no list", known.name) };
        assert_eq!(*element, Storage::of(known.oid, -1), "{}", known.name);
    }
}
