-- The tables of incidents/missing-tables-incident.md after the emergency fix: the code expected migration 80105006e3d3,
-- the database was at 010, and every login failed because user_hierarchy_assignments did not exist. Dropping the three
-- tables and their types brings the incident back. The report names the tables, the types, the version and one user;
-- columns and labels that it does not name are the least that fits.
--
-- What it offers a restore: enum types (in an array too), a table that refers to itself, indexes, checks, comments,
-- grants and a row policy, all of which belong to a dropped table and must come back with it.

CREATE TYPE hierarchylevel AS ENUM ('organization', 'location', 'department', 'user');
CREATE TYPE enhanceduserrole AS ENUM
    ('super_admin', 'org_admin', 'location_manager', 'department_lead', 'user', 'viewer');

CREATE TABLE alembic_version (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);

CREATE TABLE organisations (
    id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE
);

CREATE TABLE users (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email           varchar(255) NOT NULL UNIQUE,
    organisation_id uuid NOT NULL REFERENCES organisations (id),
    is_active       boolean NOT NULL DEFAULT true
);

CREATE TABLE organization_hierarchy (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organisation_id uuid NOT NULL REFERENCES organisations (id) ON DELETE CASCADE,
    parent_id       uuid REFERENCES organization_hierarchy (id) ON DELETE CASCADE,
    name            varchar(255) NOT NULL,
    level           hierarchylevel NOT NULL,
    settings        jsonb,
    is_active       boolean NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organization_hierarchy_root_ck CHECK ((parent_id IS NULL) = (level = 'organization'))
);

CREATE TABLE user_hierarchy_assignments (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hierarchy_node_id uuid NOT NULL REFERENCES organization_hierarchy (id) ON DELETE CASCADE,
    role              enhanceduserrole NOT NULL DEFAULT 'viewer',
    is_primary        boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, hierarchy_node_id)
);

CREATE TABLE hierarchy_permission_overrides (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hierarchy_node_id uuid NOT NULL REFERENCES organization_hierarchy (id) ON DELETE CASCADE,
    permission        varchar(255) NOT NULL,
    granted           boolean NOT NULL,
    applies_to        enhanceduserrole[] NOT NULL DEFAULT '{}',
    reason            text,
    expires_at        timestamptz,
    UNIQUE (user_id, hierarchy_node_id, permission)
);

CREATE INDEX idx_organization_hierarchy_parent ON organization_hierarchy (parent_id);
CREATE INDEX idx_user_hierarchy_user ON user_hierarchy_assignments (user_id);
CREATE UNIQUE INDEX idx_user_hierarchy_primary ON user_hierarchy_assignments (user_id) WHERE is_primary;
CREATE INDEX idx_permission_overrides_lower ON hierarchy_permission_overrides (lower(permission));

COMMENT ON TABLE user_hierarchy_assignments IS 'The critical missing table: every login reads it';
COMMENT ON COLUMN user_hierarchy_assignments.role IS 'Role at this node and below';
GRANT SELECT ON organization_hierarchy, user_hierarchy_assignments TO PUBLIC;
ALTER TABLE user_hierarchy_assignments ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_assignments ON user_hierarchy_assignments FOR SELECT TO PUBLIC
    USING (user_id::text = current_setting('app.user_id', true));

INSERT INTO alembic_version VALUES ('80105006e3d3');

INSERT INTO organisations (id, name)
SELECT md5('organisation ' || n)::uuid, (ARRAY['Zebra Associates', 'Odeon', 'Brixton Hotels'])[n]
FROM generate_series(1, 3) n;

-- User 1 is the one who had to log in.
INSERT INTO users (id, email, organisation_id, is_active)
SELECT md5('user ' || n)::uuid,
       CASE n WHEN 1 THEN 'matt.lindop@zebra.associates' ELSE format('user%s@example.com', n) END,
       md5('organisation ' || ((n - 1) % 3 + 1))::uuid, n % 10 <> 0
FROM generate_series(1, 30) n;

-- A tree per organisation: node 1 to 3 are the roots, three locations each, three departments each.
INSERT INTO organization_hierarchy (id, organisation_id, parent_id, name, level, settings, created_at)
SELECT md5('node ' || n)::uuid, md5('organisation ' || ((n - 1) % 3 + 1))::uuid,
       CASE WHEN n > 12 THEN md5('node ' || (n - 13) / 9 * 3 + 4 + (n - 13) % 3)::uuid
            WHEN n > 3 THEN md5('node ' || (n - 1) % 3 + 1)::uuid END,
       format('Node %s', n),
       CASE WHEN n > 12 THEN 'department' WHEN n > 3 THEN 'location' ELSE 'organization' END::hierarchylevel,
       CASE WHEN n % 4 = 0 THEN '{"timezone": "Europe/London"}'::jsonb END, '2025-09-19 14:45:00Z'
FROM generate_series(1, 39) n;

INSERT INTO user_hierarchy_assignments (id, user_id, hierarchy_node_id, role, is_primary, created_at)
SELECT md5('assignment ' || n)::uuid, md5('user ' || n)::uuid, md5('node ' || ((n - 1) % 3 + 1))::uuid,
       CASE n WHEN 1 THEN 'super_admin' WHEN 2 THEN 'org_admin' ELSE 'user' END::enhanceduserrole, true,
       '2025-09-19 14:45:00Z'
FROM generate_series(1, 30) n;

INSERT INTO hierarchy_permission_overrides (id, user_id, hierarchy_node_id, permission, granted, applies_to, reason)
SELECT md5('override ' || n)::uuid, md5('user ' || n)::uuid, md5('node ' || ((n - 1) % 3 + 1))::uuid,
       CASE n WHEN 1 THEN 'admin:feature-flags' ELSE 'reports:read' END, n <> 5,
       CASE WHEN n % 2 = 0 THEN '{user,viewer}' ELSE '{}' END::enhanceduserrole[], 'emergency fix'
FROM generate_series(1, 10) n;
