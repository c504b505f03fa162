"""Is a database fit for a shared store? Looks at the server, and says what to do.

In: a connection. Out: facts, and what they mean for a run: one finding for each subject. Nothing is
written but an empty message in the server's log of changes, to see how long a commit takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString, NamedTuple

import psycopg

from bulkcert.quantities import duration
from bulkcert.store.postgresql import schema
from bulkcert.store.postgresql.database import explained

OLDEST_SERVER = 14
"""Older ones get no corrections any more. Tests run with 15 and 18."""

_SAMPLES = 10
_LONG_ROUND_TRIP_S = 0.010
_LONG_COMMIT_S = 0.050
_LONG_SNAPSHOT_S = 300.0
_CLOCK_OFF_S = 1.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What was found about one subject.

    Attributes:
        subject: a word or two.
        level: how bad it is.
        text: how it is, as a phrase.
        next_step: what to do about it; empty if nothing.
    """

    subject: str
    level: Level
    text: str
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What matters of a server, as one user sees it.

    Attributes:
        server_version: major and minor version, as text.
        server_major: the major version.
        is_standby: it only follows another server.
        schema_version: version of the tables; 0 if there are none.
        user: whom this connection works as.
        may_read, may_write: what that user may do to the tables.
        encrypted: the connection is; None if it does not leave the machine.
        settings: values of the settings that matter, by name.
        standbys: how each server that follows is synchronized; `None` if this user can't see it.
        round_trip_s, commit_s: medians.
        clock_ahead_s: how far the clock of the server is ahead of that of this machine.
        clock_known_to_s: how exactly that is known.
        snapshot_s: age of the oldest transaction that keeps old rows; None if there is none, or
            this user can't see those of others.
        snapshot_of: whose it is.
        sees_all: this user sees what others do.
        is_known: this program can use the tables, although they are newer.
    """

    server_version: str
    server_major: int
    is_standby: bool
    schema_version: int
    user: str
    may_read: bool
    may_write: bool
    encrypted: bool | None
    settings: dict[str, str]
    standbys: tuple[str | None, ...]
    round_trip_s: float
    commit_s: float | None
    clock_ahead_s: float
    clock_known_to_s: float
    snapshot_s: float | None
    snapshot_of: str
    sees_all: bool
    is_known: bool = False


# ---- looking


def look(db: psycopg.Connection) -> Facts:
    """Look at the server of a connection, in autocommit mode.

    Raises:
        StoreError: it can't be asked.
    """
    with explained():
        found = schema.version(db)
        may_read, may_write = _privileges(db) if found else (False, False)
        is_standby = bool(_value(db, "SELECT pg_is_in_recovery()"))
        round_trip_s, clock_ahead_s, known_to_s = _clock(db)
        sees_all = bool(_value(db, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"))
        oldest = db.execute(
            "SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8,"
            " concat_ws(', ', 'process ' || pid, usename, nullif(application_name, ''))"
            " FROM pg_stat_activity"
            " WHERE backend_xmin IS NOT NULL AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            " ORDER BY xact_start LIMIT 1"
        ).fetchone() or (None, "")
        return Facts(
            server_version=str(_value(db, "SHOW server_version")).partition(" ")[0],
            server_major=db.info.server_version // 10_000,
            is_standby=is_standby,
            schema_version=found,
            user=db.info.user,
            may_read=may_read,
            may_write=may_write,
            is_known=bool(found) and schema.is_known(db, found),
            encrypted=_encrypted(db),
            settings={
                name: str(_value(db, "SELECT current_setting(%s)", name))
                for name in ("fsync", "full_page_writes", "synchronous_commit")
            },
            standbys=tuple(
                row[0]
                for row in db.execute(
                    "SELECT sync_state FROM pg_stat_replication"
                    " WHERE application_name <> 'pg_basebackup'"
                )
            ),
            round_trip_s=round_trip_s,
            commit_s=None if is_standby else _commit_s(db),
            clock_ahead_s=clock_ahead_s,
            clock_known_to_s=known_to_s,
            snapshot_s=oldest[0],
            snapshot_of=str(oldest[1]),
            sees_all=sees_all,
        )


def _privileges(db: psycopg.Connection) -> tuple[bool, bool]:
    if not _value(db, "SELECT has_schema_privilege('bulkcert', 'USAGE')"):
        return False, False
    return schema.rights_of_user(db)


def _encrypted(db: psycopg.Connection) -> bool | None:
    host = db.info.host
    if host.startswith("/") or db.info.hostaddr in ("127.0.0.1", "::1"):
        return None
    return db.pgconn.ssl_in_use


def _clock(db: psycopg.Connection) -> tuple[float, float, float]:
    """The usual round trip, how far the server's clock is ahead, and how exactly that is known."""
    trips_s, lower_s, upper_s = [], [], []
    for _ in range(_SAMPLES):
        begun_s, begun_at = time.time(), time.monotonic()
        server_s = float(_value(db, "SELECT extract(epoch FROM clock_timestamp())::float8"))
        trips_s.append(time.monotonic() - begun_at)
        lower_s.append(server_s - begun_s - trips_s[-1])
        upper_s.append(server_s - begun_s)
    low_s, high_s = max(lower_s), min(upper_s)
    return statistics.median(trips_s), (low_s + high_s) / 2, abs(high_s - low_s) / 2


def _commit_s(db: psycopg.Connection) -> float:
    """How long a commit takes beside the round trips around it."""
    took_s = []
    for _ in range(_SAMPLES):
        with db.transaction():
            db.execute("SELECT pg_logical_emit_message(true, 'bulkcert', '')")
            begun_at = time.monotonic()
        took_s.append(time.monotonic() - begun_at)
    return statistics.median(took_s)


def _value(db: psycopg.Connection, query: LiteralString, *values: object) -> Any:
    row = db.execute(query, values or None).fetchone()
    return None if row is None else row[0]


# ---- judging


def findings(facts: Facts) -> Iterator[Finding]:
    """Say what facts mean for a run, subject by subject."""
    yield _server(facts)
    yield _tables(facts)
    yield _user(facts)
    yield _connection(facts)
    yield from _durability(facts)
    yield _standbys(facts)
    yield _speed(facts)
    yield _clocks(facts)
    yield _snapshots(facts)


def _server(facts: Facts) -> Finding:
    text = f"PostgreSQL {facts.server_version}"
    if facts.is_standby:
        return Finding(
            *("server", Level.PROBLEM, f"{text}, a standby: nothing can be written"),
            "Name the primary server.",
        )
    if facts.server_major < OLDEST_SERVER:
        step = f"Use version {OLDEST_SERVER} or newer."
        return Finding("server", Level.PROBLEM, f"{text}, which is too old", step)
    return Finding("server", Level.OK, text)


def _tables(facts: Facts) -> Finding:
    found, ours = facts.schema_version, schema.SCHEMA_VERSION
    if found == ours:
        return Finding("tables", Level.OK, f"version {found}")
    if found > ours and facts.is_known:
        text = f"version {found}; this bulkcert knows {ours}, and may go on"
        return Finding("tables", Level.OK, text)
    if not found:
        return Finding("tables", Level.PROBLEM, "none", "Run `bulkcert store init` as the owner.")
    if found < ours:
        step = "Run `bulkcert store migrate` as the owner."
    else:
        step = "Use the version of bulkcert that the other hosts use."
    text = f"version {found}, and this bulkcert needs {ours}"
    return Finding("tables", Level.PROBLEM, text, step)


def _user(facts: Facts) -> Finding:
    if facts.may_write:
        return Finding("user", Level.OK, f"{facts.user} may work on runs")
    grant = f"Run `bulkcert store init --worker {facts.user}` as the owner."
    if facts.may_read:
        text = f"{facts.user} may read runs, and not work on them"
        return Finding("user", Level.WARNING, text, f"Enough for reports; otherwise: {grant}")
    if not facts.schema_version:
        return Finding("user", Level.OK, f"{facts.user}; there is nothing to have rights on yet")
    return Finding("user", Level.PROBLEM, f"{facts.user} may not read runs", grant)


def _connection(facts: Facts) -> Finding:
    if facts.encrypted is None:
        return Finding("connection", Level.OK, "stays on this machine")
    if facts.encrypted:
        return Finding("connection", Level.OK, "encrypted")
    return Finding(
        *("connection", Level.PROBLEM, "not encrypted: others can read and change what is sent"),
        "Add `?sslmode=verify-full` to the URL, and have the server set up for TLS.",
    )


def _durability(facts: Facts) -> Iterator[Finding]:
    for name in ("fsync", "full_page_writes"):
        if facts.settings[name] == "on":
            yield Finding(name, Level.OK, "on")
        else:
            yield Finding(
                *(name, Level.PROBLEM, "off: a power loss can destroy the database"),
                f"Set {name} = on.",
            )
    value = facts.settings["synchronous_commit"]
    if value == "off":
        yield Finding(
            *("synchronous_commit", Level.PROBLEM, "off: a crash forgets what was confirmed"),
            f"ALTER ROLE {facts.user} SET synchronous_commit = on",
        )
    else:
        yield Finding("synchronous_commit", Level.OK, value)


def _standbys(facts: Facts) -> Finding:
    if not facts.standbys:
        return Finding("standbys", Level.OK, "none that this user can see")
    synchronous = sum(state in ("sync", "quorum") for state in facts.standbys)
    text = f"{len(facts.standbys)}, {synchronous} of them synchronous"
    if synchronous and facts.settings["synchronous_commit"] in ("on", "remote_apply"):
        return Finding("standbys", Level.OK, text)
    return Finding(
        *("standbys", Level.WARNING, f"{text}: a failover may forget the last commits"),
        "A run then stops by itself, and looks up everything that is not final. To rule that out,"
        " set synchronous_standby_names and synchronous_commit = on.",
    )


def _speed(facts: Facts) -> Finding:
    text = f"{facts.round_trip_s * 1000:.1f} ms"
    if facts.commit_s is not None:
        text += f", a commit {facts.commit_s * 1000:.1f} ms"
    slow = facts.round_trip_s > _LONG_ROUND_TRIP_S or (facts.commit_s or 0) > _LONG_COMMIT_S
    if not slow:
        return Finding("round trip", Level.OK, text)
    return Finding(
        *("round trip", Level.WARNING, f"{text}: hosts may not reach the full rate"),
        "Run the hosts near the database, and give it a disk that confirms writes quickly.",
    )


def _clocks(facts: Facts) -> Finding:
    ahead_s = facts.clock_ahead_s
    off = f"{duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    if abs(ahead_s) - facts.clock_known_to_s <= _CLOCK_OFF_S:
        return Finding("clock", Level.OK, "the same as this machine's, within a second")
    return Finding(
        *("clock", Level.WARNING, off),
        "Find out which of them is wrong: windows and waits go by that of the database.",
    )


def _snapshots(facts: Facts) -> Finding:
    age_s = facts.snapshot_s
    if age_s is not None and age_s > _LONG_SNAPSHOT_S:
        return Finding(
            *("snapshots", Level.WARNING, f"one is {duration(age_s)} old: {facts.snapshot_of}"),
            "End that transaction: while it is open, the server can't remove what was overwritten,"
            " and becomes slower and slower.",
        )
    if not facts.sees_all:
        return Finding(
            *("snapshots", Level.OK, "none of this user; those of others can't be seen"),
            "GRANT pg_read_all_stats lets this user see them.",
        )
    return Finding("snapshots", Level.OK, "none that is long")
