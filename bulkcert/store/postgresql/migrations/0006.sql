-- Version 6: what one host does for all, see `run.steward`.

-- What the outside check has said last. One row, because a later one replaces it.
CREATE TABLE bulkcert.check_result (
    run integer PRIMARY KEY REFERENCES bulkcert.run,
    began_at double precision NOT NULL,
    ended_at double precision NOT NULL,
    verdict text NOT NULL,
    reason text NOT NULL,
    lease uuid NOT NULL                 -- of the host that ran it
);

-- For how long the check alone has held the run, whichever hosts were there.
ALTER TABLE bulkcert.standing
    ADD COLUMN held_since double precision,
    ADD COLUMN held_seen double precision;
