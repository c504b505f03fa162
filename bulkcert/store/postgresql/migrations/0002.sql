-- Version 2: several hosts on one run.

-- The clock of everything. Tests replace it to set it.
CREATE FUNCTION bulkcert.now_s() RETURNS double precision
    LANGUAGE sql VOLATILE AS 'SELECT extract(epoch FROM clock_timestamp())::double precision';

ALTER TABLE bulkcert.run
    ADD COLUMN server text,             -- identity and timeline of the server; see `leases`
    ADD COLUMN lost_commits_at double precision,    -- somebody has noticed that commits are gone
    ADD COLUMN rechecked_at double precision,       -- and somebody lets the run go on
    ADD COLUMN steward uuid;            -- the lease of the host that runs [check] and [notify]

-- One row for each life of a host. `beats` grows by one with each of its commits.
CREATE TABLE bulkcert.lease (
    id uuid PRIMARY KEY,
    run integer NOT NULL REFERENCES bulkcert.run,
    number integer GENERATED ALWAYS AS IDENTITY,
    host text NOT NULL,
    pid integer NOT NULL,
    address text NOT NULL DEFAULT '',   -- what it sends from, if the job says so
    egress text NOT NULL DEFAULT '',
    version text NOT NULL,
    has_switch boolean NOT NULL,        -- the kernel kills it at the end of its lease
    ordered boolean NOT NULL,           -- nothing between it and the provider keeps requests back
    state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'left', 'fenced')),
    beats bigint NOT NULL DEFAULT 0,
    control integer NOT NULL DEFAULT 0, -- the last control that is in force there
    begun_at double precision NOT NULL, -- these three are for people
    beat_at double precision NOT NULL,
    ended_at double precision,
    ended_by text
);
CREATE INDEX lease_live ON bulkcert.lease (run) WHERE state = 'live';

ALTER TABLE bulkcert.operation
    -- An attempt may still arrive at any time, whoever waits however long: its host had no switch,
    -- or something between it and the provider may deliver late.
    ADD COLUMN late boolean NOT NULL DEFAULT false;

-- What was begun and given back, where the job limits how many are begun.
CREATE INDEX operation_begun ON bulkcert.operation (run, wave, id)
    WHERE begun AND owner IS NULL AND state IN ('planned', 'in_flight');
