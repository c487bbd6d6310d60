#!/bin/sh
# Runs once, when the source's data directory is made: the application's role, which owns what it makes, and the archiver's.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
    --set password="$(cat /run/secrets/source_archiver)" <<'SQL'
CREATE ROLE erp NOLOGIN;
GRANT CREATE ON DATABASE erp TO erp;
ALTER SCHEMA public OWNER TO erp;
CREATE ROLE archiver LOGIN REPLICATION PASSWORD :'password';
-- The publication needs CREATE on the database, and the tables' owner.
GRANT CREATE ON DATABASE erp TO archiver;
GRANT erp TO archiver;
-- Rules with action = "cancel" or "terminate" find the backend, and stop it.
GRANT pg_read_all_stats, pg_signal_backend TO archiver;
SQL
