-- Version 1: runs and their operations.
--
-- Times are Unix seconds, JSON is text: it comes back byte by byte, and the digest of a plan is
-- that of its text. `code` is JSON too, because a provider's codes are numbers or texts.

CREATE TABLE bulkcert.run (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    manifest text NOT NULL              -- JSON object of the entries of the manifest
);

CREATE TABLE bulkcert.operation (
    run integer NOT NULL,               -- no foreign key, which would be checked for each row
    id bigint NOT NULL,                 -- target order
    line bigint NOT NULL,
    wave integer NOT NULL DEFAULT 0,
    fields text NOT NULL,               -- JSON object
    extra text,                         -- JSON object: the columns that the job does not use
    state text NOT NULL DEFAULT 'planned',
    owner uuid,                         -- the host that works on it
    step integer NOT NULL DEFAULT 0,
    step_data text,                     -- JSON
    attempts integer NOT NULL DEFAULT 0,
    sent_at double precision,           -- when the last attempt was intended
    code text,                          -- JSON
    message text,
    request_id text,
    result text,                        -- JSON
    finished_at double precision,
    begun boolean NOT NULL DEFAULT false,   -- it was claimed; only where the job limits how many are
    PRIMARY KEY (run, id),
    CHECK (owner IS NULL OR state IN ('planned', 'in_flight'))
);
CREATE INDEX operation_free ON bulkcert.operation (run, wave, id)
    WHERE owner IS NULL AND state IN ('planned', 'in_flight');
CREATE INDEX operation_owned ON bulkcert.operation (run, owner) WHERE owner IS NOT NULL;
CREATE INDEX operation_line ON bulkcert.operation (run, line, id);

-- Rows that are locked by those who add something. Each has a purpose of its own, so that nobody
-- waits for anything else.
CREATE TABLE bulkcert.added (           -- locked while operations are added
    run integer PRIMARY KEY REFERENCES bulkcert.run,
    last_operation bigint NOT NULL
);
CREATE TABLE bulkcert.chain (           -- locked while events are added
    run integer PRIMARY KEY REFERENCES bulkcert.run,
    notified bigint NOT NULL DEFAULT 0
);

CREATE TABLE bulkcert.wave (
    run integer NOT NULL REFERENCES bulkcert.run,
    number integer NOT NULL,
    name text NOT NULL,
    targets bigint NOT NULL,
    PRIMARY KEY (run, number)
);
CREATE TABLE bulkcert.standing (
    run integer PRIMARY KEY REFERENCES bulkcert.run,
    wave integer NOT NULL DEFAULT 0,
    over_at double precision,
    begun bigint NOT NULL DEFAULT 0
);
CREATE TABLE bulkcert.settled (         -- only where the job has rules about failures
    run integer NOT NULL REFERENCES bulkcert.run,
    id bigint GENERATED ALWAYS AS IDENTITY,
    operation bigint NOT NULL,
    state text NOT NULL,
    code text,                          -- JSON
    wave integer NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE TABLE bulkcert.abort (
    run integer NOT NULL REFERENCES bulkcert.run,
    number integer NOT NULL,
    id text NOT NULL,
    at double precision NOT NULL,
    rule text NOT NULL,
    text text NOT NULL,
    settled bigint NOT NULL DEFAULT 0,  -- id of the last row of `settled` that does not count
    overridden_at double precision,
    who text,
    why text,
    PRIMARY KEY (run, number),
    UNIQUE (run, id)
);
CREATE TABLE bulkcert.control (
    run integer NOT NULL REFERENCES bulkcert.run,
    id integer NOT NULL,
    at double precision NOT NULL,
    who text NOT NULL,
    why text NOT NULL,
    verb text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE TABLE bulkcert.approval (
    run integer NOT NULL REFERENCES bulkcert.run,
    id integer GENERATED ALWAYS AS IDENTITY,
    at double precision NOT NULL,
    abort text NOT NULL,
    who text NOT NULL,
    key text NOT NULL,
    expires_at double precision NOT NULL,
    statement bytea NOT NULL,
    signature bytea NOT NULL,
    signers bytea NOT NULL,
    PRIMARY KEY (run, id)
);
CREATE TABLE bulkcert.event (
    run integer NOT NULL REFERENCES bulkcert.run,
    seq bigint NOT NULL,
    line text NOT NULL,                 -- a line of events.jsonl
    PRIMARY KEY (run, seq)
);
CREATE TABLE bulkcert.history (
    run integer NOT NULL,               -- no foreign key: see `operation`
    id bigint GENERATED ALWAYS AS IDENTITY,
    operation bigint NOT NULL,
    event text NOT NULL,
    attempt integer NOT NULL,
    sent_at double precision,
    ended_at double precision NOT NULL,
    source text NOT NULL,
    result text NOT NULL,
    code text,                          -- JSON
    message text NOT NULL,
    request_id text,
    PRIMARY KEY (run, id)
);
CREATE TABLE bulkcert.session (
    run integer NOT NULL REFERENCES bulkcert.run,
    owner uuid NOT NULL,
    number integer GENERATED ALWAYS AS IDENTITY,    -- in the order in which they began
    figures text NOT NULL,              -- JSON object: the attributes of a `Session`
    PRIMARY KEY (run, owner)
);
