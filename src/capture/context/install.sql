-- What tells the archiver who wrote and with which statement: a trigger per table and statement that writes a logical
-- message into the transaction. Nothing here may fail a statement of the source: what goes wrong is a warning.
-- Words in braces are filled in by the installer.
CREATE SCHEMA IF NOT EXISTS {schema};
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;

-- A statement as it may leave the source; conforming: standard_conforming_strings, which this function itself pins.
CREATE OR REPLACE FUNCTION {schema}.redacted(statement text, conforming text) RETURNS text LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $redacted$
BEGIN
  IF {literals} OR statement ~* '\m(role|user|group|subscription|server|mapping)\M.*(password|passwd|secret|connection)' THEN
    -- What a backslash means in a string hangs on a setting, which may be another now than when the statement was read.
    IF statement ~ 'standard_conforming_strings' OR (conforming <> 'on' AND strpos(statement, '\') > 0) THEN
      RETURN '?';
    END IF;
    -- What regular expressions cannot tell apart is cut: all from a dollar quote or a nested comment on.
    statement := regexp_replace(statement, '\$([^$[:space:]0-9''"(),;][^$[:space:]''"(),;]*)?\$.*', '?');
    statement := regexp_replace(statement, '/\*((?!\*/).)*/\*.*', '?');
    -- Identifiers in quotes and parameters stay; of comments and literals the place.
    statement := regexp_replace(statement,
      '("(?:[^"]|"")*"|\$[0-9]+)'
        || '|--[^\n]*|/\*(?:[^*]|\*+[^*/])*(?:\*+/|$)'
        || '|\m[eE]''(?:[^''\\]|''''|\\.)*(?:''|\\?$)'
        || '|''(?:[^'']|'''')*(?:''|$)'
        || '|\m[0-9][[:alnum:]_.]*',
      '\1' || E'\x01', 'g');
    statement := translate(regexp_replace(statement, '("|\$[0-9]+)\x01', '\1', 'g'), E'\x01', '?');
  END IF;
{patterns}
  RETURN statement;
END
$redacted$;

-- Says who runs this statement and what it is, once per transaction and statement.
CREATE OR REPLACE FUNCTION {schema}.note() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $note$
DECLARE
  said text := COALESCE(current_setting('afterimage.said', true), '');
  role text := NULLIF(current_setting('role'), 'none');
  statement text := current_query();
  application text := NULLIF(current_setting('application_name'), '');
  -- Whoever runs statements can set these to anything.
  claims text := NULLIF(current_setting('request.jwt.claims', true), '');
  claimed text := NULLIF(current_setting('afterimage.context', true), '');
  this text;
  content text;
BEGIN
  -- This block writes nothing: one that does would cost a subtransaction.
  BEGIN
    this := md5(concat_ws(E'\n', statement, role, application, claims, claimed));
    IF strpos(said, this) > 0 OR length(said) > 33 * {most} THEN
      RETURN;
    ELSIF length(said) = 33 * {most} THEN
      content := '{"more": true}';
    ELSE
      content := json_strip_nulls(json_build_object(
        'user', session_user, 'role', role, 'client', host(inet_client_addr()), 'pid', pg_backend_pid(),
        'statement', {schema}.redacted(left(statement, 20000), current_setting('standard_conforming_strings')),
        'claimed', CASE WHEN COALESCE(application, claims, claimed) IS NOT NULL THEN json_strip_nulls(json_build_object(
          'application', application, 'jwt', claims, 'context', claimed)) END))::text;
    END IF;
    PERFORM set_config('afterimage.said', said || this || ' ', true);
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'afterimage could not note who ran a statement: %', SQLERRM;
    RETURN;
  END;
  -- Nothing converts a message's bytes on their way.
  IF getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') THEN
    PERFORM pg_logical_emit_message(true, '{prefix}', content);
  ELSE
    PERFORM pg_logical_emit_message(true, '{prefix}', convert_to(content, 'UTF8'));
  END IF;
END
$note$;

-- After the statement, since one that changed nothing has no transaction to be noted in.
CREATE OR REPLACE FUNCTION {schema}.afterimage_context() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $trigger$
BEGIN
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    PERFORM {schema}.note();
  END IF;
  RETURN NULL;
END
$trigger$;

-- Gives a table its trigger; whether it has one then.
CREATE OR REPLACE FUNCTION {schema}.watch(relation oid) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $watch$
DECLARE
  r record;
BEGIN
  SELECT c.oid::regclass::text AS sql, EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = {trigger}) AS watched
  INTO r
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT n.nspname AS schema, c.relname AS name) t
  WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname <> {name}
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND {wanted};
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF NOT r.watched THEN
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT '
                   'EXECUTE FUNCTION {schema}.afterimage_context()', {trigger}, r.sql);
  END IF;
  RETURN true;
END
$watch$;

COMMENT ON FUNCTION {schema}.note() IS 'Afterimage: context. afterimage init --no-context removes it.';
