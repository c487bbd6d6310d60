//! A value for every corner of every type. One that starts with `=` is an expression, any other the value's text.

/// The type, with its modifier, and its values.
pub(super) type Literals = (&'static str, &'static [&'static str]);

/// Of the types that every server has.
pub(super) const BUILT_IN: &[Literals] = &[
    ("boolean", &["t", "f"]),
    ("smallint", &["0", "-1", "32767", "-32768"]),
    ("integer", &["0", "-1", "2147483647", "-2147483648"]),
    ("bigint", &["0", "-1", "9223372036854775807", "-9223372036854775808"]),
    (
        "real",
        &[
            "0",
            "-0",
            "1e-45",
            "1.1754944e-38",
            "3.4028235e38",
            "-3.4028235e38",
            "NaN",
            "Infinity",
            "-Infinity",
            "0.1",
            "1e6",
            "999999.94",
            "16777217",
            "8.5e9",
        ],
    ),
    (
        "double precision",
        &[
            "0",
            "-0",
            "5e-324",
            "2.2250738585072011e-308",
            "2.2250738585072014e-308",
            "1.7976931348623157e308",
            "NaN",
            "Infinity",
            "-Infinity",
            "0.1",
            "1e15",
            "999999999999999.9",
            "9007199254740993",
            "1e22",
            "1e23",
        ],
    ),
    (
        "numeric",
        &[
            "0",
            "-0.00",
            "1.0",
            "1.00",
            "100",
            "0.1000",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e131071",
            "-1e-16383",
            "123456789012345678901234567890.123456789012345678901234567890",
            "=(repeat('9', 5000) || '.' || repeat('7', 3000))::numeric",
            "=(translate(repeat(md5('1') || md5('2') || md5('3'), 80), 'abcdef', '123456'))::numeric",
        ],
    ),
    ("numeric(12,4)", &["0", "-0.0001", "99999999.9999", "-99999999.9999", "NaN", "1.5"]),
    (
        "numeric(38,0)",
        &["0", "99999999999999999999999999999999999999", "-99999999999999999999999999999999999999", "NaN"],
    ),
    ("numeric(38,38)", &["0", "0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"]),
    ("numeric(39,1)", &["0", "12345678901234567890123456789012345678.9", "-1.0"]),
    ("money", &["0", "-0.01", "92233720368547758.07", "-92233720368547758.08", "1234567.89"]),
    (
        "text",
        &[
            "",
            " ",
            "NULL",
            "null",
            "\\N",
            "\\.",
            "\\",
            "\"",
            "'",
            ",",
            ";",
            "{",
            "}",
            "{}",
            "a b",
            "tab\there",
            "line\nfeed",
            "carriage\rreturn",
            "\u{b}\u{c}\u{8}",
            "\u{a0}é💥\u{10ffff}",
            "\u{feff}",
            "\u{1}\u{7f}",
            "=(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400) g)",
        ],
    ),
    ("character varying(10)", &["", "ten chars.", "é\t\"'\\"]),
    ("character(5)", &["", "a", "12345", " x"]),
    ("\"char\"", &["", "a", "\"", "\\", "{", " ", "é"]),
    ("name", &["", "a", "Quoted \"name\"", "=repeat('é', 31)::name"]),
    (
        "bytea",
        &[
            "",
            "\\x00",
            "\\x5c78",
            "\\xdeadbeef",
            "=decode(repeat('00ff5c2c', 2000), 'hex')",
            "=(SELECT string_agg(decode(md5(g::text), 'hex'), '') FROM generate_series(1, 400) g)",
        ],
    ),
    ("bit(5)", &["00000", "10101"]),
    ("bit varying", &["", "0", "1", "=repeat('01', 200)::varbit"]),
    (
        "date",
        &[
            "0001-01-01",
            "9999-12-31",
            "10000-01-01",
            "0044-03-15 BC",
            "0001-12-31 BC",
            "4713-01-01 BC",
            "5874897-12-31",
            "infinity",
            "-infinity",
            "2024-02-29",
            "1970-01-01",
            "1969-12-31",
            "1582-10-10",
        ],
    ),
    (
        "timestamp without time zone",
        &[
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
            "10000-01-01",
            "0044-03-15 12:00 BC",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "1999-12-31 23:59:59.5",
            "1969-12-31 23:59:59.999999",
        ],
    ),
    ("timestamp(0) without time zone", &["2025-10-09 14:03:00.6", "infinity"]),
    (
        "timestamp with time zone",
        &[
            "0001-01-01 00:00:00+00",
            "9999-12-31 23:59:59.999999+00",
            "10000-01-01 00:00+00",
            "0001-01-01 00:00+12",
            "0044-03-15 12:00+00 BC",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "infinity",
            "-infinity",
            "2025-10-09 16:03:00.123456+02",
            "2025-03-30 01:30:00+00",
        ],
    ),
    ("time without time zone", &["00:00", "24:00", "23:59:59.999999", "12:34:56.7"]),
    ("time(3) without time zone", &["00:00:00.001", "23:59:59.9999"]),
    (
        "time with time zone",
        &["00:00+00", "24:00-15:59:59", "23:59:59.999999+15:59:59", "12:00+05:30", "00:00-00:00:01"],
    ),
    (
        "interval",
        &[
            "0",
            "1 year -2 mons 3 days -04:05:06.789",
            "-1 days +00:00:00.000001",
            "178000000 years",
            "-178000000 years",
            "14 mons",
            "2147483647 days",
            "-2562047788:00:54.775807",
            "1 mon -1 day",
            "100:00:00",
        ],
    ),
    ("interval year to month", &["1 year 2 mons", "-1 mon"]),
    ("interval second(2)", &["1.239", "-0.001"]),
    (
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
        ],
    ),
    ("json", &["{}", " { \"b\" : 1,\n \"a\" : 1.0, \"a\": 1e400 } ", "\"\\u00e9\\u0000\"", "null", "[1,  2]", "-0.0"]),
    (
        "jsonb",
        &["{}", "{\"b\": 1e3, \"a\": [1.10, null, \"x\\\"y\"], \"é\": \"\\u0001\"}", "null", "\"\"", "-0.0", "1e300"],
    ),
    ("jsonpath", &["$", "strict $.a[*] ? (@.b > 1 && exists (@.c))", "lax $.\"a b\".**{2 to last}"]),
    ("xml", &["", "<a b=\"c\">d,e</a>", "text <b/> mixed", "<?xml version=\"1.0\"?><a>é</a>", "<!-- c --><a/>"]),
    ("int4range", &["empty", "(,)", "[1,)", "(,5]", "[-2147483648,2147483646]"]),
    ("int8range", &["empty", "[-9223372036854775808,9223372036854775806]"]),
    ("numrange", &["empty", "[1.10,2.200)", "(NaN,)", "(-Infinity,Infinity)"]),
    ("daterange", &["empty", "[2024-02-29,infinity)", "[0044-03-15 BC,2025-01-01)", "(,)"]),
    ("tsrange", &["empty", "[\"2025-01-01 00:00:00\",\"2025-01-01 00:00:00.5\")", "[-infinity,infinity]"]),
    ("tstzrange", &["empty", "[2025-01-01 00:00+02,)", "[-infinity,infinity]"]),
    ("int4multirange", &["{}", "{[1,2),[5,)}", "{(,)}"]),
    ("int8multirange", &["{}", "{[1,2),[9223372036854775806,)}"]),
    ("nummultirange", &["{}", "{[1.5,2.50),(3,)}"]),
    ("datemultirange", &["{}", "{[2024-02-29,2024-03-01),[infinity,infinity]}"]),
    ("tsmultirange", &["{}", "{[2025-01-01,2025-01-02)}"]),
    ("tstzmultirange", &["{}", "{[2025-01-01 00:00+00,2025-01-02 00:00+00),[2026-01-01 00:00+00,)}"]),
    ("inet", &["0.0.0.0", "10.1.2.3/8", "255.255.255.255/32", "::1", "2001:db8::ffff:1.2.3.4/64", "::/0"]),
    ("cidr", &["0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32", "1.2.3.4"]),
    ("macaddr", &["00:00:00:00:00:00", "FF-FF-FF-FF-FF-FF", "08002b:010203"]),
    ("macaddr8", &["00:00:00:00:00:00:00:00", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"]),
    ("point", &["(0,0)", "(-0,1e300)", "(NaN,Infinity)", "(1e-300,-Infinity)", "(0.1,0.30000000000000004)"]),
    ("line", &["{1,-1,0}", "{0,-1,1.5}", "[(0,0),(1,2)]"]),
    ("lseg", &["[(0,0),(1,1)]", "[(-0,1e300),(5e-324,0.1)]"]),
    ("box", &["((0,0),(1,1))", "(3,4),(1.5,2)", "(1e300,NaN),(-1,-1)"]),
    ("path", &["[(0,0)]", "((1,1),(2,2))", "[(1,1),(2.5,-2),(3,3)]"]),
    ("polygon", &["((0,0))", "((0,0),(0,1),(1,0.1))"]),
    ("circle", &["<(0,0),1>", "<(1.5,-2),1e300>"]),
    ("tsvector", &["", "'it''s':1A,5B 'b':2", "'a b' '\\\\' 'é':16383", "a fat cat"]),
    ("tsquery", &["", "'a' & !'b':*AB", "'a b' <-> 'c' | 'd' <3> 'e'", "'it''s'"]),
    ("oid", &["0", "1", "4294967295"]),
    ("regclass", &["-", "pg_class", "elsewhere.\"Odd \"\"name\"\"\"", "4000000000"]),
    ("regcollation", &["-", "\"C\"", "4000000000"]),
    ("regconfig", &["-", "english", "4000000000"]),
    ("regdictionary", &["-", "simple", "4000000000"]),
    ("regnamespace", &["-", "pg_catalog", "elsewhere", "4000000000"]),
    ("regoper", &["0", "||/", "4000000000"]),
    ("regoperator", &["0", "+(integer,integer)", "-(NONE,numeric)", "4000000000"]),
    ("regproc", &["-", "now", "elsewhere.\"Odd, f\"", "4000000000"]),
    ("regprocedure", &["-", "now()", "sum(numeric)", "elsewhere.\"Odd, f\"(text,integer[])", "4000000000"]),
    ("regrole", &["-", "postgres", "4000000000"]),
    ("regtype", &["-", "double precision", "numeric[]", "elsewhere.\"Odd \"\"name\"\"\"", "4000000000"]),
    ("oidvector", &["", "1 2 4294967295"]),
    ("int2vector", &["", "1 -2 32767"]),
    ("xid", &["0", "3", "4294967295"]),
    ("xid8", &["0", "18446744073709551615"]),
    ("cid", &["0", "4294967295"]),
    ("tid", &["(0,0)", "(4294967295,65535)"]),
    ("pg_lsn", &["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"]),
    ("pg_snapshot", &["1:1:", "10:20:10,14,15"]),
    ("txid_snapshot", &["1:1:", "10:20:10,14,15"]),
    ("aclitem", &["=makeaclitem(0, 10, 'SELECT', false)", "postgres=arwdDxt/postgres", "postgres=r*w/postgres"]),
    ("refcursor", &["", "<unnamed portal 1>", "a"]),
];

/// Of a type that a server has from a version on.
pub(super) const LATER: &[(u32, Literals)] =
    &[(17, ("interval hour to second(3)", &["infinity", "-infinity", "1:2:3.4567"]))];

/// Built-in types of which a column can be but no value can be written, and so no literal made.
pub(super) const WITHOUT_INPUT: &[&str] = &["gtsvector"];

/// Of the extensions in Debian's package.
pub(super) const CONTRIB: &[(&str, &[Literals])] = &[
    ("hstore", &[("hstore", &["", "a=>\"b,c\", \"d e\"=>NULL", "\"=>\"=>\"\\\"\"", "\"\"=>\"\""])]),
    ("citext", &[("citext", &["", "MiXeD", "NULL", "a,b \"c\""])]),
    ("cube", &[("cube", &["(0)", "(1,2),(3,4)", "(1e300,-0),(5e-324,0.1)"])]),
    (
        "ltree",
        &[
            ("ltree", &["", "Top.Science.Astronomy"]),
            ("lquery", &["*.a|b@*{2,}", "!x.*"]),
            ("ltxtquery", &["a & !b*@", "x | (y & z)"]),
        ],
    ),
    (
        "isn",
        &[
            ("ean13", &["9780306406157"]),
            ("isbn", &["0-306-40615-2"]),
            ("isbn13", &["978-0-306-40615-7"]),
            ("issn", &["0378-5955"]),
            ("issn13", &["977-0378-595-00-2"]),
            ("ismn", &["M-2306-7118-7"]),
            ("ismn13", &["979-0-2306-7118-7"]),
            ("upc", &["036000291452"]),
        ],
    ),
    ("seg", &[("seg", &["1.50", "1.5 .. 2", "~6.5", "6.25 .. ", ".. 5.0", "5(+-)0.30"])]),
    ("intarray", &[("query_int", &["1&(2|3)", "!4"])]),
    ("lo", &[("lo", &["0", "4294967295"])]),
    ("earthdistance", &[("earth", &["(6378168,0,0)"])]),
];

/// Of the only extension in the wheel with version 18, which is built without contrib.
pub(super) const WHEEL: &[(&str, &[Literals])] = &[(
    "vector",
    &[
        ("vector(3)", &["[1,2,3]", "[-0,1e-38,0.1]"]),
        ("halfvec(3)", &["[1,2,3]", "[0.1,65504,-0]"]),
        ("sparsevec(5)", &["{1:1,3:2}/5", "{}/5"]),
    ],
)];

/// Built-in types that the wheel with version 18 is built without.
pub(super) const NOT_IN_WHEEL: &[&str] = &["xml"];

/// What people make of types, and what the literals above refer to.
pub(super) const MADE: &str = r#"
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere."Odd ""name""" (a int PRIMARY KEY);
CREATE FUNCTION elsewhere."Odd, f" (text, int[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE mood AS ENUM ('ok', 'so so', 'a"b', 'it''s', '', 'NULL', '{}');
CREATE TYPE "Pair of" AS (a int, "b c" text);
CREATE TYPE nested AS (p "Pair of", list "Pair of"[], m mood, at timestamptz);
CREATE TYPE nothing AS ();
CREATE DOMAIN posint AS integer CHECK (VALUE > 0);
CREATE DOMAIN posposint AS posint NOT NULL DEFAULT 1;
CREATE DOMAIN amount AS numeric(12,2);
CREATE DOMAIN loose AS numeric;
CREATE DOMAIN grid AS integer[][];
CREATE DOMAIN moods AS mood[];
CREATE DOMAIN stamp AS timestamptz(3);
CREATE DOMAIN pair_domain AS "Pair of";
CREATE TYPE float_range AS RANGE (subtype = double precision);
CREATE TYPE text_range AS RANGE (subtype = text, collation = "C", multirange_type_name = text_ranges);
"#;

/// Of the types in [`MADE`].
pub(super) const OF_MADE: &[Literals] = &[
    ("mood", &["ok", "so so", "a\"b", "it's", "", "NULL", "{}"]),
    ("\"Pair of\"", &["(,)", "(1,\"x,y \"\"z\"\"\")", "(-1,\"\")", "(2147483647,NULL)", "(,\"(\\\\)\")"]),
    (
        "nested",
        &[
            "(,,,)",
            "(\"(1,\"\"a b\"\")\",\"{\"\"(2,x)\"\",NULL}\",\"so so\",\"2025-10-09 14:03:00+00\")",
            "(\"(,)\",{},\"\",infinity)",
        ],
    ),
    ("nothing", &["()"]),
    ("elsewhere.\"Odd \"\"name\"\"\"", &["()", "(7)"]),
    ("posint", &["1", "2147483647"]),
    ("amount", &["0", "-0.01", "9999999999.99", "NaN"]),
    ("loose", &["1.0", "1.000", "-Infinity", "NaN"]),
    ("grid", &["{1,2,3}", "{{1,2},{3,NULL}}", "[0:1]={7,8}", "{}"]),
    ("moods", &["{}", "{ok,NULL,\"so so\",\"\",\"NULL\"}"]),
    ("stamp", &["2025-10-09 14:03:00.1239+00", "infinity", "0044-03-15 12:00+00 BC"]),
    ("pair_domain", &["(1,a)", "(,)"]),
    ("float_range", &["empty", "[0.1,Infinity]", "(-0,5e-324]"]),
    ("float_multirange", &["{}", "{[0.1,1.5),(2,)}"]),
    ("text_range", &["[a,\"b c\"]", "(\"\",\"\\\"\\\\\"]", "empty"]),
    ("text_ranges", &["{}", "{[a,b),[\"c d\",)}"]),
];
