"""Writes every table's rows as PostgreSQL has them, as texts, with the types of the columns."""
import json, sys
import psycopg

url, file = sys.argv[1:]
TABLES = """SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname = 'public' ORDER BY 2"""
with psycopg.connect(url) as connection:
    cursor = connection.cursor()
    cursor.execute("SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'")
    tables = {}
    for schema, table, kind in cursor.execute(TABLES).fetchall():
        described = cursor.execute(
            "SELECT quote_ident(attname), attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = "
            "%s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", (f'"{schema}"."{table}"',)).fetchall()
        texts = ", ".join(f"{quoted}::text" for quoted, _, _ in described)
        rows = cursor.execute(f'SELECT {texts} FROM "{schema}"."{table}"').fetchall()
        tables[table] = {"columns": [[name, kind] for _, name, kind in described], "rows": rows}
    json.dump(tables, open(file, "w"))
