-- What tells the archiver of definitions: event triggers that write them into the log (the WAL), inside the transaction
-- that changes them. Nothing here may fail a statement of the source: what goes wrong is a warning and a message.
-- Words in braces are filled in by the installer.
CREATE SCHEMA IF NOT EXISTS {schema};
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
COMMENT ON SCHEMA {schema} IS 'Afterimage: DDL capture. DROP SCHEMA {schema} CASCADE removes all of it.';

CREATE OR REPLACE FUNCTION {schema}.installation() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $sql$ SELECT {version}::text $sql$;

-- In PL/pgSQL like all that follows: a session plans its queries once, where SQL functions plan theirs at every call.
CREATE OR REPLACE FUNCTION {schema}.describe(oid) RETURNS jsonb LANGUAGE plpgsql STABLE
{settings} AS $describe$
BEGIN
  RETURN (
{describe}
  );
END
$describe$;

-- Any other object: what makes it again, or what it consists of.
CREATE OR REPLACE FUNCTION {schema}.describe_object(class oid, object oid) RETURNS jsonb LANGUAGE plpgsql STABLE
{settings} AS $describe$
DECLARE
  found jsonb;
BEGIN
  CASE class::regclass::text
  WHEN 'pg_proc' THEN
    SELECT to_jsonb(CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END) INTO found
    FROM pg_proc p WHERE p.oid = object;
  WHEN 'pg_type' THEN
    SELECT jsonb_strip_nulls(jsonb_build_object(
      'kind', t.typtype, 'owner', pg_get_userbyid(t.typowner), 'acl', to_jsonb(t.typacl::text[]),
      'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
      'base', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
      'not_null', CASE WHEN t.typnotnull THEN true END,
      'default', t.typdefault,
      'constraints', (SELECT jsonb_agg(jsonb_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid))
                                       ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid),
      'attributes', (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod))
                                      ORDER BY a.attnum)
                     FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                       AND NOT a.attisdropped),
      'subtype', (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid),
      'comment', obj_description(t.oid, 'pg_type'))) INTO found
    FROM pg_type t WHERE t.oid = object;
  WHEN 'pg_namespace' THEN
    SELECT jsonb_strip_nulls(jsonb_build_object('owner', pg_get_userbyid(n.nspowner), 'acl', to_jsonb(n.nspacl::text[]),
      'comment', obj_description(n.oid, 'pg_namespace'))) INTO found FROM pg_namespace n WHERE n.oid = object;
  WHEN 'pg_extension' THEN
    SELECT jsonb_build_object('version', e.extversion) INTO found FROM pg_extension e WHERE e.oid = object;
  ELSE
    found := NULL;
  END CASE;
  RETURN found;
END
$describe$;

-- One message; its bytes are UTF-8 whatever the database's encoding is, because nothing converts them on their way.
CREATE OR REPLACE FUNCTION {schema}.tell(prefix text, content text) RETURNS void LANGUAGE plpgsql AS $tell$
BEGIN
  IF getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') THEN
    PERFORM pg_catalog.pg_logical_emit_message(true, prefix, content);
  ELSE
    PERFORM pg_catalog.pg_logical_emit_message(true, prefix, pg_catalog.convert_to(content, 'UTF8'));
  END IF;
END
$tell$;

-- A message counts as standing where the record after it begins, and one of a subtransaction can then be given out after
-- the change there. So nothing that matters is told last: an empty afterimage.end is.

-- Every row of a table that the log does not show otherwise, one message each: the fields as a composite's text.
CREATE OR REPLACE FUNCTION {schema}.tell_rows(definition jsonb) RETURNS bigint LANGUAGE plpgsql
{settings} AS $rows$
DECLARE
  relation oid := (definition ->> 'oid')::oid;
  fields text;
  rows bigint;
BEGIN
  SELECT string_agg(format('%I', field.value ->> 'name'), ', ' ORDER BY field.ordinality) INTO fields
  FROM jsonb_array_elements(definition -> 'columns') WITH ORDINALITY field WHERE NOT field.value ? 'left_out';
  EXECUTE format('SELECT count({schema}.tell(%L, %L || record_out(ROW(%s))::text)) FROM ONLY %s',
                 'afterimage.row', relation::text || ' ', fields, relation::regclass) INTO rows;
  RETURN rows;
END
$rows$;

-- Takes a table out of the publication. One of all tables has no exceptions, so it becomes one of all the others.
CREATE OR REPLACE FUNCTION {schema}.withdraw(relation oid) RETURNS void LANGUAGE plpgsql
{settings} AS $withdraw$
DECLARE
  others text;
BEGIN
  IF NOT (SELECT p.puballtables FROM pg_publication p WHERE p.pubname = {name}) THEN
    EXECUTE format('ALTER PUBLICATION %I DROP TABLE ONLY %s', {name}, relation::regclass);
    RETURN;
  END IF;
  SELECT 'FOR TABLE ' || string_agg(format('ONLY %s', c.oid::regclass), ', ') INTO others
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid <> relation
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_';
  EXECUTE format('DROP PUBLICATION %I', {name});
  EXECUTE format('CREATE PUBLICATION %I %s WITH (publish_generated_columns = stored)', {name}, others);
END
$withdraw$;

-- Sees to it that a table is published where it should be, and never in a state in which its own UPDATE would fail.
-- Returns what became of it: covered, added (its rows so far were not in the log), pending (the archiver must add it),
-- or NULL where it is not to be covered.
CREATE OR REPLACE FUNCTION {schema}.protect(relation oid) RETURNS text LANGUAGE plpgsql
{settings} SET lock_timeout = '200ms' AS $protect$
DECLARE
  r record;
BEGIN
  SELECT c.oid::regclass::text AS sql, n.nspname AS schema, c.relname AS name, c.relpersistence AS persistence,
         {identity_usable} AS usable, {identity_to_set} AS identity,
         p.puballtables OR EXISTS (SELECT FROM pg_publication_rel l WHERE l.prpubid = p.oid AND l.prrelid = c.oid) AS published
  INTO r
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_publication p
  WHERE c.oid = relation AND p.pubname = {name} AND c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_';
  IF NOT FOUND OR r.persistence = 'u' OR NOT (r.published OR {covered})
    -- Somebody has just taken it out of the publication.
    OR relation = ANY (COALESCE(NULLIF(current_setting('afterimage.removed', true), ''), '{}')::oid[]) THEN
    RETURN NULL;
  END IF;
  IF NOT r.usable THEN
    IF r.identity IS NULL AND r.published THEN
      PERFORM {schema}.withdraw(relation);
      RAISE WARNING 'afterimage can archive % no more: it has no key, and a virtual generated column cannot be published', r.sql;
    END IF;
    IF r.identity IS NULL OR NOT (r.published OR {identity_full}) THEN
      RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', r.sql, r.identity);
  END IF;
  IF r.published THEN
    RETURN 'covered';
  END IF;
  -- The publication stays locked until this transaction ends; another that holds it is not waited for.
  BEGIN
    EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %s', {name}, r.sql);
    RETURN 'added';
  EXCEPTION WHEN lock_not_available THEN
    RETURN 'pending';
  END;
END
$protect$;

-- Tells of one relation: its definition, whether it is covered, and its rows where the log does not have them.
CREATE OR REPLACE FUNCTION {schema}.relation_now(relation oid, rewritten boolean, created boolean) RETURNS jsonb
LANGUAGE plpgsql {settings} AS $relation$
DECLARE
  cover text;
  told text;
  definition jsonb;
BEGIN
  -- Where context is captured, new tables get its trigger.
  IF created AND to_regprocedure(format('%I.watch(oid)', {name})) IS NOT NULL THEN
    BEGIN
      PERFORM {schema}.watch(relation);
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'afterimage could not capture the context of %: %', relation::regclass, SQLERRM;
    END;
  END IF;
  cover := {schema}.protect(relation);
  definition := {schema}.describe(relation);
  IF definition ->> 'kind' <> 'r' OR definition ->> 'persistence' <> 'p' THEN
    RETURN jsonb_build_object('definition', definition);
  END IF;
  IF cover IN ('covered', 'added') AND (rewritten OR (cover = 'added')) THEN
    told := CASE WHEN pg_table_size(relation) > {row_bytes} THEN 'omitted' ELSE 'told' END;
  END IF;
  RETURN jsonb_strip_nulls(jsonb_build_object('definition', definition, 'cover', COALESCE(cover, 'none'), 'rows', told,
    'created', CASE WHEN created THEN true END));
END
$relation$;

-- Which tables a set of touched relations concerns: an index's table, a parent's children.
CREATE OR REPLACE FUNCTION {schema}.touched(objects oid[]) RETURNS oid[] LANGUAGE plpgsql STABLE
{settings} AS $touched$
BEGIN
  RETURN (
  WITH RECURSIVE direct AS (
    SELECT DISTINCT COALESCE(i.indrelid, c.oid) AS oid
    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.oid = ANY (objects)
  ), tree AS (
    SELECT oid FROM direct
    UNION
    SELECT h.inhrelid FROM tree JOIN pg_inherits h ON h.inhparent = tree.oid
  )
  SELECT array_agg(c.oid ORDER BY c.oid)
  FROM tree JOIN pg_class c ON c.oid = tree.oid
  WHERE c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c')
    AND c.relnamespace <> 'pg_catalog'::regnamespace
  );
END
$touched$;

-- The tables with a column of one of these types, or of one made of them: the text of their rows changes with the type.
CREATE OR REPLACE FUNCTION {schema}.users_of(types oid[]) RETURNS oid[] LANGUAGE plpgsql STABLE
{settings} AS $users$
BEGIN
  RETURN (
  WITH RECURSIVE used AS (
    SELECT unnest(types) AS oid
    UNION
    SELECT CASE d.classid WHEN 'pg_type'::regclass THEN d.objid ELSE c.reltype END
    FROM used
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.oid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.oid = d.objid
    WHERE d.classid = 'pg_type'::regclass OR c.reltype <> 0
  )
  SELECT array_agg(DISTINCT c.oid)
  FROM used
  JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = used.oid
  JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.oid = d.objid AND c.relkind = 'r'
  );
END
$users$;

-- The relations whose description this transaction wrote: what is seen and in progress is its own.
CREATE OR REPLACE FUNCTION {schema}.written() RETURNS oid[] LANGUAGE plpgsql STABLE
{settings} AS $written$
BEGIN
  RETURN (
  SELECT array_agg(c.oid) FROM pg_class c
  WHERE age(c.xmin) <= age(pg_current_xact_id()::xid)
    AND pg_xact_status((pg_current_xact_id()::text::bigint >> 32 << 32 | c.xmin::text::bigint)::text::xid8) = 'in progress'
  );
END
$written$;

-- The row types of those relations whose columns this transaction has changed.
CREATE OR REPLACE FUNCTION {schema}.changed_types(relations oid[]) RETURNS oid[] LANGUAGE plpgsql STABLE
{settings} AS $changed$
BEGIN
  RETURN (
  SELECT array_agg(c.reltype) FROM pg_class c
  WHERE c.oid = ANY (relations) AND c.reltype <> 0 AND EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
      AND age(a.xmin) <= age(pg_current_xact_id()::xid))
  );
END
$changed$;

-- Writes what one statement did: first the message of all relations, then the rows of those whose rows are told.
CREATE OR REPLACE FUNCTION {schema}.tell_statement(tag text, relations oid[], others jsonb, dropped jsonb, rewritten oid[],
  created oid[]) RETURNS void LANGUAGE plpgsql {settings} AS $statement$
DECLARE
  found jsonb := '[]';
  relation oid;
  one jsonb;
  problem text;
  -- What the client sent at once, all of it; not where that may have a password in it.
  statement text := CASE WHEN current_query() !~* '(password|passwd|secret|user\s+mapping|subscription)'
                    THEN left(current_query(), 20000) END;
BEGIN
  FOREACH relation IN ARRAY COALESCE(relations, '{}') LOOP
    -- One that another session drops just now must not hide the others.
    BEGIN
      one := {schema}.relation_now(relation, relation = ANY (rewritten), relation = ANY (created));
      IF one ->> 'definition' IS NOT NULL THEN
        found := found || one;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      problem := SQLERRM;
    END;
  END LOOP;
  IF found = '[]' AND others = '[]' AND dropped = '[]' AND problem IS NULL THEN
    RETURN;
  END IF;
  -- Where context is captured, it is of this statement too, and what must not leave the source does not here either.
  IF to_regprocedure(format('%I.note()', {name})) IS NOT NULL THEN
    statement := {schema}.redacted(statement, current_setting('standard_conforming_strings'));
    PERFORM {schema}.note();
  END IF;
  PERFORM {schema}.tell('afterimage.ddl', jsonb_strip_nulls(jsonb_build_object(
    'publication', {name}, 'tag', tag,
    'statement', statement,
    'user', session_user, 'role', NULLIF(current_setting('role'), 'none'),
    'application', NULLIF(current_setting('application_name'), ''), 'client', host(inet_client_addr()),
    'failed', problem, 'relations', found, 'objects', NULLIF(others, '[]'), 'dropped', NULLIF(dropped, '[]')))::text);
  FOR one IN SELECT value FROM jsonb_array_elements(found) WHERE value ->> 'rows' = 'told' LOOP
    PERFORM {schema}.tell_rows(one -> 'definition');
  END LOOP;
  PERFORM {schema}.tell('afterimage.end', '');
END
$statement$;

CREATE OR REPLACE FUNCTION {schema}.failed(tag text, problem text) RETURNS void LANGUAGE plpgsql AS $failed$
BEGIN
  PERFORM {schema}.tell('afterimage.ddl', pg_catalog.jsonb_build_object(
    'publication', {name}, 'tag', tag, 'failed', problem)::text);
  PERFORM {schema}.tell('afterimage.end', '');
  RAISE WARNING 'afterimage could not note %: %', tag, problem;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'afterimage could not note %: %', tag, SQLERRM;
END
$failed$;

CREATE OR REPLACE FUNCTION {schema}.on_end() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
{settings} AS $end$
DECLARE
  relations oid[];
  created oid[];
  rewritten oid[];
  others jsonb;
BEGIN
  -- What protect() does is told by the statement that called it.
  IF current_setting('afterimage.busy', true) = 'on' THEN
    RETURN;
  END IF;
  PERFORM set_config('afterimage.busy', 'on', true);
  BEGIN
    rewritten := COALESCE(NULLIF(current_setting('afterimage.rewritten', true), ''), '{}')::oid[];
    -- Numbers are unique within one catalogue only.
    SELECT array_agg(DISTINCT COALESCE(g.tgrelid, p.polrelid, r.ev_class, k.conrelid, d.adrelid, x.stxrelid, b.prrelid,
                                       CASE c.classid WHEN 'pg_class'::regclass THEN c.objid END)),
           array_agg(c.objid) FILTER (WHERE c.command_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')),
           COALESCE(jsonb_agg(jsonb_build_object('type', c.object_type, 'identity', c.object_identity,
                                        'definition', {schema}.describe_object(c.classid, c.objid)))
                      -- What belongs to an extension is said by the extension.
                      FILTER (WHERE c.classid IS DISTINCT FROM 'pg_class'::regclass AND NOT c.in_extension
                              AND c.schema_name IS DISTINCT FROM 'pg_temp'),
                    '[]')
    INTO relations, created, others
    FROM pg_event_trigger_ddl_commands() c
    LEFT JOIN pg_trigger g ON c.classid = 'pg_trigger'::regclass AND g.oid = c.objid
    LEFT JOIN pg_policy p ON c.classid = 'pg_policy'::regclass AND p.oid = c.objid
    LEFT JOIN pg_rewrite r ON c.classid = 'pg_rewrite'::regclass AND r.oid = c.objid
    LEFT JOIN pg_constraint k ON c.classid = 'pg_constraint'::regclass AND k.oid = c.objid
    LEFT JOIN pg_attrdef d ON c.classid = 'pg_attrdef'::regclass AND d.oid = c.objid
    LEFT JOIN pg_publication_rel b ON c.classid = 'pg_publication_rel'::regclass AND b.oid = c.objid
    LEFT JOIN pg_statistic_ext x ON c.classid = 'pg_statistic_ext'::regclass AND x.oid = c.objid;
    -- GRANT does not say on what.
    IF tg_tag IN ('GRANT', 'REVOKE') THEN
      relations := relations || {schema}.written();
    END IF;
    -- A schema's new name is one of all that is in it.
    IF tg_tag = 'ALTER SCHEMA' THEN
      SELECT relations || array_agg(c.oid) INTO relations
      FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON d.classid = 'pg_namespace'::regclass AND c.relnamespace = d.objid;
    END IF;
    relations := {schema}.touched(relations || rewritten);
    -- A partition that was taken away is its parent's no more, but what the statement wrote.
    IF tg_tag = 'ALTER TABLE' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = ANY (relations) AND c.relkind = 'p') THEN
      relations := relations || {schema}.written();
    END IF;
    -- A type can change without that the rows are written anew, and their text with it: what the log has of them is then
    -- another text. Which statement does so cannot be asked, only which could.
    IF tg_tag = 'ALTER TABLE' AND current_query() ~* '\mtype\M' THEN
      SELECT rewritten || array_agg(DISTINCT a.attrelid) INTO rewritten
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = ANY (relations) AND a.attnum > 0 AND age(a.xmin) <= age(pg_current_xact_id()::xid)
        AND COALESCE(NULLIF(t.typbasetype, 0), t.oid)::regtype::text IN ('timestamp without time zone',
          'timestamp with time zone', 'oid', 'integer', 'inet', 'cidr', 'regproc', 'regprocedure', 'regoper', 'regoperator',
          'regclass', 'regtype', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'regcollation');
    END IF;
    -- A column that is generated no more has values that the log does not have.
    IF tg_tag = 'ALTER TABLE' AND current_query() ~* '\mexpression\M' THEN
      rewritten := rewritten || relations;
    END IF;
    -- The text of a composite follows its type, that of an enum its labels.
    rewritten := rewritten || {schema}.users_of({schema}.changed_types(relations));
    IF tg_tag = 'ALTER TYPE' AND current_query() ~* '\mrename\s+value\M' THEN
      SELECT rewritten || {schema}.users_of(array_agg(c.objid)) INTO rewritten
      FROM pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_type'::regclass;
    END IF;
    relations := {schema}.touched(relations || rewritten);
    PERFORM {schema}.tell_statement(tg_tag, relations, others, '[]', rewritten, created);
  EXCEPTION WHEN OTHERS THEN
    PERFORM {schema}.failed(tg_tag, SQLERRM);
  END;
  PERFORM set_config('afterimage.rewritten', '', true), set_config('afterimage.busy', 'off', true);
END
$end$;

CREATE OR REPLACE FUNCTION {schema}.on_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
{settings} AS $drop$
DECLARE
  dropped jsonb;
  relations oid[];
  removed oid[];
  rewritten oid[];
BEGIN
  IF current_setting('afterimage.busy', true) = 'on' THEN
    RETURN;
  END IF;
  PERFORM set_config('afterimage.busy', 'on', true);
  BEGIN
    SELECT COALESCE(jsonb_agg(jsonb_build_object('type', d.object_type, 'identity', d.object_identity, 'oid', d.objid::bigint,
                                         'original', d.original))
                      FILTER (WHERE d.original OR d.object_type IN ('table', 'view', 'materialized view', 'sequence', 'type',
                                                                    'foreign table', 'function', 'schema')), '[]'),
           -- What a table lost while it stays.
           array_agg(to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))::oid)
             FILTER (WHERE d.object_type LIKE 'table %' OR d.object_type IN ('trigger', 'rule', 'policy', 'default value'))
             || array_agg(d.objid) FILTER (WHERE d.object_type LIKE '% column')
    INTO dropped, relations
    FROM pg_event_trigger_dropped_objects() d
    WHERE NOT d.is_temporary AND d.schema_name IS DISTINCT FROM 'pg_toast';
    -- An index that is dropped may have been an identity, and no longer says of which table.
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE d.object_type = 'index' AND NOT d.is_temporary) THEN
      SELECT relations || array_agg(c.oid) INTO relations FROM pg_class c
      WHERE c.relkind = 'r' AND c.relreplident = 'i'
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident);
    END IF;
    SELECT array_agg(to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))::oid) INTO removed
    FROM pg_event_trigger_dropped_objects() d
    WHERE d.object_type = 'publication relation' AND d.address_args[1] = {name};
    PERFORM set_config('afterimage.removed', removed::text, true);
    rewritten := {schema}.users_of({schema}.changed_types(relations));
    PERFORM {schema}.tell_statement(tg_tag, {schema}.touched(relations || removed || rewritten), '[]', dropped, rewritten, '{}');
    PERFORM set_config('afterimage.removed', '', true);
  EXCEPTION WHEN OTHERS THEN
    PERFORM {schema}.failed(tg_tag, SQLERRM);
  END;
  PERFORM set_config('afterimage.busy', 'off', true);
END
$drop$;

CREATE OR REPLACE FUNCTION {schema}.on_rewrite() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
{settings} AS $rewrite$
BEGIN
  PERFORM set_config('afterimage.rewritten', (
    COALESCE(NULLIF(current_setting('afterimage.rewritten', true), ''), '{}')::oid[]
    || pg_event_trigger_table_rewrite_oid())::text, true);
END
$rewrite$;

DROP EVENT TRIGGER IF EXISTS {end_trigger};
DROP EVENT TRIGGER IF EXISTS {drop_trigger};
DROP EVENT TRIGGER IF EXISTS {rewrite_trigger};
CREATE EVENT TRIGGER {end_trigger} ON ddl_command_end EXECUTE FUNCTION {schema}.on_end();
CREATE EVENT TRIGGER {drop_trigger} ON sql_drop EXECUTE FUNCTION {schema}.on_drop();
CREATE EVENT TRIGGER {rewrite_trigger} ON table_rewrite EXECUTE FUNCTION {schema}.on_rewrite();
-- Also where a session plays replica.
ALTER EVENT TRIGGER {end_trigger} ENABLE ALWAYS;
ALTER EVENT TRIGGER {drop_trigger} ENABLE ALWAYS;
ALTER EVENT TRIGGER {rewrite_trigger} ENABLE ALWAYS;
