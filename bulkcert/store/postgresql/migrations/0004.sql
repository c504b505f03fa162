-- Version 4: keys and certificates of renewals. Rows are only ever added.

CREATE TABLE bulkcert.material (
    run integer NOT NULL,               -- no foreign key: see `operation`
    operation bigint NOT NULL,
    attempt integer NOT NULL,           -- that it was made for, or that led to it
    kind text NOT NULL CHECK (kind IN ('key', 'csr', 'certificate', 'chain')),
    name text NOT NULL,                 -- of its file, without an extension
    content bytea NOT NULL,             -- of a chain: its SHA-256
    at double precision NOT NULL DEFAULT bulkcert.now_s(),
    PRIMARY KEY (run, operation, attempt, kind)
);

-- Nearly all certificates of a run have the same CA.
CREATE TABLE bulkcert.ca_chain (
    run integer NOT NULL,
    sha256 bytea NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (run, sha256)
);

-- No target may lead to the same operation twice, whichever hosts find it.
ALTER TABLE bulkcert.operation ADD COLUMN added_as text;    -- a digest of its step and its fields
CREATE UNIQUE INDEX operation_added ON bulkcert.operation (run, line, added_as)
    WHERE added_as IS NOT NULL;
