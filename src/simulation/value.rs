//! Values of the simulated source, as PostgreSQL writes them in text and in binary.

use chrono::DateTime;
use rand::Rng as _;
use rand::rngs::StdRng;

/// A value; `None` for NULL.
pub(super) type Value = Option<String>;

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// From how many bytes on a text is TOASTed: an update that does not change it leaves it out.
const TOASTED: usize = 60;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int4,
    Int8,
    Text,
    Boolean,
    Uuid,
    Timestamp,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] = [Kind::Int4, Kind::Int8, Kind::Text, Kind::Boolean, Kind::Uuid, Kind::Timestamp];

    pub(super) fn oid(self) -> u32 {
        match self {
            Kind::Int4 => 23,
            Kind::Int8 => 20,
            Kind::Text => 25,
            Kind::Boolean => 16,
            Kind::Uuid => 2950,
            Kind::Timestamp => 1184,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Int4 => "integer",
            Kind::Int8 => "bigint",
            Kind::Text => "text",
            Kind::Boolean => "boolean",
            Kind::Uuid => "uuid",
            Kind::Timestamp => "timestamp with time zone",
        }
    }

    /// The name for the number that `format_type` is asked about.
    pub(super) fn name_of(oid: u32) -> &'static str {
        Kind::ALL.into_iter().find(|kind| kind.oid() == oid).map_or("???", Kind::name)
    }

    pub(super) fn any(self, dice: &mut StdRng) -> Value {
        if dice.random_ratio(1, 8) {
            return None;
        }
        Some(match self {
            Kind::Int4 => dice.random::<i32>().to_string(),
            Kind::Int8 => dice.random::<i64>().to_string(),
            Kind::Text => text(dice),
            Kind::Boolean => if dice.random() { "t" } else { "f" }.to_owned(),
            Kind::Uuid => uuid::Builder::from_random_bytes(dice.random()).into_uuid().to_string(),
            Kind::Timestamp => timestamp(dice),
        })
    }

    /// As the binary protocol and COPY have it.
    pub(super) fn binary(self, text: &str) -> Vec<u8> {
        match self {
            Kind::Int4 => text.parse::<i32>().unwrap().to_be_bytes().to_vec(),
            Kind::Int8 => text.parse::<i64>().unwrap().to_be_bytes().to_vec(),
            Kind::Text => text.as_bytes().to_vec(),
            Kind::Boolean => vec![u8::from(text == "t")],
            Kind::Uuid => uuid::Uuid::parse_str(text).unwrap().as_bytes().to_vec(),
            Kind::Timestamp => micros_of(text).to_be_bytes().to_vec(),
        }
    }

    pub(super) fn is_toasted(self, value: &Value) -> bool {
        self == Kind::Text && value.as_ref().is_some_and(|text| text.len() >= TOASTED)
    }
}

fn text(dice: &mut StdRng) -> String {
    let length = if dice.random_ratio(1, 3) { dice.random_range(TOASTED..300) } else { dice.random_range(0..20) };
    let letters = ['a', 'b', 'c', ' ', '\t', '\n', '\\', '"', '\'', ',', 'é', '雪', '🦀', 'N', '\u{1}'];
    let mut text = String::new();
    while text.len() < length {
        text.push(letters[dice.random_range(0..letters.len())]);
    }
    text
}

fn timestamp(dice: &mut StdRng) -> String {
    match dice.random_range(0..6) {
        0 => "infinity".to_owned(),
        1 => "-infinity".to_owned(),
        _ => {
            let seconds: i64 = dice.random_range(0..4_000_000_000);
            let fraction = [0, 500_000, 123_456][dice.random_range(0..3)];
            shown(seconds * 1_000_000 + fraction)
        }
    }
}

/// A time of so many microseconds since 1970 as `timestamptz` with TimeZone UTC.
fn shown(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap();
    let fraction = match micros.rem_euclid(1_000_000) {
        0 => String::new(),
        fraction => format!(".{fraction:06}").trim_end_matches('0').to_owned(),
    };
    format!("{}{fraction}+00", time.format("%Y-%m-%d %H:%M:%S"))
}

fn micros_of(text: &str) -> i64 {
    match text {
        "infinity" => i64::MAX,
        "-infinity" => i64::MIN,
        _ => {
            let time = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap();
            time.timestamp_micros() - POSTGRES_EPOCH
        }
    }
}
