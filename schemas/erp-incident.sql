-- The incident: the statement of 93-comprehensive-cascade-cleanup.sql, as the incident ran it. It is one statement, so
-- whoever runs it gets one transaction and the count of deleted rows.
--
-- It judges the entities at both ends by their smart codes, not the relationships, and `.V1` never matches `.v[12]`:
-- one old entity at either end is enough. The restrictive check on core_relationships came after it, not here.
--
-- PostgreSQL hashes the two lists of ids only where they fit work_mem times hash_mem_multiplier. The default fill fits
-- the default settings of every version; above 400,000 relationships (14) or 900,000 (15 and later) raise work_mem
-- first, or each row is compared with every id.

DELETE FROM core_relationships
WHERE from_entity_id IN (
    SELECT id FROM core_entities
    WHERE smart_code IS NOT NULL
    AND NOT (smart_code ~ '^HERA\.[A-Z]+(\.[A-Z]+)*\.v[12]$')
    AND NOT (smart_code ~ '^HERA\.ACCOUNTING\.[A-Z]+(\.[A-Z]+)*\.v2$')
)
OR to_entity_id IN (
    SELECT id FROM core_entities
    WHERE smart_code IS NOT NULL
    AND NOT (smart_code ~ '^HERA\.[A-Z]+(\.[A-Z]+)*\.v[12]$')
    AND NOT (smart_code ~ '^HERA\.ACCOUNTING\.[A-Z]+(\.[A-Z]+)*\.v2$')
);
