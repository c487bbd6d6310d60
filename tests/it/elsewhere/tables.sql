CREATE TABLE people (id int PRIMARY KEY, name text, born date, pay numeric(10,2), note text, tags text[], photo bytea,
    seen timestamptz, local timestamp, ok bool, score float8, big bigint);
ALTER TABLE people ALTER note SET STORAGE EXTERNAL;
INSERT INTO people SELECT i, 'p' || i, date '1990-01-01' + i, i * 1.5,
    CASE WHEN i % 5 = 0 THEN repeat('n' || i, 2000) ELSE 'small' END, ARRAY['a' || i, NULL],
    decode(lpad(to_hex(i), 8, '0'), 'hex'), '2025-01-01 00:00:00.123456+00'::timestamptz + i * interval '1 h',
    '2025-01-01'::timestamp + i * interval '1 s', i % 2 = 0, i / 3.0, i * 1000000000000
FROM generate_series(1, 120) i;
UPDATE people SET born = 'infinity', pay = 'NaN' WHERE id IN (7, 8);
CREATE TABLE bag (a int, b text, w numeric(6,2));
ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag SELECT i % 5, 'b' || i % 3, i % 2 FROM generate_series(1, 40) i;
CREATE TABLE days (d date, n text, "Odd Name" int, "a,b" text, "it's \ `a`" text, PRIMARY KEY (d, n));
INSERT INTO days VALUES ('2025-01-01', 'x', 1, 'p'), ('infinity', 'x', 2, 'q'), ('-infinity', 'x', 3, 'r'),
    ('2025-01-02', 'y', 4, NULL);
CREATE TABLE parts (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us (v text, id int NOT NULL, region text NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE parts ATTACH PARTITION parts_us FOR VALUES IN ('us');
INSERT INTO parts SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'v' || i FROM generate_series(1, 20) i;
CREATE TABLE cleared (id int PRIMARY KEY, v text NOT NULL);
INSERT INTO cleared VALUES (1, 'one'), (2, 'two');
CREATE TABLE still (id int PRIMARY KEY, v text);
INSERT INTO still VALUES (1, 'one');
CREATE TABLE empty (id int PRIMARY KEY, v text);
