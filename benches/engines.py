"""Runs a statement of `afterimage sql` on another engine, throws its rows away, and says how long it took and how much memory.

    afterimage sql items --for duckdb | target/python/bin/python benches/engines.py duckdb

Time is the statement's, without the engine's start; memory the most that this process, or Spark's, had resident. Spark wants the
libraries of `tests/install test`.
"""
import glob, os, resource, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))


def duckdb_runs(sql):
    import duckdb
    duckdb.sql("SET enable_progress_bar = false")
    return lambda: duckdb.sql(f"COPY ({sql}) TO '/dev/null' (FORMAT csv, HEADER)")


def clickhouse_runs(sql):
    import chdb
    os.chdir("/")
    return lambda: chdb.query(sql, "Null")


def datafusion_runs(sql):
    import datafusion
    context = datafusion.SessionContext()
    *setup, question = sql.split(";\n")

    def run():
        for statement in setup:
            context.sql(statement)
        for batch in context.sql(question).execute_stream():
            batch.to_pyarrow()
    return run


def spark_runs(sql):
    jars = os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "jars", "*.jar")
    os.environ["DELTA_JARS"] = ",".join(glob.glob(jars))
    names = {}
    exec(open(os.path.join(HERE, "../tests/it/elsewhere/spark.py")).read(), names)
    session = names["spark_session"]()
    return lambda: session.sql(sql).write.format("noop").mode("overwrite").save()


def peak_mebibytes():
    """Of this process or the children that it has now."""
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    for child in children:
        for line in open(f"/proc/{child}/status"):
            if line.startswith("VmHWM:"):
                peaks.append(int(line.split()[1]))
    return max(peaks) // 1024


(engine,) = sys.argv[1:]
statement = sys.stdin.read().rstrip().rstrip(";")
run = globals()[f"{engine}_runs"](statement)
begun = time.time()
run()
print(f"{engine}: {time.time() - begun:.2f} s, {peak_mebibytes()} MiB")
