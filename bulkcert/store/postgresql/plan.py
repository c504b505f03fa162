"""Publishes a plan in a shared store, or discards one.

In: a checkpoint that `bulkcert.store.sqlite.SqlitePlan` has finished, so that everything was
checked on this machine. Out: the same run in the shared store, the whole of it or nothing. A plan
is discarded only if nothing was sent for it and no host works on it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import psycopg

from bulkcert.errors import RunDirectoryError
from bulkcert.plan_hash import differences
from bulkcert.store.manifest import RunManifest
from bulkcert.store.postgresql.database import RUN_LOCK, connect, readable, run_id
from bulkcert.store.sqlite.database import open_database
from bulkcert.timings import HostTimings

_ROWS_PER_BLOCK = 1000
"""SQLite writes so many lines at once, without a step of Python for each."""

# Of JSON, only backslashes have a meaning in the text format of COPY.
_BLOCK = f"""
    SELECT max(id), CAST(group_concat(
        %d || char(9) || id || char(9) || line || char(9) || wave || char(9) ||
        replace(fields, '\\', '\\\\') || char(9) ||
        coalesce(replace(extra, '\\', '\\\\'), '\\N'), char(10)) AS BLOB)
    FROM (SELECT * FROM operations WHERE id > ? ORDER BY id LIMIT {_ROWS_PER_BLOCK})
"""  # noqa: S608 - constants


def publish(checkpoint: Path, dsn: str, run: str, files: Mapping[str, bytes] = {}) -> bool:
    """Publish a plan, unless another host has published the same one.

    Args:
        checkpoint: the plan; nothing of it was carried out.
        dsn: the shared store.
        run: the name of the run there.
        files: the files of the job, for hosts that have none of them.

    Returns:
        Whether it is this plan that was published: False if another host was first.

    Raises:
        RunDirectoryError: the shared store can't be used, or has another plan under this name.
    """
    with (
        readable(),
        contextlib.closing(open_database(checkpoint, writable=False)) as plan,
        contextlib.closing(connect(dsn)) as db,
    ):
        entries = dict(plan.execute("SELECT key, value FROM meta"))
        stored = None
        while stored is None:  # the other plan may be discarded in between
            with db.transaction():
                # waits for a host that is publishing the same run
                row = db.execute(
                    "INSERT INTO bulkcert.run (name, manifest) VALUES (%s, %s)"
                    " ON CONFLICT DO NOTHING RETURNING id",
                    (run, orjson.dumps(entries).decode()),
                ).fetchone()
                if row is not None:
                    _copy(plan, db, row[0])
                    _keep(db, row[0], files)
            if row is not None:
                # the statistics say now that the table is empty, and would for a minute
                db.execute("ANALYZE bulkcert.operation")
                return True
            query = "SELECT manifest FROM bulkcert.run WHERE name = %s"
            stored = db.execute(query, (run,)).fetchone()
    published = RunManifest.from_entries(orjson.loads(stored[0]))
    ours = RunManifest.from_entries(entries)
    if found := differences(published.plan, ours.plan):
        raise RunDirectoryError(
            f"The shared store has a run {run!r} with another plan: {'; '.join(map(str, found))}.",
            "Give each host the same job and target file.",
        )
    return False


def keep_files(dsn: str, run: str, files: Mapping[str, bytes]) -> None:
    """Replace the files of a job.

    Raises:
        RunDirectoryError: the shared store can't be used, or has no such run.
    """
    with readable(), contextlib.closing(connect(dsn)) as db, db.transaction():
        number = run_id(db, run)
        db.execute("UPDATE bulkcert.job_file SET content = NULL WHERE run = %s", (number,))
        _keep(db, number, files)


def read_files(dsn: str, run: str) -> dict[str, bytes]:
    """The files of a job, by name; none if it can't be given away.

    Raises:
        RunDirectoryError: the shared store can't be read, or has no such run.
    """
    with readable(), contextlib.closing(connect(dsn)) as db:
        query = "SELECT name, content FROM bulkcert.job_file WHERE run = %s AND content IS NOT NULL"
        return dict(db.execute(query, (run_id(db, run),)).fetchall())


def _keep(db: psycopg.Connection, run: int, files: Mapping[str, bytes]) -> None:
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO bulkcert.job_file VALUES (%s, %s, %s)"
            " ON CONFLICT (run, name) DO UPDATE SET content = excluded.content",
            [(run, name, content) for name, content in files.items()],
        )


def discard(dsn: str, run: str, number: int, timings: HostTimings = HostTimings()) -> None:
    """Discard a plan of which nothing was sent, so that another one can have its name.

    What was recorded about it, such as controls, is kept under a name that no run has.

    Args:
        dsn: the shared store.
        run: the name of the run.
        number: its number; if the run of that name has another by now, nothing is done.
        timings: when a host counts as gone.

    Raises:
        RunDirectoryError: it has begun, or a host works on it; or the shared store can't be used.
    """
    with readable(), contextlib.closing(connect(dsn)) as db, db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s, %s)", (RUN_LOCK, number))
        named = "SELECT FROM bulkcert.run WHERE id = %s AND name = %s"
        if db.execute(named, (number, run)).fetchone() is None:
            return
        host = db.execute(
            "SELECT host FROM bulkcert.lease"
            " WHERE run = %s AND state = 'live' AND beat_at > bulkcert.now_s() - %s LIMIT 1",
            (number, timings.fence_after_s),
        ).fetchone()
        if host is not None:
            raise RunDirectoryError(
                f"The plan of the run {run!r} can't be replaced: {host[0]} works on it.",
                "Give each host the same job and target file, or stop the run before.",
            )
        begun = db.execute(
            "SELECT FROM bulkcert.operation"
            " WHERE run = %s AND (state <> 'planned' OR attempts > 0) LIMIT 1",
            (number,),
        ).fetchone()
        if begun is not None:
            raise RunDirectoryError(f"The run {run!r} has begun, so its plan can't be replaced.")
        # a host that stands still must not go on with a run that is no more
        db.execute(
            "UPDATE bulkcert.lease SET state = 'fenced', ended_at = bulkcert.now_s(),"
            " ended_by = 'a new plan' WHERE run = %s AND state = 'live'",
            (number,),
        )
        db.execute("DELETE FROM bulkcert.operation WHERE run = %s", (number,))
        db.execute("UPDATE bulkcert.run SET name = name || '#' || id WHERE id = %s", (number,))


def _copy(plan: sqlite3.Connection, db: psycopg.Connection, run: int) -> None:
    """Copy a plan to the tables of a shared store."""
    columns = "run, id, line, wave, fields, extra"
    with db.cursor() as cursor:
        with cursor.copy(f"COPY bulkcert.operation ({columns}) FROM STDIN") as copy:
            for block in _blocks(plan, run):
                copy.write(block)
        cursor.executemany(
            "INSERT INTO bulkcert.wave VALUES (%s, %s, %s, %s)",
            [(run, *row) for row in plan.execute("SELECT number, name, targets FROM waves")],
        )
        (last_id,) = plan.execute("SELECT coalesce(max(id), 0) FROM operations").fetchone()
        cursor.execute("INSERT INTO bulkcert.added VALUES (%s, %s)", (run, last_id))
        cursor.execute("INSERT INTO bulkcert.chain VALUES (%s)", (run,))
        cursor.execute("INSERT INTO bulkcert.standing VALUES (%s)", (run,))


def _blocks(plan: sqlite3.Connection, run: int) -> Iterator[bytes]:
    """The operations of a plan as lines for COPY, block by block."""
    last_id: int | None = 0
    while True:
        last_id, block = plan.execute(_BLOCK % run, (last_id,)).fetchone()
        if last_id is None:
            return
        yield block + b"\n"
