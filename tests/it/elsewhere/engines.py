"""Runs statements of `afterimage sql` on an engine and compares their rows with PostgreSQL's.

Arguments: the engine, and a file of jobs: [{"what": …, "sql": …, "expected": {"columns": [[name, type]], "rows": …}}]; in
place of "expected" a job can have "changes", the rows that `afterimage query` gives, with _seq, _xid, _op and a value.
"""
import collections, datetime, decimal, json, os, re, sys

os.environ["TZ"] = "UTC"


def duckdb_rows(sql):
    import duckdb
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    cursor = connection.execute(sql)
    return [column[0] for column in cursor.description], cursor.fetchall()


def clickhouse_rows(sql):
    import chdb, pyarrow
    # A server reads local files below its own directory only.
    os.chdir("/")
    sql = sql.rstrip().rstrip(";") + ", output_format_arrow_string_as_string = 0"
    return arrow_rows(pyarrow.ipc.open_file(chdb.query(sql, "Arrow").bytes()).read_all())


def datafusion_rows(sql):
    import datafusion
    context = datafusion.SessionContext()
    for endpoint in filter(None, [os.environ.get("AWS_ENDPOINT")]):
        bucket = re.search(r"LOCATION 's3://([^/]+)/", sql).group(1)
        store = datafusion.object_store.AmazonS3(bucket_name=bucket, region="us-east-1", access_key_id="test",
            secret_access_key="test", endpoint=endpoint, allow_http=True)
        context.register_object_store("s3://", store)
    *setup, query = sql.split(";\n")[:-1]
    for statement in setup:
        context.sql(statement)
    return arrow_rows(context.sql(query).to_arrow_table())


def ballista_rows(sql):
    import pyarrow, subprocess, tempfile
    with tempfile.NamedTemporaryFile() as file:
        client = [os.environ["BALLISTA"], "query", os.environ["BALLISTA_SCHEDULER"], file.name]
        asked = subprocess.run(client, input=sql, text=True, capture_output=True, timeout=120)
        assert asked.returncode == 0, asked.stderr
        return arrow_rows(pyarrow.ipc.open_file(file.name).read_all())


def arrow_rows(table):
    return table.column_names, list(zip(*(column.to_pylist() for column in table.columns)))


session = None


def spark_rows(sql):
    global session
    if session is None:
        session = spark_session()
    frame = session.sql(sql.rstrip().rstrip(";"))
    return frame.columns, [tuple(row) for row in frame.collect()]


def trino_rows(sql):
    """Trino is not installed: what it would be told is translated for DuckDB, its tables standing for the registered."""
    import duckdb, sqlglot, deltalake
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    registered = r"schema_name => '(.*)', table_name => '(.*)', table_location => '(.*)'\)"
    for schema, table, location in re.findall(registered, sql):
        rows = deltalake.DeltaTable(location).to_pyarrow_table()
        connection.register(f"{schema}.{table}", rows)
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        connection.execute(f'CREATE TABLE "{schema}"."{table}" AS SELECT * FROM "{schema}.{table}"')
    (tree,) = [tree for tree in sqlglot.parse(sql, read="trino") if tree]
    assert not list(tree.find_all(sqlglot.exp.Command)), "not understood as a query"
    cursor = connection.execute(tree.sql(dialect="duckdb"))
    return [column[0] for column in cursor.description], cursor.fetchall()


def text(value, kind):
    """As PostgreSQL casts it to text."""
    if value is None:
        return None
    if kind.endswith("[]"):
        return "{" + ",".join("NULL" if item is None else text(item, kind[:-2]) for item in value) + "}"
    if kind == "bytea":
        return "\\x" + bytes(value).hex()
    if isinstance(value, (bytes, bytearray)):
        return value.decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        fraction = f".{value.microsecond:06}".rstrip("0") if value.microsecond else ""
        zone = "+00" if kind == "timestamp with time zone" else ""
        return value.strftime("%Y-%m-%d %H:%M:%S") + fraction + zone
    return str(value)


def compare(what, found, expected, knows_null_lists):
    names, rows = found
    wanted = [name for name, _ in expected["columns"]]
    values = [at for at, name in enumerate(names) if not name.endswith("~exact")]
    assert [names[at] for at in values] == wanted, f"{what}: columns {names}, wanted {wanted}"
    exact = {name[: -len("~exact")]: at for at, name in enumerate(names) if name.endswith("~exact")}

    def shown(row):
        fields = []
        for at, (name, kind) in zip(values, expected["columns"]):
            kept = row[exact[name]] if name in exact else None
            kept = kept.decode() if isinstance(kept, bytes) else kept
            fields.append(text(row[at], kind) if kept is None else kept)
        return tuple(fields)

    def told(row):
        kinds = [kind for _, kind in expected["columns"]]
        return tuple(told_value(value, kind) for value, kind in zip(row, kinds))

    def told_value(value, kind):
        if value is None:
            return "{}" if kind.endswith("[]") and not knows_null_lists else None
        return repr(float(value)) if kind == "double precision" else value

    here = collections.Counter(map(shown, rows))
    there = collections.Counter(map(told, expected["rows"]))
    assert here == there, f"{what}: only here {list((here - there).items())[:3]}, missing {list((there - here).items())[:3]}"
    return len(rows)


def compare_changes(what, found, expected):
    names, rows = found
    shown = [dict(zip(names, (value.decode() if isinstance(value, bytes) else value for value in row))) for row in rows]
    (column,) = [name for name in expected[0] if not name.startswith("_")]
    here = [[row["_seq"], row["_xid"], row["_op"], row[column]] for row in shown]
    there = [[row["_seq"], row["_xid"], row["_op"], row[column]] for row in expected]
    assert here == there, f"{what}: {here[:3]}, wanted {there[:3]}"
    return len(rows)


if __name__ == "__main__":
    engine, file = sys.argv[1:]
    run = {"duckdb": duckdb_rows, "clickhouse": clickhouse_rows, "datafusion": datafusion_rows, "spark": spark_rows,
        "trino": trino_rows, "ballista": ballista_rows}[engine]
    compared = 0
    failed = []
    for job in json.load(open(file)):
        try:
            what, found = f"{engine}: {job['what']}", run(job["sql"])
            if "changes" in job:
                compared += compare_changes(what, found, job["changes"])
            else:
                compared += compare(what, found, job["expected"], engine != "clickhouse")
        except Exception as error:
            failed.append(f"{job['what']}: {type(error).__name__}: {str(error)[:1500]}")
    assert not failed, "\n".join(failed)
    print(compared)
