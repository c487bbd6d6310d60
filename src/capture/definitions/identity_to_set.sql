-- The identity with which a table c could be published, whatever it has now; NULL where there is none.
CASE
  WHEN NOT EXISTS (SELECT FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 'v') THEN 'FULL'
  WHEN EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate) THEN 'DEFAULT'
END
