-- Whether a table c can be published as it stands: without a usable identity its own UPDATE would fail.
CASE c.relreplident
  -- A virtual generated column cannot be published, and with all columns it would have to be.
  WHEN 'f' THEN NOT EXISTS (SELECT FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 'v')
  -- A deferrable key identifies nothing.
  WHEN 'd' THEN EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
  WHEN 'i' THEN EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid AND i.indimmediate)
  ELSE false
END
