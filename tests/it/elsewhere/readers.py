"""Reads one Delta table with several libraries and compares what they found, row by row and value by value.

Arguments: the table's directory, and the readers. Prints how many rows each found.
"""
import collections, datetime, decimal, json, os, sys

os.environ["TZ"] = "UTC"


def deltalake_rows(table):
    import deltalake
    return deltalake.DeltaTable(table).to_pyarrow_table().to_pylist()


def duckdb_rows(table):
    import deltalake, duckdb
    files = deltalake.DeltaTable(table).file_uris()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    cursor = connection.execute(f"SELECT * FROM read_parquet({files!r}, union_by_name = true, hive_partitioning = true)")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]


def chdb_rows(table):
    import chdb, pyarrow
    os.chdir("/")
    told = chdb.query(f"SELECT * FROM deltaLakeLocal('{table}') SETTINGS output_format_arrow_string_as_string = 0", "Arrow")
    return pyarrow.ipc.open_file(told.bytes()).read_all().to_pylist()


def polars_rows(table):
    import polars
    return polars.read_delta(table).to_dicts()


def daft_rows(table):
    import daft
    return daft.read_deltalake(table).to_pylist()


def pyspark_rows(table):
    session = spark_session()
    return [row.asDict(recursive=True) for row in session.read.format("delta").load(table).collect()]


def plain(value):
    """One form for what libraries give in several; nothing where there is nothing."""
    if isinstance(value, dict):
        if set(value) == {"key", "value"} and isinstance(value["key"], list):
            value = dict(zip(value["key"], value["value"]))
        return tuple(sorted((plain(key), plain(item)) for key, item in value.items() if plain(item) not in (None, ())))
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return plain(dict(value))
        if value and all(isinstance(item, dict) and set(item) == {"key", "value"} for item in value):
            return plain({item["key"]: item["value"] for item in value})
        return tuple(plain(item) for item in value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("latin-1")
    if isinstance(value, str):
        return value.encode().decode("latin-1")
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return value


def counted(rows):
    def shown(row):
        fields = {name: plain(value) for name, value in row.items()}
        return tuple(sorted((name, repr(value)) for name, value in fields.items() if value not in (None, ())))
    return collections.Counter(map(shown, rows))


table, *readers = sys.argv[1:]
reference = counted(deltalake_rows(table))
for reader in readers:
    found = counted(globals()[f"{reader}_rows"](table))
    ours, theirs = list((reference - found).items())[:2], list((found - reference).items())[:2]
    assert found == reference, f"{reader}: deltalake has {ours}, it has {theirs}"
print(sum(reference.values()))
