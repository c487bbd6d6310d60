-- The ERP of incidents/hera-incident-report.md, as it was before the deployment that emptied core_relationships.
--
-- Everything the business means lives in three generic tables: an entity (a customer, a booking, an account, a user),
-- a relationship between two entities, and a typed field of an entity. A tenant is an organization_id.
--
-- The types follow the incident's own queries, which must run here unchanged:
--   * entity ids are uuids kept as text, because `from_entity_id = auth.users.id::text` and
--     `from_entity_id IN (SELECT id FROM core_entities)` both occur;
--   * organization ids and relationship ids are uuid, because the recovery functions pass them as such;
--   * an organization and a user are entities too, under their own id as text, because a membership runs from
--     the user to the organization.

CREATE SCHEMA auth;

CREATE TABLE auth.users (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email              text NOT NULL UNIQUE,
    encrypted_password text,
    raw_user_meta_data jsonb NOT NULL DEFAULT '{}',
    last_sign_in_at    timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE core_organizations (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_name text NOT NULL,
    organization_code text NOT NULL UNIQUE,
    status            text NOT NULL DEFAULT 'active',
    settings          jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE core_entities (
    id              text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    organization_id uuid NOT NULL REFERENCES core_organizations (id),
    entity_type     text NOT NULL,
    entity_code     text NOT NULL,
    entity_name     text NOT NULL,
    smart_code      text,
    status          text NOT NULL DEFAULT 'active',
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    created_by      uuid,
    updated_by      uuid,
    version         integer NOT NULL DEFAULT 1,
    UNIQUE (organization_id, entity_type, entity_code)
);

CREATE TABLE core_relationships (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id        uuid NOT NULL REFERENCES core_organizations (id),
    from_entity_id         text NOT NULL REFERENCES core_entities (id) ON DELETE CASCADE,
    to_entity_id           text NOT NULL REFERENCES core_entities (id) ON DELETE CASCADE,
    relationship_type      text NOT NULL,
    relationship_direction text NOT NULL DEFAULT 'forward',
    relationship_strength  numeric(5,4) NOT NULL DEFAULT 1,
    relationship_data      jsonb NOT NULL DEFAULT '{}',
    metadata               jsonb,
    smart_code             text,
    smart_code_status      text NOT NULL DEFAULT 'ACTIVE',
    ai_confidence          numeric(5,4),
    ai_classification      text,
    ai_insights            jsonb,
    business_logic         jsonb,
    validation_rules       jsonb,
    is_active              boolean NOT NULL DEFAULT true,
    effective_date         timestamptz NOT NULL DEFAULT now(),
    expiration_date        timestamptz,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    created_by             uuid,
    updated_by             uuid,
    version                integer NOT NULL DEFAULT 1,
    -- The permissive check of before. It is not named core_relationships_smart_code_ck, because the deployment
    -- adds its restrictive check under that name without dropping anything first.
    CONSTRAINT core_relationships_smart_code_shape_ck
        CHECK (smart_code ~ '^HERA(\.[A-Za-z0-9_]+)+\.[vV][0-9]+$')
);

CREATE INDEX core_relationships_from_idx ON core_relationships (from_entity_id, relationship_type);
CREATE INDEX core_relationships_to_idx ON core_relationships (to_entity_id);
CREATE INDEX core_relationships_type_idx ON core_relationships (organization_id, relationship_type);

CREATE TABLE core_dynamic_data (
    id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id     uuid NOT NULL REFERENCES core_organizations (id),
    entity_id           text NOT NULL REFERENCES core_entities (id) ON DELETE CASCADE,
    field_name          text NOT NULL,
    field_type          text NOT NULL CHECK (field_type IN ('text', 'number', 'boolean', 'date', 'json')),
    field_value_text    text,
    field_value_number  numeric,
    field_value_boolean boolean,
    field_value_date    timestamptz,
    field_value_json    jsonb,
    smart_code          text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    created_by          uuid,
    updated_by          uuid,
    version             integer NOT NULL DEFAULT 1,
    -- The conflict target of emergency_auth_recovery(). The entity leads, so that the index serves its foreign key too.
    UNIQUE (entity_id, organization_id, field_name)
);
