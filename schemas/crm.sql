-- The CRM of incidents/crm-data-integrity-review.md: its tables, keys, unique constraints and defaults as the review
-- lists them, without the checks that it recommends (they are what `check` is tried on). Columns that it does not name
-- are the obvious ones. For a database of its own: the review's queries name the tables without a schema.
--
-- What it offers a restore: deletes that cascade over three levels (a tenant), deletes that set NULL elsewhere (a
-- company, a contact, a user, a stage), soft deletes, and a retention job that deletes by age.

CREATE TABLE tenants (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       varchar(100) NOT NULL,
    slug       varchar(100) NOT NULL CONSTRAINT unique_tenant_slug UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    email         varchar(255) NOT NULL,
    name          varchar(100),
    role          varchar(20) NOT NULL DEFAULT 'member',
    password_hash text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    CONSTRAINT unique_user_email_tenant UNIQUE (email, tenant_id)
);

CREATE TABLE pipeline_stages (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name       varchar(100) NOT NULL,
    position   integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT unique_stage_name_tenant UNIQUE (name, tenant_id)
);

CREATE TABLE companies (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    owner_id   uuid REFERENCES users (id) ON DELETE SET NULL,
    name       varchar(200) NOT NULL,
    domain     varchar(255),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);

CREATE TABLE contacts (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    company_id uuid REFERENCES companies (id) ON DELETE SET NULL,
    owner_id   uuid REFERENCES users (id) ON DELETE SET NULL,
    first_name varchar(100) NOT NULL,
    last_name  varchar(100) NOT NULL,
    email      varchar(255),
    phone      varchar(50),
    notes      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);

CREATE TABLE deals (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    contact_id  uuid REFERENCES contacts (id) ON DELETE SET NULL,
    company_id  uuid REFERENCES companies (id) ON DELETE SET NULL,
    stage_id    uuid REFERENCES pipeline_stages (id) ON DELETE SET NULL,
    owner_id    uuid REFERENCES users (id) ON DELETE SET NULL,
    title       varchar(200) NOT NULL,
    value       numeric(12,2),
    probability integer DEFAULT 0,
    position    integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);

CREATE TABLE activities (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    contact_id   uuid REFERENCES contacts (id) ON DELETE SET NULL,
    company_id   uuid REFERENCES companies (id) ON DELETE SET NULL,
    deal_id      uuid REFERENCES deals (id) ON DELETE SET NULL,
    owner_id     uuid REFERENCES users (id) ON DELETE SET NULL,
    type         varchar(20) NOT NULL,
    subject      varchar(200),
    is_completed boolean NOT NULL DEFAULT false,
    due_at       timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz
);

CREATE TABLE tags (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name       varchar(50) NOT NULL,
    color      varchar(7),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT unique_tag_name_tenant UNIQUE (name, tenant_id)
);

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    created_by uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name       varchar(100) NOT NULL,
    key_hash   varchar(64) NOT NULL CONSTRAINT unique_api_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_logs (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id   uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    user_id     uuid REFERENCES users (id) ON DELETE SET NULL,
    action      varchar(50) NOT NULL,
    entity_type varchar(50),
    entity_id   uuid,
    changes     jsonb,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE import_jobs (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    status     varchar(20) NOT NULL DEFAULT 'pending',
    total_rows integer,
    errors     jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX contacts_company_idx ON contacts (company_id);
CREATE INDEX deals_stage_idx ON deals (stage_id, position);
CREATE INDEX activities_deal_idx ON activities (deal_id);

-- The data: three tenants and, from a registration that crashed half-way (2.1), a fourth with neither user nor stage.
-- It holds one case of everything that the review warns of; where, is said at each.

CREATE FUNCTION crm_id(kind text, n int) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$ SELECT md5(kind || ':' || n::text)::uuid $$;

INSERT INTO tenants (id, name, slug, created_at)
SELECT crm_id('tenant', n), name, slug, '2025-01-01 00:00:00Z'
FROM (VALUES (0, 'Gonthia', 'gonthia'), (1, 'Müller & Söhne', 'mueller'), (2, 'Orient Trading', 'orient'),
             (3, 'Half Registered', 'half-registered')) t (n, name, slug);

-- Five per tenant, the first the owner; one tenant's fifth is soft-deleted.
INSERT INTO users (id, tenant_id, email, name, role, created_at, updated_at, deleted_at)
SELECT crm_id('user', n), crm_id('tenant', n % 3), format('user%s@%s.example', n / 3, n % 3), format('User %s', n),
       CASE WHEN n < 3 THEN 'owner' ELSE 'member' END, '2025-01-01 00:00:00Z', '2025-01-01 00:00:00Z',
       CASE WHEN n = 14 THEN '2025-06-01 00:00:00Z'::timestamptz END
FROM generate_series(0, 14) n;

INSERT INTO pipeline_stages (id, tenant_id, name, position, created_at)
SELECT crm_id('stage', n), crm_id('tenant', n % 3),
       (ARRAY['Lead', 'Qualified', 'Proposal', 'Negotiation', 'Won'])[n / 3 + 1], n / 3, '2025-01-01 00:00:00Z'
FROM generate_series(0, 14) n;

-- Every tenth is soft-deleted, and its contacts still point to it (2.2).
INSERT INTO companies (id, tenant_id, owner_id, name, domain, created_at, updated_at, deleted_at)
SELECT crm_id('company', n), crm_id('tenant', n % 3), crm_id('user', n % 15), format('Company %s', n),
       format('company%s.example', n), '2025-01-02 00:00:00Z', '2025-01-02 00:00:00Z',
       CASE WHEN n % 10 = 9 THEN '2025-07-01 00:00:00Z'::timestamptz END
FROM generate_series(0, 59) n;

INSERT INTO contacts (id, tenant_id, company_id, owner_id, first_name, last_name, email, phone, notes,
                      created_at, updated_at)
SELECT crm_id('contact', n), crm_id('tenant', n % 3), crm_id('company', n % 60), crm_id('user', n % 15),
       (ARRAY['Ana', 'Björn', 'Chidi', '莉'])[n % 4 + 1], format('Contact %s', n),
       format('contact%s@mail.example', n),
       CASE WHEN n % 5 <> 0 THEN format('+49 30 %s', lpad(n::text, 6, '0')) END,
       -- Notes have no maximum length (5.2): a few are long enough for TOAST.
       CASE WHEN n % 100 = 0
            THEN (SELECT string_agg(md5(format('%s %s', n, part)), ' ') FROM generate_series(1, 150) part) END,
       '2025-01-03 00:00:00Z', '2025-01-03 00:00:00Z'
FROM generate_series(0, 299) n;

-- One deal below zero and one above 100 % (3.2), and some without a stage (2.3).
INSERT INTO deals (id, tenant_id, contact_id, company_id, stage_id, owner_id, title, value, probability, position,
                   created_at, updated_at)
SELECT crm_id('deal', n), crm_id('tenant', n % 3), crm_id('contact', n), crm_id('company', n % 60),
       CASE WHEN n % 30 <> 29 THEN crm_id('stage', n % 15) END, crm_id('user', n % 15), format('Deal %s', n),
       CASE n WHEN 7 THEN -100 ELSE n * 125.50 END, CASE n WHEN 8 THEN 150 ELSE n % 101 END, n / 15,
       '2025-02-01 00:00:00Z', '2025-02-01 00:00:00Z'
FROM generate_series(0, 149) n;

INSERT INTO activities (id, tenant_id, contact_id, company_id, deal_id, owner_id, type, subject, is_completed, due_at,
                        created_at, updated_at)
SELECT crm_id('activity', n), crm_id('tenant', n % 3), crm_id('contact', n % 300), crm_id('company', n % 60),
       CASE WHEN n % 4 <> 0 THEN crm_id('deal', n % 150) END, crm_id('user', n % 15),
       (ARRAY['call', 'email', 'meeting', 'task'])[n % 4 + 1], format('Activity %s', n), n % 2 = 0,
       '2025-03-01 00:00:00Z'::timestamptz + n * interval '1 hour', '2025-02-02 00:00:00Z', '2025-02-02 00:00:00Z'
FROM generate_series(0, 599) n;

INSERT INTO tags (id, tenant_id, name, color, created_at)
SELECT crm_id('tag', n), crm_id('tenant', n % 3), (ARRAY['hot', 'cold', 'vip'])[n / 3 + 1], '#ff0000',
       '2025-01-02 00:00:00Z'
FROM generate_series(0, 8) n;

INSERT INTO api_keys (id, tenant_id, created_by, name, key_hash, created_at)
SELECT crm_id('key', n), crm_id('tenant', n), crm_id('user', n), 'Website form', md5(n::text) || md5(n::text || 'b'),
       '2025-01-02 00:00:00Z'
FROM generate_series(0, 2) n;

-- Half of them are older than the two years of the retention job (8.3), which spares two of the actions. The other half
-- is dated so far ahead that it never gets old: the data must not depend on the day it is loaded.
INSERT INTO audit_logs (id, tenant_id, user_id, action, entity_type, entity_id, changes, created_at)
SELECT crm_id('audit', n), crm_id('tenant', n % 3), crm_id('user', n % 15),
       (ARRAY['create', 'update', 'delete', 'login', 'user.remove'])[n % 5 + 1], 'contact', crm_id('contact', n % 300),
       jsonb_build_object('field', 'notes', 'n', n),
       CASE WHEN n % 2 = 0 THEN '2022-01-01 00:00:00Z' ELSE '2122-01-01 00:00:00Z' END::timestamptz
FROM generate_series(0, 399) n;

INSERT INTO import_jobs (id, tenant_id, created_by, status, total_rows, errors, created_at)
SELECT crm_id('import', n), crm_id('tenant', n), crm_id('user', n), (ARRAY['complete', 'failed', 'pending'])[n + 1],
       100 * n, CASE n WHEN 1 THEN '["row 42: no email"]' ELSE '[]' END::jsonb, '2025-01-05 00:00:00Z'
FROM generate_series(0, 2) n;
