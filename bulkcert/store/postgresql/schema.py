"""The tables of a shared store, and how they get there: numbered files, applied in order.

In: a connection of the owner of the database. Out: the tables of this version. A database of a
version that this program does not know is never touched.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from bulkcert.errors import StoreVersionError
from bulkcert.timings import HostTimings

_MIGRATIONS = resources.files("bulkcert.store.postgresql") / "migrations"

SCHEMA_VERSION = sum(file.name.endswith(".sql") for file in _MIGRATIONS.iterdir())
"""The version that this program needs: each file of `migrations` makes one from the one before."""

_WITH_LEASES = 2
"""The first version that has them."""

_LOCK = 0x62756C6B63657274  # "bulkcert", so that nobody else happens to take it


def migrate(db: psycopg.Connection, timings: HostTimings = HostTimings()) -> int:
    """Bring a database to the version of this program, in one transaction.

    Hosts whose program is too old for the new tables can't commit anything from then on. They may
    still send until their lease has run out, so what they work on is left to those who fence them
    after that time.

    Args:
        db: a connection as the owner of the database, in autocommit mode.
        timings: how long it waits for tables that are in use.

    Returns:
        The version that it had before; 0 for an empty one.

    Raises:
        StoreError: its version is newer than that of this program.
    """
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        db.execute(f"SET LOCAL lock_timeout = {round(timings.lock_patience_s * 1000)}")
        before = version(db)
        if before > SCHEMA_VERSION:
            raise wrong_version(before)
        if before >= _WITH_LEASES:
            # each commit of a host begins with its lease: here it waits, and has nothing else that
            # the migration could wait for
            db.execute("LOCK TABLE bulkcert.lease IN SHARE ROW EXCLUSIVE MODE")
        if before == 0:
            db.execute("CREATE SCHEMA IF NOT EXISTS bulkcert")
            db.execute("CREATE TABLE bulkcert.schema_version (version integer NOT NULL)")
            db.execute("INSERT INTO bulkcert.schema_version VALUES (0)")
        for number in range(before + 1, SCHEMA_VERSION + 1):
            db.execute(_migration(number))
        minimum = max(map(_minimum, range(1, SCHEMA_VERSION + 1)))
        db.execute(
            "UPDATE bulkcert.schema_version SET version = %s, minimum = %s",
            (SCHEMA_VERSION, minimum),
        )
        db.execute(
            "UPDATE bulkcert.lease SET state = 'refused' WHERE state = 'live' AND knows < %s",
            (minimum,),
        )
        if 0 < before < SCHEMA_VERSION:
            _grant_new_tables(db)
    return before


def _grant_new_tables(db: psycopg.Connection) -> None:
    """Give those who have rights on the old tables the same rights on new ones."""
    roles = db.execute(
        "SELECT grantee, bool_or(privilege_type = 'UPDATE')"
        " FROM information_schema.role_table_grants"
        " WHERE table_schema = 'bulkcert' AND table_name = 'operation' AND grantee <> grantor"
        " GROUP BY grantee"
    ).fetchall()
    for role, works in roles:
        grant(db, worker=role) if works else grant(db, reader=role)


def refused(db: psycopg.Connection) -> list[str]:
    """The hosts that are too old for the tables, and that nobody has fenced yet."""
    rows = db.execute("SELECT host FROM bulkcert.lease WHERE state = 'refused' ORDER BY number")
    return [host for (host,) in rows]


def is_known(db: psycopg.Connection, found: int) -> bool:
    """Whether this program can use the tables of a database.

    Args:
        db: the connection.
        found: their version; see `version`.
    """
    if found <= SCHEMA_VERSION:
        return found == SCHEMA_VERSION
    row = db.execute("SELECT minimum FROM bulkcert.schema_version").fetchone()
    return row is not None and row[0] <= SCHEMA_VERSION


_APPENDED = ("approval", "ca_chain", "control", "event", "history", "material", "settled", "wave")
_CHANGED = (
    *("abort", "added", "chain", "check_result", "lease", "operation", "run", "session"),
    *("job_file", "pace", "pace_host", "pace_lane", "pace_run", "standing"),
)


def grant(db: psycopg.Connection, *, worker: str = "", reader: str = "") -> None:
    """Let other users work on runs, or read them.

    A worker can't change or remove what is only ever appended, such as the log of events. It can
    remove operations, so that a plan of which nothing was sent can be replaced.

    Args:
        db: a connection as the owner of the database, in autocommit mode.
        worker, reader: names of roles that exist; empty for none.
    """
    with db.transaction():
        for role in filter(None, (worker, reader)):
            to = Identifier(role)
            db.execute(SQL("GRANT USAGE ON SCHEMA bulkcert TO {}").format(to))
            db.execute(SQL("GRANT SELECT ON ALL TABLES IN SCHEMA bulkcert TO {}").format(to))
        for names, rights in (
            ((_APPENDED, "INSERT"), (_CHANGED, "INSERT, UPDATE")) if worker else ()
        ):
            tables = SQL(", ").join(Identifier("bulkcert", name) for name in names)
            statement = SQL("GRANT {} ON {} TO {}")
            db.execute(statement.format(SQL(rights), tables, Identifier(worker)))
        if worker:
            removable = SQL("GRANT DELETE ON bulkcert.operation, bulkcert.pace_host TO {}")
            db.execute(removable.format(Identifier(worker)))


def rights_of_user(db: psycopg.Connection) -> tuple[bool, bool]:
    """Whether the user of a connection may read all tables, and whether it may work on runs."""
    may_read, may_append, may_change = db.execute(
        "SELECT bool_and(has_table_privilege(oid, 'SELECT')),"
        " bool_and(relname <> ALL(%(appended)s) OR has_table_privilege(oid, 'INSERT')),"
        " bool_and(relname <> ALL(%(changed)s) OR (has_table_privilege(oid, 'INSERT')"
        "     AND has_table_privilege(oid, 'UPDATE')))"
        " FROM pg_class WHERE relnamespace = to_regnamespace('bulkcert') AND relkind = 'r'",
        {"appended": list(_APPENDED), "changed": list(_CHANGED)},
    ).fetchone() or (False, False, False)
    return bool(may_read), bool(may_read and may_append and may_change)


def version(db: psycopg.Connection) -> int:
    """The version of the tables in a database; 0 if there are none."""
    found = db.execute("SELECT to_regclass('bulkcert.schema_version')").fetchone()
    if found is None or found[0] is None:
        return 0
    row = db.execute("SELECT version FROM bulkcert.schema_version").fetchone()
    return 0 if row is None else int(row[0])


def wrong_version(found: int) -> StoreVersionError:
    """The error that says that a database has another version."""
    if found > SCHEMA_VERSION:
        return StoreVersionError(
            f"The shared store has schema version {found}; this bulkcert knows {SCHEMA_VERSION}.",
            "Use the version of bulkcert that the other hosts use.",
        )
    state = f"has schema version {found}" if found else "has no tables of bulkcert"
    return StoreVersionError(
        f"The shared store {state}; this bulkcert needs version {SCHEMA_VERSION}.",
        "Have the owner of the database run `bulkcert store migrate`.",
    )


def _minimum(number: int) -> int:
    """The oldest version that a program must know to go on with the tables of a version."""
    said = re.search(r"^-- minimum: (\d+)$", _migration(number), re.M)
    return int(said[1]) if said else number


def _migration(number: int) -> LiteralString:
    return (_MIGRATIONS / f"{number:04}.sql").read_text(encoding="utf-8")
