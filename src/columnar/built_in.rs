//! PostgreSQL's built-in types (`pg_type.dat`), whose oids are the same in every version and database.

pub(super) const BOOL: u32 = 16;
pub(super) const BYTEA: u32 = 17;
pub(super) const NAME: u32 = 19;
pub(super) const INT8: u32 = 20;
pub(super) const INT2: u32 = 21;
pub(super) const INT4: u32 = 23;
pub(super) const TEXT: u32 = 25;
pub(super) const OID: u32 = 26;
pub(super) const JSON: u32 = 114;
pub(super) const BOX: u32 = 603;
pub(super) const FLOAT4: u32 = 700;
pub(super) const FLOAT8: u32 = 701;
pub(super) const BPCHAR: u32 = 1042;
pub(super) const VARCHAR: u32 = 1043;
pub(super) const DATE: u32 = 1082;
pub(super) const TIMESTAMP: u32 = 1114;
pub(super) const TIMESTAMPTZ: u32 = 1184;
pub(super) const NUMERIC: u32 = 1700;
pub(super) const UUID: u32 = 2950;
pub(super) const JSONB: u32 = 3802;

/// A type of which a column can be, and of which there are arrays.
#[derive(Debug, Clone, Copy)]
pub(super) struct BuiltIn {
    /// As `format_type` writes it.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the documentation, which a test writes, has names"))]
    pub(super) name: &'static str,
    pub(super) oid: u32,
    /// The oid of its array type (`pg_type.typarray`).
    pub(super) array: u32,
}

const fn built_in(name: &'static str, oid: u32, array: u32) -> BuiltIn {
    BuiltIn { name, oid, array }
}

/// Every built-in type of versions 14 to 18, by kind.
pub(super) const TYPES: &[BuiltIn] = &[
    built_in("boolean", BOOL, 1000),
    built_in("smallint", INT2, 1005),
    built_in("integer", INT4, 1007),
    built_in("bigint", INT8, 1016),
    built_in("real", FLOAT4, 1021),
    built_in("double precision", FLOAT8, 1022),
    built_in("numeric", NUMERIC, 1231),
    built_in("money", 790, 791),
    built_in("text", TEXT, 1009),
    built_in("character varying", VARCHAR, 1015),
    built_in("character", BPCHAR, 1014),
    built_in("\"char\"", 18, 1002),
    built_in("name", NAME, 1003),
    built_in("bytea", BYTEA, 1001),
    built_in("bit", 1560, 1561),
    built_in("bit varying", 1562, 1563),
    built_in("date", DATE, 1182),
    built_in("timestamp without time zone", TIMESTAMP, 1115),
    built_in("timestamp with time zone", TIMESTAMPTZ, 1185),
    built_in("time without time zone", 1083, 1183),
    built_in("time with time zone", 1266, 1270),
    built_in("interval", 1186, 1187),
    built_in("uuid", UUID, 2951),
    built_in("json", JSON, 199),
    built_in("jsonb", JSONB, 3807),
    built_in("jsonpath", 4072, 4073),
    built_in("xml", 142, 143),
    built_in("int4range", 3904, 3905),
    built_in("int8range", 3926, 3927),
    built_in("numrange", 3906, 3907),
    built_in("daterange", 3912, 3913),
    built_in("tsrange", 3908, 3909),
    built_in("tstzrange", 3910, 3911),
    built_in("int4multirange", 4451, 6150),
    built_in("int8multirange", 4536, 6157),
    built_in("nummultirange", 4532, 6151),
    built_in("datemultirange", 4535, 6155),
    built_in("tsmultirange", 4533, 6152),
    built_in("tstzmultirange", 4534, 6153),
    built_in("inet", 869, 1041),
    built_in("cidr", 650, 651),
    built_in("macaddr", 829, 1040),
    built_in("macaddr8", 774, 775),
    built_in("point", 600, 1017),
    built_in("line", 628, 629),
    built_in("lseg", 601, 1018),
    built_in("box", BOX, 1020),
    built_in("path", 602, 1019),
    built_in("polygon", 604, 1027),
    built_in("circle", 718, 719),
    built_in("tsvector", 3614, 3643),
    built_in("tsquery", 3615, 3645),
    built_in("gtsvector", 3642, 3644),
    built_in("oid", OID, 1028),
    built_in("regclass", 2205, 2210),
    built_in("regcollation", 4191, 4192),
    built_in("regconfig", 3734, 3735),
    built_in("regdictionary", 3769, 3770),
    built_in("regnamespace", 4089, 4090),
    built_in("regoper", 2203, 2208),
    built_in("regoperator", 2204, 2209),
    built_in("regproc", 24, 1008),
    built_in("regprocedure", 2202, 2207),
    built_in("regrole", 4096, 4097),
    built_in("regtype", 2206, 2211),
    built_in("oidvector", 30, 1013),
    built_in("int2vector", 22, 1006),
    built_in("xid", 28, 1011),
    built_in("xid8", 5069, 271),
    built_in("cid", 29, 1012),
    built_in("tid", 27, 1010),
    built_in("pg_lsn", 3220, 3221),
    built_in("pg_snapshot", 5038, 5039),
    built_in("txid_snapshot", 2970, 2949),
    built_in("aclitem", 1033, 1034),
    built_in("refcursor", 1790, 2201),
];

/// The oid of an array type's elements.
pub(super) fn element_of(type_oid: u32) -> Option<u32> {
    TYPES.iter().find(|known| known.array == type_oid).map(|known| known.oid)
}

/// What stands between an array's elements (`pg_type.typdelim`).
pub(super) fn delimiter(element_oid: u32) -> u8 {
    if element_oid == BOX { b';' } else { b',' }
}
