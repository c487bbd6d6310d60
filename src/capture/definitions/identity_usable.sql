-- Whether a table c can be published as it stands: without a usable identity its own UPDATE would fail.
CASE c.relreplident
  WHEN 'f' THEN true
  -- A deferrable key identifies nothing.
  WHEN 'd' THEN EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
  WHEN 'i' THEN EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid AND i.indimmediate)
  ELSE false
END
