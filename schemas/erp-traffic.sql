-- Legitimate traffic: SELECT demo_traffic(worker, step), each call one small transaction, from any number of sessions
-- (one worker number each, steps counting up from 0). It is the public booking page, which asks for no membership, so
-- it goes on during and after the incident while every user is locked out.
--
-- Each call books an appointment (an entity, a relationship to its customer, two fields), then changes one earlier
-- booking. What the cleanup of erp-incident.sql does to these rows:
--   * even steps book the old way: the entity is `HERA.SALON.APPOINTMENT.BOOKING.V1`, the customer an existing one.
--     The cleanup deletes their relationship if it was committed before the cleanup began;
--   * odd steps book the new way, `HERA.SALON.APPOINTMENT.BOOKING.v2`, for the worker's walk-in customer
--     `HERA.CRM.CUSTOMER.WALKIN.v2`. The cleanup never touches them;
--   * the relationships' own smart code ends in `.v1`, which the restrictive check of the deployment admits too, so
--     that bookings go on when it is added.
-- Whatever is committed after the cleanup, even or odd, is legitimate: a restore must leave it alone.
--
-- Calls hold at most one lock on an older relationship, and take it last, so that they never deadlock with a statement
-- that deletes many.

-- The entity's id and relationship's id of a worker's booking.
CREATE FUNCTION demo_traffic_id(kind text, worker int, step int) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT md5(kind || ':' || worker::text || ':' || step::text)::uuid $$;

-- Books; returns whether it did. A step that was booked already (a client's retry) is left as it is.
CREATE FUNCTION demo_book(worker int, step int, organization uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    old_style boolean := step % 2 = 0;
    appointment text := demo_traffic_id('web-appointment', worker, step)::text;
    customer text := demo_traffic_id('web-walk-in', worker, 0)::text;
BEGIN
    INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code)
    VALUES (appointment, organization, 'appointment', format('WEB-%s-%s', worker, step),
            format('Web booking %s of %s', step, worker),
            'HERA.SALON.APPOINTMENT.BOOKING.' || CASE WHEN old_style THEN 'V1' ELSE 'v2' END)
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF old_style THEN
        SELECT id INTO STRICT customer FROM core_entities
        WHERE organization_id = organization AND entity_type = 'customer'
        ORDER BY entity_code OFFSET step / 2 % 20 LIMIT 1;
    ELSE
        INSERT INTO core_entities (id, organization_id, entity_type, entity_code, entity_name, smart_code)
        VALUES (customer, organization, 'walk-in', format('WALK-%s', worker), format('Walk-in of %s', worker),
                'HERA.CRM.CUSTOMER.WALKIN.v2')
        ON CONFLICT (id) DO NOTHING;
    END IF;

    INSERT INTO core_relationships (id, organization_id, from_entity_id, to_entity_id, relationship_type, smart_code,
                                    relationship_data)
    VALUES (demo_traffic_id('web-relationship', worker, step), organization, appointment, customer,
            'APPOINTMENT_FOR_CUSTOMER', 'HERA.CRM.CUSTOMER.RELATIONSHIP.v1', '{"status": "booked"}');
    INSERT INTO core_dynamic_data (organization_id, entity_id, field_name, field_type, field_value_text,
                                   field_value_number, smart_code)
    VALUES (organization, appointment, 'status', 'text', 'booked', NULL, 'HERA.SALON.APPOINTMENT.FIELD.V1'),
           (organization, appointment, 'price', 'number', NULL, step % 90 + 9.5, 'HERA.SALON.APPOINTMENT.FIELD.V1');
    RETURN true;
END;
$$;

-- One change of an earlier booking: steps ending in 9 delete a web booking of the worker, whose relationship and
-- fields go with it; of the others every third confirms an old booking, and the rest the worker's previous one.
-- After the cleanup the relationship may be gone; then only the field changes, as in the application.
CREATE FUNCTION demo_change_booking(worker int, step int, organization uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    appointment text := demo_traffic_id('web-appointment', worker, step - 1)::text;
BEGIN
    IF step % 10 = 9 THEN
        -- Three or four steps back, so that both styles are cancelled.
        DELETE FROM core_entities
        WHERE id = demo_traffic_id('web-appointment', worker, step - 3 - step / 10 % 2)::text;
        RETURN;
    END IF;
    IF step % 3 = 0 THEN
        SELECT id INTO STRICT appointment FROM core_entities
        WHERE organization_id = organization AND entity_type = 'appointment'
        ORDER BY entity_code OFFSET step % 50 LIMIT 1;
    END IF;
    UPDATE core_dynamic_data SET field_value_text = 'confirmed', updated_at = now(), version = version + 1
    WHERE entity_id = appointment AND organization_id = organization AND field_name = 'status';
    UPDATE core_relationships
    SET relationship_data = relationship_data || '{"status": "confirmed"}', updated_at = now(), version = version + 1
    WHERE from_entity_id = appointment
      AND relationship_type = CASE WHEN step % 3 = 0 THEN 'HAS_STATUS' ELSE 'APPOINTMENT_FOR_CUSTOMER' END;
END;
$$;

-- One transaction of one client; returns whether it changed anything (a retried step does not). Worker and step count
-- from 0. It needs the data of demo_fill() and fails on an empty ERP.
CREATE FUNCTION demo_traffic(worker int, step int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    organization uuid;
BEGIN
    SELECT id INTO STRICT organization FROM core_organizations
    ORDER BY organization_code OFFSET worker % (SELECT greatest(count(*), 1) FROM core_organizations) LIMIT 1;
    IF NOT demo_book(worker, step, organization) THEN
        RETURN false;
    END IF;
    PERFORM demo_change_booking(worker, step, organization);
    RETURN true;
END;
$$;
