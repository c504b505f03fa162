-- The roles and the database of a shared store. Run it once, as a superuser of the server:
--
--     psql -X -f roles.sql postgres
--
-- Then, as the owner, `bulkcert store init ... --worker bulkcert --reader bulkcert_reader` makes the
-- tables and says who may do what to them. docs/hosts.md has all the steps.

\set ON_ERROR_STOP on

-- Owns the tables. Only people use it, for `store init` and `store migrate`; no host does.
CREATE ROLE bulkcert_owner LOGIN;
-- Works on runs: `run`, `work`, `control`, `store recheck`. Can't change what is only appended, such
-- as the event log. Has no password: it proves who it is with a client certificate.
CREATE ROLE bulkcert LOGIN;
-- Only reads: `status`, `hosts`, `results`, `report`, dashboards.
CREATE ROLE bulkcert_reader LOGIN;

-- Set the passwords in psql, so that they are in no file and no log: \password bulkcert_owner

-- `store check` can then see transactions of others that have been open for too long.
GRANT pg_read_all_stats TO bulkcert;
-- A run is never worth more than what is on the disk.
ALTER ROLE bulkcert SET synchronous_commit = on;
-- A reader must not keep the server from cleaning up.
ALTER ROLE bulkcert_reader SET idle_in_transaction_session_timeout = '1min';
ALTER ROLE bulkcert_reader SET default_transaction_read_only = on;

CREATE DATABASE bulkcert OWNER bulkcert_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE bulkcert FROM PUBLIC;
GRANT CONNECT ON DATABASE bulkcert TO bulkcert, bulkcert_reader;
