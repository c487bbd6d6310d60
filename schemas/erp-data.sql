-- Fills the ERP of erp.sql: SELECT demo_fill() or demo_fill(organizations, relationships, dynamic_data).
--
-- Deterministic: ids are hashes of a kind and a number, times are counted from a fixed day, nothing is random, so two
-- fills of the same size are equal row for row. The n-th thing of a kind belongs to organization n % organizations.
-- Every entity has a smart code of the old `.V1` form, or (like some imported bookings) none, and every relationship
-- touches at least one that has a code: that is what the cleanup of erp-incident.sql deletes.
--
-- Almost half of the time is foreign-key checks of rows that are right by construction. A superuser in a hurry skips
-- them with SET session_replication_role = replica before and RESET after (this also skips any user triggers).

CREATE FUNCTION demo_uuid(kind text, n bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT md5(kind || ':' || n::text)::uuid $$;

CREATE FUNCTION demo_id(kind text, n bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT md5(kind || ':' || n::text)::uuid::text $$;

-- The n-th minute of the data's history.
CREATE FUNCTION demo_time(n bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT to_timestamp(1704096000 + n * 60) $$;

-- How many there are of each, so that every part below counts alike.
CREATE FUNCTION demo_users_per_organization() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 40 $$;
CREATE FUNCTION demo_accounts_per_organization() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 40 $$;
CREATE FUNCTION demo_catalog_per_organization() RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 20 $$;

-- Organizations with their owners and staff. The first is Hair Talkz and its owner is Michele, who were locked out.
CREATE FUNCTION demo_fill_tenants(organizations int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_organizations (id, organization_name, organization_code, settings, created_at, updated_at)
    SELECT demo_uuid('organization', o),
           COALESCE(known.name, format('Salon %s', o + 1)), format('ORG-%s', lpad(o::text, 4, '0')),
           jsonb_build_object('currency', 'AED', 'vat', 5), demo_time(0), demo_time(0)
    FROM generate_series(0, organizations - 1) o
    LEFT JOIN (VALUES (0, 'Hair Talkz'), (1, 'Bluewater Dental'), (2, 'Café Zürich'), (3, 'Nord Logistics'),
                      (4, 'Golden Gate Furniture'), (5, 'O''Brien & Sons'), (6, 'Sakura 美容室'),
                      (7, 'Acme Ice Cream')) known (o, name) USING (o);

    INSERT INTO auth.users (id, email, encrypted_password, raw_user_meta_data, last_sign_in_at, created_at)
    SELECT demo_uuid('user', k * organizations + o),
           CASE WHEN k + o = 0 THEN 'michele@hairtalkz.example'
                ELSE format('user%s@org%s.example', k, o) END,
           md5(format('password %s/%s', k, o)),
           jsonb_build_object('full_name', CASE WHEN k + o = 0 THEN 'Michele' ELSE format('User %s of %s', k, o) END),
           demo_time(k * 90 + o), demo_time(k)
    FROM generate_series(0, demo_users_per_organization() - 1) k, generate_series(0, organizations - 1) o;

    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code,
                               created_at, updated_at)
    SELECT id::text, id, 'organization', organization_code, organization_name,
           'HERA.UNIVERSAL.ENTITY.ORGANIZATION.V1', created_at, updated_at
    FROM core_organizations;

    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code,
                               created_at, updated_at)
    SELECT demo_id('user', n), demo_uuid('organization', n % organizations), 'user',
           format('USR-%s', lpad(n::text, 6, '0')), u.raw_user_meta_data ->> 'full_name',
           'HERA.UNIVERSAL.ENTITY.USER.V1', u.created_at, u.created_at
    FROM generate_series(0, organizations * demo_users_per_organization() - 1) n
    JOIN auth.users u ON u.id = demo_uuid('user', n);
$$;

-- What every organization has: workflow statuses, a chart of accounts, services and products.
CREATE FUNCTION demo_fill_catalog(organizations int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code,
                               created_at, updated_at)
    SELECT demo_id(kind.entity_type, n), demo_uuid('organization', n % organizations), kind.entity_type,
           format('%s-%s', kind.prefix, lpad(n::text, 6, '0')),
           COALESCE(kind.names[n / organizations + 1], format('%s %s', initcap(kind.entity_type), n / organizations)),
           kind.smart_code, demo_time(n), demo_time(n)
    FROM (VALUES
        ('status', 'STA', 5, 'HERA.SALON.WORKFLOW.STATUS.V1',
         ARRAY['Booked', 'Confirmed', 'In service', 'Completed', 'Cancelled']),
        ('account', 'GL', demo_accounts_per_organization(), 'HERA.FINANCE.GL.ACCOUNT.V1',
         ARRAY['Chart of accounts', 'Assets', 'Liabilities', 'Equity', 'Revenue', 'Expenses']),
        ('service', 'SRV', demo_catalog_per_organization(), 'HERA.SALON.SERVICE.CATALOG.V1',
         ARRAY['Cut', 'Colour', 'Blow-dry', 'Keratin', 'Manicure']),
        ('product', 'PRD', demo_catalog_per_organization(), 'HERA.SALON.INVENTORY.PRODUCT.V1',
         ARRAY['Shampoo', 'Conditioner', 'Developer 6%', 'Toner', 'Nail polish'])
    ) kind (entity_type, prefix, per_organization, smart_code, names),
    generate_series(0, kind.per_organization * organizations - 1) n;
$$;

CREATE FUNCTION demo_fill_customers(organizations int, customers int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code,
                               created_at, updated_at)
    SELECT demo_id('customer', n), demo_uuid('organization', n % organizations), 'customer',
           format('CUST-%s', lpad(n::text, 7, '0')), format('Customer %s', n),
           'HERA.CRM.CUSTOMER.PROFILE.V1', demo_time(n), demo_time(n)
    FROM generate_series(0, customers - 1) n;
$$;

-- One booking in 97 came from an import and has no smart code: NULL passes every check and every pattern.
CREATE FUNCTION demo_fill_bookings(organizations int, bookings int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code, metadata,
                               created_at, updated_at)
    SELECT demo_id('appointment', n), demo_uuid('organization', n % organizations), 'appointment',
           format('APT-%s', lpad(n::text, 8, '0')), format('Appointment %s', n),
           CASE WHEN n % 97 <> 0 THEN 'HERA.SALON.APPOINTMENT.BOOKING.V1' END,
           CASE WHEN n % 97 = 0 THEN '{"source": "import"}' ELSE '{}' END::jsonb,
           demo_time(n * 10), demo_time(n * 10)
    FROM generate_series(0, bookings - 1) n;
$$;

-- Who belongs to which organization. Every user has an active membership at home; every tenth also works next door,
-- half of those no longer (an inactive membership that a restore must bring back as inactive).
CREATE FUNCTION demo_memberships(organizations int)
RETURNS TABLE (n bigint, user_n bigint, organization_n bigint, is_active boolean, role text) LANGUAGE sql AS $$
    WITH users AS (
        SELECT u::bigint AS user_n, u % organizations AS home, u / organizations AS rank
        FROM generate_series(0, organizations * demo_users_per_organization() - 1) u
    )
    SELECT row_number() OVER (ORDER BY next_door, user_n) - 1, user_n,
           CASE WHEN next_door THEN (home + 1) % organizations ELSE home END,
           NOT next_door OR rank % 20 = 5,
           CASE rank WHEN 0 THEN 'owner' WHEN 1 THEN 'manager' WHEN 2 THEN 'accountant'
                     ELSE CASE WHEN rank % 8 = 3 THEN 'receptionist' ELSE 'stylist' END END
    FROM users, (VALUES (false), (true)) place (next_door)
    WHERE NOT next_door OR (rank % 10 = 5 AND organizations > 1);
$$;

-- The relationships whose number depends on the organizations and customers alone.
CREATE FUNCTION demo_fill_structure(organizations int, customers int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    relationship_data, is_active, effective_date, created_at, updated_at)
    SELECT demo_uuid('membership', n), demo_uuid('organization', organization_n), demo_id('user', user_n),
           demo_id('organization', organization_n), 'USER_MEMBER_OF_ORG', 'HERA.UNIVERSAL.MEMBERSHIP.USER.ORG.V1',
           jsonb_build_object('role', role), is_active, demo_time(n), demo_time(n), demo_time(n)
    FROM demo_memberships(organizations);

    -- A tree of six branches per node; the root has no parent.
    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    relationship_data, effective_date, created_at, updated_at)
    SELECT demo_uuid('hierarchy', k * organizations + o), demo_uuid('organization', o),
           demo_id('account', (k - 1) / 6 * organizations + o), demo_id('account', k * organizations + o),
           'PARENT_OF', 'HERA.FINANCE.GL.HIERARCHY.V1', jsonb_build_object('position', (k - 1) % 6),
           demo_time(k), demo_time(k), demo_time(k)
    FROM generate_series(1, demo_accounts_per_organization() - 1) k, generate_series(0, organizations - 1) o;

    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    relationship_strength, effective_date, created_at, updated_at)
    SELECT demo_uuid('usage', n), demo_uuid('organization', n % organizations), demo_id('service', n),
           demo_id('product', n), 'SERVICE_USES_PRODUCT', 'HERA.SALON.INVENTORY.USAGE.V1',
           (n % 100) / 100.0, demo_time(n), demo_time(n), demo_time(n)
    FROM generate_series(0, organizations * demo_catalog_per_organization() - 1) n;

    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    ai_confidence, ai_classification, effective_date, created_at, updated_at)
    SELECT demo_uuid('customer-of', n), demo_uuid('organization', n % organizations), demo_id('customer', n),
           demo_id('organization', n % organizations), 'CUSTOMER_OF', 'HERA.CRM.CUSTOMER.RELATIONSHIP.V1',
           (n % 1000) / 1000.0, CASE WHEN n % 10 = 0 THEN 'vip' ELSE 'regular' END,
           demo_time(n), demo_time(n), demo_time(n)
    FROM generate_series(0, customers - 1) n;
$$;

-- The rest of the relationships: up to eight per booking. Every 49th is without a smart code, every 1999th
-- carries a signed consent large enough for TOAST.
CREATE FUNCTION demo_fill_booking_relationships(organizations int, customers int, bookings int, wanted int)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    relationship_data, metadata, effective_date, created_at, updated_at, created_by)
    SELECT demo_uuid('booking', n), demo_uuid('organization', o), demo_id('appointment', a),
           demo_id(slot.target, slot.spread * (k % slot.choices) * organizations + o),
           slot.relationship_type,
           CASE WHEN n % 49 <> 0 THEN slot.smart_code END,
           jsonb_build_object('position', n % 8),
           CASE WHEN n % 1999 = 0 THEN jsonb_build_object('consent', (
               SELECT string_agg(md5(format('%s %s', n, part)), '') FROM generate_series(1, 120) part)) END,
           demo_time(a * 10), demo_time(a * 10), demo_time(a * 10),
           demo_uuid('user', k % demo_users_per_organization() * organizations + o)
    FROM generate_series(0, wanted - 1) n
    CROSS JOIN LATERAL (SELECT n / 8 AS a, n / 8 % organizations AS o, n / 8 / organizations AS k) booking
    JOIN (VALUES
        (0, 'HAS_STATUS', 'status', 5, 1, 'HERA.SALON.WORKFLOW.STATUS.V1'),
        (1, 'APPOINTMENT_FOR_CUSTOMER', 'customer', customers / organizations, 1, 'HERA.CRM.CUSTOMER.RELATIONSHIP.V1'),
        (2, 'APPOINTMENT_WITH_STAFF', 'user', demo_users_per_organization(), 1, 'HERA.SALON.APPOINTMENT.STAFF.V1'),
        (3, 'APPOINTMENT_SERVICE', 'service', demo_catalog_per_organization(), 1, 'HERA.SALON.APPOINTMENT.SERVICE.V1'),
        (4, 'APPOINTMENT_USES_PRODUCT', 'product', demo_catalog_per_organization(), 1, 'HERA.SALON.INVENTORY.USAGE.V1'),
        (5, 'POSTED_TO_ACCOUNT', 'account', demo_accounts_per_organization(), 1, 'HERA.FINANCE.GL.POSTING.V1'),
        (6, 'CREATED_BY_USER', 'user', demo_users_per_organization(), 1, 'HERA.UNIVERSAL.AUDIT.CREATOR.V1'),
        -- An organization has one entity, its own; spread 0 always picks it.
        (7, 'APPOINTMENT_AT_ORG', 'organization', 1, 0, 'HERA.SALON.APPOINTMENT.LOCATION.V1')
    ) slot (position, relationship_type, target, choices, spread, smart_code) ON slot.position = n % 8;
$$;

-- Roles of the members, and one permission list per owner: what a login reads besides the membership.
CREATE FUNCTION demo_fill_roles(organizations int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_dynamic_data (id, organization_id, entity_id, field_name, field_type, field_value_text, smart_code,
                                   created_at, updated_at)
    SELECT demo_uuid('role', n), demo_uuid('organization', organization_n), demo_id('user', user_n), 'role', 'text',
           role, 'HERA.UNIVERSAL.USER.ROLE.V1', demo_time(n), demo_time(n)
    FROM demo_memberships(organizations);

    INSERT INTO core_dynamic_data (id, organization_id, entity_id, field_name, field_type, field_value_json, smart_code,
                                   created_at, updated_at)
    SELECT demo_uuid('permissions', n), demo_uuid('organization', organization_n), demo_id('user', user_n),
           'permissions', 'json', '["admin:full", "salon:all"]', 'HERA.UNIVERSAL.USER.PERMISSIONS.V1',
           demo_time(n), demo_time(n)
    FROM demo_memberships(organizations) WHERE role = 'owner';
$$;

-- The rest of the dynamic data: the first field of every booking, then the second of every booking, and so on.
CREATE FUNCTION demo_fill_fields(organizations int, bookings int, wanted int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO core_dynamic_data (id, organization_id, entity_id, field_name, field_type, field_value_text,
                                   field_value_number, field_value_boolean, field_value_date, field_value_json,
                                   smart_code, created_at, updated_at)
    SELECT demo_uuid('field', n), demo_uuid('organization', a % organizations), demo_id('appointment', a),
           COALESCE(field.name, format('custom_%s', slot)), COALESCE(field.type, 'text'),
           CASE COALESCE(field.type, 'text') WHEN 'text' THEN format('%s %s', COALESCE(field.name, 'value'), n) END,
           CASE field.type WHEN 'number' THEN (n % 90000) / 100.0 END,
           CASE field.type WHEN 'boolean' THEN n % 3 = 0 END,
           CASE field.type WHEN 'date' THEN demo_time(a * 10 + 1440) END,
           CASE field.type WHEN 'json' THEN jsonb_build_object('allergies', n % 11 = 0, 'tea', n % 2 = 0) END,
           'HERA.SALON.APPOINTMENT.FIELD.V1', demo_time(a * 10), demo_time(a * 10)
    FROM generate_series(0, wanted - 1) n
    CROSS JOIN LATERAL (SELECT n % bookings AS a, n / bookings AS slot) place
    LEFT JOIN (VALUES (0, 'status', 'text'), (1, 'price', 'number'), (2, 'starts_at', 'date'), (3, 'notes', 'text'),
                      (4, 'confirmed', 'boolean'), (5, 'preferences', 'json'), (6, 'duration', 'number'),
                      (7, 'channel', 'text')) field (slot, name, type) USING (slot);
$$;

-- Fills empty tables, with about seven relationships per entity: the incident's DELETE hashes the entities' ids, and
-- where they do not fit work_mem it compares every row with every id (see erp-incident.sql). The rows are exactly as many
-- as asked, unless the organizations' own structure needs more already (about 125 relationships and 45 fields each).
-- Returns the count of each table.
CREATE FUNCTION demo_fill(
    organizations int DEFAULT 8, relationships int DEFAULT 200000, dynamic_data int DEFAULT 200000
) RETURNS TABLE (table_name text, row_count bigint) LANGUAGE plpgsql AS $$
DECLARE
    customers int;
    bookings int;
    missing int;
BEGIN
    IF organizations < 1 THEN
        RAISE EXCEPTION 'demo_fill needs at least one organization, not %', organizations;
    END IF;
    customers := organizations * greatest(20, relationships / 80 / organizations);
    PERFORM demo_fill_tenants(organizations);
    PERFORM demo_fill_catalog(organizations);
    PERFORM demo_fill_customers(organizations, customers);
    PERFORM demo_fill_structure(organizations, customers);
    PERFORM demo_fill_roles(organizations);

    missing := greatest(0, relationships - (SELECT count(*) FROM core_relationships)::int);
    bookings := greatest(1, (missing + 7) / 8);
    PERFORM demo_fill_bookings(organizations, bookings);
    PERFORM demo_fill_booking_relationships(organizations, customers, bookings, missing);

    missing := greatest(0, dynamic_data - (SELECT count(*) FROM core_dynamic_data)::int);
    PERFORM demo_fill_fields(organizations, bookings, missing);
    ANALYZE auth.users, core_organizations, core_entities, core_relationships, core_dynamic_data;

    RETURN QUERY
        SELECT 'auth.users', count(*) FROM auth.users
        UNION ALL SELECT 'core_organizations', count(*) FROM core_organizations
        UNION ALL SELECT 'core_entities', count(*) FROM core_entities
        UNION ALL SELECT 'core_relationships', count(*) FROM core_relationships
        UNION ALL SELECT 'core_dynamic_data', count(*) FROM core_dynamic_data;
END;
$$;
