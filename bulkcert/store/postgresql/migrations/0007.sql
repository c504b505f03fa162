-- Version 7: hosts of several versions of the program, while the tables change.
-- minimum: 6
--
-- A file that only adds says with "-- minimum: N" which programs may go on: those that know version N
-- or a newer one. Without that line only those that know its own version.

ALTER TABLE bulkcert.schema_version
    ADD COLUMN minimum integer NOT NULL DEFAULT 0;  -- programs that know an older version are refused

ALTER TABLE bulkcert.lease
    ADD COLUMN knows integer NOT NULL DEFAULT 6,    -- the version of the tables that its program knows
    DROP CONSTRAINT lease_state_check,
    -- 'refused': it commits nothing any more, and may still send until its lease has run out
    ADD CONSTRAINT lease_state_check CHECK (state IN ('live', 'left', 'fenced', 'refused'));

-- A program that was connected before the tables changed must not begin a life after that.
CREATE FUNCTION bulkcert.refuse_old() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.knows < (SELECT minimum FROM bulkcert.schema_version) THEN
        RAISE EXCEPTION 'this version of bulkcert is too old for the shared store';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_old BEFORE INSERT ON bulkcert.lease
    FOR EACH ROW EXECUTE FUNCTION bulkcert.refuse_old();
