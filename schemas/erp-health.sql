-- What the incident's responders asked, and what a user notices.
--
-- The two check functions are the report's and the plan's own, not improved: both count only what is there, so after
-- the cleanup two answers get better, and missing_org_memberships alone is CRITICAL. A restore is right
-- when they answer exactly as before the incident, not when they are all HEALTHY.

CREATE OR REPLACE FUNCTION check_auth_system_health()
RETURNS TABLE(
    check_name text,
    status text,
    details text,
    affected_users bigint
) AS $$
BEGIN
    -- Check 1: Users with missing organization memberships
    RETURN QUERY
    SELECT
        'missing_org_memberships'::text,
        CASE WHEN COUNT(*) = 0 THEN 'HEALTHY' ELSE 'CRITICAL' END::text,
        format('%s users without organization membership', COUNT(*))::text,
        COUNT(*)::bigint
    FROM auth.users au
    LEFT JOIN core_relationships cr ON cr.from_entity_id = au.id::text
        AND cr.relationship_type = 'USER_MEMBER_OF_ORG'
    WHERE cr.id IS NULL;

    -- Check 2: Inactive relationships
    RETURN QUERY
    SELECT
        'inactive_relationships'::text,
        CASE WHEN COUNT(*) = 0 THEN 'HEALTHY' ELSE 'WARNING' END::text,
        format('%s inactive USER_MEMBER_OF_ORG relationships', COUNT(*))::text,
        COUNT(*)::bigint
    FROM core_relationships
    WHERE relationship_type = 'USER_MEMBER_OF_ORG'
    AND is_active = false;

    -- Check 3: Missing dynamic data
    RETURN QUERY
    SELECT
        'missing_user_roles'::text,
        CASE WHEN COUNT(*) = 0 THEN 'HEALTHY' ELSE 'WARNING' END::text,
        format('%s users without role dynamic data', COUNT(*))::text,
        COUNT(*)::bigint
    FROM core_relationships cr
    LEFT JOIN core_dynamic_data dd ON dd.entity_id = cr.from_entity_id
        AND dd.field_name = 'role'
    WHERE cr.relationship_type = 'USER_MEMBER_OF_ORG'
    AND dd.id IS NULL;
END;
$$ LANGUAGE plpgsql;

CREATE OR REPLACE FUNCTION check_authentication_system_health()
RETURNS TABLE(
    check_name text,
    status text,
    severity text,
    details text,
    affected_count bigint,
    resolution_action text
) AS $$
BEGIN
    -- Check 1: Users without organization memberships
    RETURN QUERY
    WITH user_membership_check AS (
        SELECT
            au.id::text as user_id,
            au.email,
            cr.id as relationship_id
        FROM auth.users au
        LEFT JOIN core_relationships cr ON cr.from_entity_id = au.id::text
            AND cr.relationship_type = 'USER_MEMBER_OF_ORG'
            AND cr.is_active = true
    )
    SELECT
        'missing_org_memberships'::text,
        CASE WHEN COUNT(*) FILTER (WHERE relationship_id IS NULL) = 0 THEN 'HEALTHY' ELSE 'CRITICAL' END::text,
        CASE WHEN COUNT(*) FILTER (WHERE relationship_id IS NULL) = 0 THEN 'INFO' ELSE 'CRITICAL' END::text,
        format('%s users without organization membership', COUNT(*) FILTER (WHERE relationship_id IS NULL))::text,
        COUNT(*) FILTER (WHERE relationship_id IS NULL)::bigint,
        'Use emergency_auth_recovery() function to restore access'::text
    FROM user_membership_check;

    -- Check 2: Inactive USER_MEMBER_OF_ORG relationships
    RETURN QUERY
    SELECT
        'inactive_auth_relationships'::text,
        CASE WHEN COUNT(*) = 0 THEN 'HEALTHY' ELSE 'WARNING' END::text,
        CASE WHEN COUNT(*) = 0 THEN 'INFO' ELSE 'WARNING' END::text,
        format('%s inactive USER_MEMBER_OF_ORG relationships', COUNT(*))::text,
        COUNT(*)::bigint,
        'Activate relationships: UPDATE core_relationships SET is_active = true WHERE relationship_type = ''USER_MEMBER_OF_ORG'''::text
    FROM core_relationships
    WHERE relationship_type = 'USER_MEMBER_OF_ORG'
    AND is_active = false;

    -- Check 3: Relationships with invalid smart codes
    RETURN QUERY
    SELECT
        'invalid_smart_codes'::text,
        CASE WHEN COUNT(*) = 0 THEN 'HEALTHY' ELSE 'WARNING' END::text,
        CASE WHEN COUNT(*) = 0 THEN 'INFO' ELSE 'WARNING' END::text,
        format('%s relationships with invalid smart codes', COUNT(*))::text,
        COUNT(*)::bigint,
        'Update smart codes to comply with current constraints'::text
    FROM core_relationships
    WHERE smart_code IS NOT NULL
    AND NOT (
        smart_code ~ '^HERA\.ACCOUNTING\.[A-Z]+(\.[A-Z]+)*\.v2$' OR
        smart_code ~ '^HERA\.UNIVERSAL\.[A-Z]+(\.[A-Z]+)*\.V1$' OR
        smart_code ~ '^HERA\.[A-Z]+(\.[A-Z]+)*\.v1$' OR
        smart_code ~ '^HERA\.WORKFLOW\.[A-Z]+(\.[A-Z]+)*\.v1$' OR
        smart_code ~ '^HERA\.AUTH\.[A-Z]+(\.[A-Z]+)*\.v1$' OR
        smart_code ~ '^HERA\.EMERGENCY\.[A-Z]+(\.[A-Z]+)*\.v1$'
    );

    -- Check 4: Missing role dynamic data
    RETURN QUERY
    WITH role_check AS (
        SELECT
            cr.from_entity_id,
            cr.organization_id,
            dd.id as dynamic_data_id
        FROM core_relationships cr
        LEFT JOIN core_dynamic_data dd ON dd.entity_id = cr.from_entity_id
            AND dd.organization_id = cr.organization_id
            AND dd.field_name IN ('role', 'salon_role')
        WHERE cr.relationship_type = 'USER_MEMBER_OF_ORG'
        AND cr.is_active = true
    )
    SELECT
        'missing_user_roles'::text,
        CASE WHEN COUNT(*) FILTER (WHERE dynamic_data_id IS NULL) = 0 THEN 'HEALTHY' ELSE 'WARNING' END::text,
        CASE WHEN COUNT(*) FILTER (WHERE dynamic_data_id IS NULL) = 0 THEN 'INFO' ELSE 'WARNING' END::text,
        format('%s active users without role data', COUNT(*) FILTER (WHERE dynamic_data_id IS NULL))::text,
        COUNT(*) FILTER (WHERE dynamic_data_id IS NULL)::bigint,
        'Create role dynamic data for affected users'::text
    FROM role_check;
END;
$$ LANGUAGE plpgsql;

-- One row per user: can they log in, into which organizations, and if not, why not. A login needs an active membership
-- and the role that the member has in that organization.
CREATE OR REPLACE VIEW demo_logins AS
SELECT u.email,
       COALESCE(bool_or(role.id IS NOT NULL), false) AS can_log_in,
       array_agg(o.organization_name ORDER BY o.organization_name) FILTER (WHERE role.id IS NOT NULL) AS organizations,
       CASE WHEN count(member.id) = 0 THEN 'no active membership'
            WHEN count(role.id) = 0 THEN 'no role' END AS reason
FROM auth.users u
LEFT JOIN core_relationships member
       ON member.from_entity_id = u.id::text AND member.relationship_type = 'USER_MEMBER_OF_ORG' AND member.is_active
LEFT JOIN core_organizations o ON o.id = member.organization_id
LEFT JOIN core_dynamic_data role
       ON role.entity_id = member.from_entity_id AND role.organization_id = member.organization_id
      AND role.field_name = 'role'
GROUP BY u.id, u.email;

-- Whether this user can log in; false for an address nobody has.
CREATE OR REPLACE FUNCTION demo_login(login_email text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT can_log_in FROM demo_logins WHERE email = login_email), false)
$$;
