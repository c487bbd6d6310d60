-- The deployment that follows the cleanup, as the incident ran it: the restrictive check that admits only what the cleanup
-- has left, and so none of the rows that it has deleted with an older smart code. This is what every attempt to bring them
-- back failed on.

ALTER TABLE core_relationships ADD CONSTRAINT core_relationships_smart_code_ck
CHECK (
    smart_code ~ '^HERA\.[A-Z]+(\.[A-Z]+)*\.v[12]$' OR
    smart_code ~ '^HERA\.ACCOUNTING\.[A-Z]+(\.[A-Z]+)*\.v2$'
);
