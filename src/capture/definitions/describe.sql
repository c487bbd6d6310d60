-- The definition of one relation as a JSON object, everything that is needed to make it again. Works on versions 14 to
-- 18: what an older catalogue does not have is read through to_jsonb, which leaves it out.
-- $1: the relation's oid.
SELECT jsonb_strip_nulls(jsonb_build_object(
  'oid', c.oid::bigint,
  'schema', n.nspname,
  'name', c.relname,
  'kind', c.relkind,
  'persistence', c.relpersistence,
  'identity', c.relreplident,
  'identity_index', (SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                     WHERE i.indrelid = c.oid AND i.indisreplident),
  'owner', pg_get_userbyid(c.relowner),
  'parent', (SELECT h.inhparent::bigint FROM pg_inherits h
             WHERE h.inhrelid = c.oid AND c.relispartition AND NOT COALESCE((to_jsonb(h) ->> 'inhdetachpending')::boolean, false)),
  'inherits', (SELECT jsonb_agg(h.inhparent::regclass::text ORDER BY h.inhseqno) FROM pg_inherits h
               WHERE h.inhrelid = c.oid AND NOT c.relispartition),
  'partition_key', CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END,
  'partition_bound', pg_get_expr(c.relpartbound, c.oid),
  'of_type', CASE WHEN c.reloftype <> 0 THEN c.reloftype::regtype::text END,
  'options', to_jsonb(c.reloptions),
  'access_method', (SELECT m.amname FROM pg_am m WHERE m.oid = c.relam AND c.relkind IN ('r', 'm', 'p')),
  'tablespace', (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace),
  'row_security', CASE WHEN c.relrowsecurity THEN true END,
  'force_row_security', CASE WHEN c.relforcerowsecurity THEN true END,
  'acl', to_jsonb(c.relacl::text[]),
  'comment', obj_description(c.oid, 'pg_class'),
  'view', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
  'sequence', CASE WHEN c.relkind = 'S' THEN (
      SELECT to_jsonb(s) - 'seqrelid' || jsonb_build_object('seqtypid', s.seqtypid::regtype::text,
        'owned_by', (SELECT d.refobjid::regclass::text || '.' || quote_ident(a.attname)
                     FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                     LIMIT 1))
      FROM pg_sequence s WHERE s.seqrelid = c.oid) END,
  'columns', (
      SELECT jsonb_agg(jsonb_build_object(
               'number', a.attnum,
               'name', a.attname,
               'type_oid', a.atttypid::bigint,
               'type', format_type(a.atttypid, a.atttypmod),
               'modifier', a.atttypmod,
               'base_oid', base.oid::bigint,
               'base_modifier', base.modifier,
               'key', CASE WHEN c.relreplident = 'f' OR a.attnum = ANY (key.columns) THEN true END,
               'not_null', CASE WHEN a.attnotnull THEN true END,
               'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
               'generated', CASE WHEN a.attgenerated <> '' THEN jsonb_build_object(
                   'kind', a.attgenerated, 'expression', pg_get_expr(d.adbin, d.adrelid)) END,
               -- The stream has stored ones from version 18 on, and virtual ones never.
               'left_out', CASE WHEN a.attgenerated = 'v' OR (a.attgenerated = 's'
                                  AND current_setting('server_version_num')::int < 180000) THEN true END,
               'identity', NULLIF(a.attidentity, ''),
               'sequence', CASE WHEN a.attidentity <> '' OR d.adbin IS NOT NULL
                           THEN pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname) END,
               'collation', (SELECT format('%I.%I', k.nspname, l.collname)
                             FROM pg_collation l JOIN pg_namespace k ON k.oid = l.collnamespace
                             WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation),
               -- What rows from before the column was added show without having been rewritten.
               'missing', CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
               'inherited', CASE WHEN a.attinhcount > 0 THEN a.attinhcount END,
               'local', a.attislocal,
               'storage', a.attstorage,
               'compression', NULLIF(a.attcompression, ''),
               'statistics', NULLIF(NULLIF((to_jsonb(a) ->> 'attstattarget')::int, -1), NULL),
               'options', to_jsonb(a.attoptions),
               'acl', to_jsonb(a.attacl::text[]),
               'comment', col_description(c.oid, a.attnum)) ORDER BY a.attnum)
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      -- A domain's values are those of the type at its bottom.
      LEFT JOIN LATERAL (
        WITH RECURSIVE down AS (
          SELECT t.typbasetype AS oid, t.typtypmod AS modifier WHERE t.typtype = 'd'
          UNION ALL
          SELECT b.typbasetype, b.typtypmod FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype = 'd')
        SELECT down.oid, down.modifier FROM down JOIN pg_type b ON b.oid = down.oid WHERE b.typtype <> 'd'
      ) base ON true
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'constraints', (
      SELECT jsonb_agg(jsonb_build_object(
               'name', k.conname, 'type', k.contype, 'definition', pg_get_constraintdef(k.oid),
               'inherited', CASE WHEN k.coninhcount > 0 THEN true END,
               'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname, k.oid)
      FROM pg_constraint k WHERE k.conrelid = c.oid),
  'incoming', (
      SELECT jsonb_agg(jsonb_build_object(
               'table', k.conrelid::regclass::text, 'name', k.conname, 'definition', pg_get_constraintdef(k.oid))
               ORDER BY k.conrelid::regclass::text, k.conname)
      FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f'),
  'indexes', (
      SELECT jsonb_agg(jsonb_build_object(
               'name', x.relname, 'definition', pg_get_indexdef(x.oid),
               'primary', CASE WHEN i.indisprimary THEN true END, 'unique', CASE WHEN i.indisunique THEN true END,
               'constraint', (SELECT k.conname FROM pg_constraint k WHERE k.conindid = x.oid AND k.conrelid = c.oid
                              AND k.contype IN ('p', 'u', 'x') LIMIT 1),
               'clustered', CASE WHEN i.indisclustered THEN true END,
               'comment', obj_description(x.oid, 'pg_class')) ORDER BY x.relname)
      FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid),
  'triggers', (
      SELECT jsonb_agg(jsonb_build_object(
               'name', g.tgname, 'definition', pg_get_triggerdef(g.oid), 'enabled', g.tgenabled,
               'comment', obj_description(g.oid, 'pg_trigger')) ORDER BY g.tgname)
      FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
      -- What captures context is ours and no part of the application.
      WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND f.proname <> 'afterimage_context'),
  'rules', (
      SELECT jsonb_agg(jsonb_build_object(
               'name', r.rulename, 'definition', pg_get_ruledef(r.oid), 'enabled', r.ev_enabled) ORDER BY r.rulename)
      FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'),
  'policies', (
      SELECT jsonb_agg(jsonb_build_object(
               'name', p.polname, 'command', p.polcmd, 'permissive', p.polpermissive,
               'roles', (SELECT jsonb_agg(CASE role WHEN 0 THEN 'public' ELSE pg_get_userbyid(role) END)
                         FROM unnest(p.polroles) role),
               'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid),
               'comment', obj_description(p.oid, 'pg_policy')) ORDER BY p.polname)
      FROM pg_policy p WHERE p.polrelid = c.oid),
  'statistics', (
      SELECT jsonb_agg(pg_get_statisticsobjdef(e.oid) ORDER BY e.stxname)
      FROM pg_statistic_ext e WHERE e.stxrelid = c.oid)
))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns FROM pg_index i
  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
    AND ((c.relreplident = 'd' AND i.indisprimary) OR (c.relreplident = 'i' AND i.indisreplident))
) key ON true
WHERE c.oid = $1
