"""The runs that a shared store has, for those who do not work on them. Reading only."""

from __future__ import annotations

import contextlib
from typing import LiteralString

import orjson

from bulkcert.store.manifest import RunManifest
from bulkcert.store.postgresql.database import connect, readable
from bulkcert.store.runs import StoredRun
from bulkcert.timings import HostTimings


def run_exists(dsn: str, name: str) -> bool:
    """Whether there is a run of this name.

    Raises:
        RunDirectoryError: the shared store can't be read.
    """
    with readable(), contextlib.closing(connect(dsn)) as db:
        found = db.execute("SELECT FROM bulkcert.run WHERE name = %s", (name,))
        return found.fetchone() is not None


def run_is_worked_on(dsn: str, name: str, timings: HostTimings = HostTimings()) -> bool:
    """Whether a host works on a run.

    A host that died without anybody to notice has a lease for ever; that it was used lately is
    judged by the clock of the database, which is good enough for people.

    Raises:
        RunDirectoryError: the shared store can't be read.
    """
    with readable(), contextlib.closing(connect(dsn)) as db:
        found = db.execute(
            "SELECT FROM bulkcert.lease JOIN bulkcert.run ON run.id = lease.run"
            " WHERE name = %s AND state = 'live' AND beat_at > bulkcert.now_s() - %s LIMIT 1",
            (name, timings.fence_after_s),
        )
        return found.fetchone() is not None


_RUNS: LiteralString = """
    SELECT name, manifest,
        EXISTS (SELECT FROM bulkcert.operation AS o WHERE o.run = r.id
                AND (state <> 'planned' OR attempts > 0)),
        EXISTS (SELECT FROM bulkcert.operation AS o WHERE o.run = r.id
                AND owner IS NULL AND state IN ('planned', 'in_flight'))
        OR EXISTS (SELECT FROM bulkcert.operation AS o WHERE o.run = r.id AND owner IS NOT NULL),
        EXISTS (SELECT FROM bulkcert.lease WHERE run = r.id),
        EXISTS (SELECT FROM bulkcert.lease WHERE run = r.id AND state = 'live'
                AND beat_at > bulkcert.now_s() - %s)
    FROM bulkcert.run AS r ORDER BY id
"""


def read_runs(dsn: str, timings: HostTimings = HostTimings()) -> list[StoredRun]:
    """All runs, in the order in which they were planned, without discarded plans.

    Raises:
        RunDirectoryError: the shared store can't be read.
    """
    with readable(), contextlib.closing(connect(dsn)) as db:
        rows = db.execute(_RUNS, (timings.fence_after_s,)).fetchall()
    found = []
    for name, manifest, begun, is_open, ever, now in rows:
        stored = RunManifest.from_entries(orjson.loads(manifest))
        if stored.run == name:
            found.append(StoredRun(name, stored, begun, not is_open, ever, now))
    return found
