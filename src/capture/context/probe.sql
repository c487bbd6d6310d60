-- What the trigger costs a statement: rows into a table of the probe's own, with and without, the fastest of several rounds
-- each. Microseconds for a statement that is new to its transaction, and for one that was noted already.
DO $probe$
DECLARE
  began timestamptz;
  took float8;
  best float8[] := '{}';
BEGIN
  CREATE TABLE {schema}.probe (id int);
  FOR kind IN 1..4 LOOP
    IF kind = 3 THEN
      CREATE TRIGGER probe AFTER INSERT ON {schema}.probe FOR EACH STATEMENT EXECUTE FUNCTION {schema}.afterimage_context();
    END IF;
    FOR round IN 1..10 LOOP
      began := clock_timestamp();
      FOR row IN 1..100 LOOP
        -- The same in both, so that the difference is the trigger's.
        PERFORM set_config(CASE WHEN kind % 2 = 1 THEN 'afterimage.said' ELSE 'afterimage.probed' END, '', true);
        INSERT INTO {schema}.probe VALUES (row);
      END LOOP;
      took := extract(epoch FROM clock_timestamp() - began) * 10000;
      best[kind] := least(best[kind], took);
    END LOOP;
  END LOOP;
  PERFORM set_config('afterimage.probed', format('%s %s', best[3] - best[1], best[4] - best[2]), true);
END
$probe$
