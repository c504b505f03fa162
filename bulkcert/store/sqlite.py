"""The store as one SQLite file, the checkpoint in the run directory.

It uses WAL with `synchronous=FULL`: with NORMAL a power loss can undo the last commits, and with
them the knowledge that a request left. A file under its final name always contains a whole plan,
because it is built under another name and then renamed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from bulkcert import durable
from bulkcert.errors import PlatformError, RunDirectoryError, StoreError
from bulkcert.model import Change, FieldValue, Operation, State, Target
from bulkcert.store.base import Record, Session
from bulkcert.store.manifest import RunManifest

SCHEMA_VERSION = 2

MINIMUM_SQLITE = (3, 33, 0)
"""The first version with UPDATE ... FROM, which `record` needs: sqlite.org/releaselog/3_33_0.html.

The JSON functions that `claim` needs are older, but were optional before 3.38.0. So they are looked
for, see `require_sqlite`.
"""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE operations (
    id INTEGER PRIMARY KEY,         -- target order
    line INTEGER NOT NULL,
    fields TEXT NOT NULL,           -- JSON object
    state TEXT NOT NULL DEFAULT 'planned',
    step INTEGER NOT NULL DEFAULT 0,
    step_data TEXT,                 -- JSON; what the step before yielded
    attempts INTEGER NOT NULL DEFAULT 0,
    first_sent_at REAL,             -- Unix seconds, when the first attempt was claimed
    code,                           -- number or text, as the provider has it
    message TEXT,
    request_id TEXT,
    result TEXT,                    -- JSON
    finished_at REAL                -- Unix seconds
);
CREATE TABLE sessions (
    started_at REAL PRIMARY KEY, updated_at REAL, requests INTEGER, throttled INTEGER,
    busiest_second INTEGER, rate REAL, note TEXT, exit_code INTEGER
);
"""

_ROWS_PER_STATEMENT = 200
"""Measured: 0.6 µs per row, and 2.2 µs with one statement per row. More rows do not help."""

_CHANGES_PER_STATEMENT = 50
"""For each row of an `executemany` or a SELECT, the interpreter's lock is released and taken again,
while the event loop wants it too. So many changes share one statement."""

_CACHE_KIB = 4 * 1024
_BUSY_TIMEOUT_S = 30.0


def require_sqlite() -> None:
    """Check that Python's SQLite can execute the statements in this module.

    Raises:
        PlatformError: it is too old, or was built without the JSON functions.
    """
    problem = ""
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        needed = ".".join(map(str, MINIMUM_SQLITE))
        problem = f"is {sqlite3.sqlite_version}; bulkcert needs {needed} or newer."
    else:
        try:
            with contextlib.closing(sqlite3.connect(":memory:")) as db:
                db.execute("SELECT json_group_array(json_array(json('1')))")
        except sqlite3.Error:
            problem = f"{sqlite3.sqlite_version} was built without the JSON functions."
    if problem:
        raise PlatformError(
            f"The SQLite library of this Python {problem}",
            "Use a Python with a newer SQLite, such as one from python.org or a current"
            " Linux distribution.",
        )


@contextmanager
def new_store(path: Path) -> Iterator[SqlitePlan]:
    """Build a checkpoint. Unless it is finished, nothing is left behind.

    Raises:
        PlatformError: SQLite is too old, see `require_sqlite`.
        RunDirectoryError: the file can't be written.
    """
    require_sqlite()
    try:
        plan = SqlitePlan(path)
        try:
            yield plan
        finally:
            plan.discard()
    except (OSError, sqlite3.Error) as error:
        raise RunDirectoryError(
            f"{path} can't be written: {getattr(error, 'strerror', None) or error}",
            "Free some space there, or name another --run-dir.",
        ) from error


class SqlitePlan:
    """Builds a checkpoint from a stream of targets, and finds repeated ones.

    `finish` makes the file appear under `path`; without it nothing is left behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._partial.unlink(missing_ok=True)
        self._rows: list[int | str] = []  # line and fields, in turn
        self._identities: list[int] = []
        self._db = sqlite3.connect(self._partial, isolation_level=None)
        try:
            # durability is not needed here: an unfinished plan is thrown away
            self._db.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;"
                f"PRAGMA cache_size=-{_CACHE_KIB};{_SCHEMA}ATTACH '' AS scratch;"
                "CREATE TABLE scratch.identities (id INTEGER PRIMARY KEY, identity INTEGER);"
                "BEGIN"
            )
        except BaseException:
            self.discard()
            raise

    def add(self, target: Target, identity: int) -> None:
        """Append one operation.

        Args:
            target: what it acts on.
            identity: a 64-bit hash of what names the operation. Operations with equal hashes may
                be the same one.
        """
        self._rows += (target.line, orjson.dumps(target.fields).decode())
        self._identities.append(identity)
        if len(self._identities) >= _ROWS_PER_STATEMENT:
            self._flush()

    def repeated(self) -> Iterator[tuple[int, Target, Target]]:
        """Find operations with the hash of an earlier one: (id, first target, later target)."""
        self._flush()
        pairs = self._db.execute(
            """
            SELECT later.id, a.line, a.fields, b.line, b.fields
            FROM (SELECT identity, min(id) AS id FROM scratch.identities
                  GROUP BY identity HAVING count(*) > 1) AS first
            JOIN scratch.identities AS later
                ON later.identity = first.identity AND later.id > first.id
            JOIN operations AS a ON a.id = first.id
            JOIN operations AS b ON b.id = later.id
            ORDER BY later.id
            """
        )
        for later_id, line_a, fields_a, line_b, fields_b in pairs:
            first = Target(line_a, orjson.loads(fields_a))
            yield later_id, first, Target(line_b, orjson.loads(fields_b))

    def drop(self, operation_id: int) -> None:
        """Remove an operation."""
        self._db.execute("DELETE FROM operations WHERE id = ?", (operation_id,))

    def sample(self) -> Target | None:
        """The first operation's target."""
        self._flush()
        row = self._db.execute("SELECT line, fields FROM operations ORDER BY id LIMIT 1").fetchone()
        return None if row is None else Target(row[0], orjson.loads(row[1]))

    def count(self) -> int:
        """Number of operations."""
        self._flush()
        (count,) = self._db.execute("SELECT count(*) FROM operations").fetchone()
        return int(count)

    def finish(self, manifest: RunManifest) -> None:
        """Store what the run is about, make everything durable, and rename the file."""
        self._flush()
        self._db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [(key, _dumped(value)) for key, value in manifest.as_entries().items()],
        )
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._db.execute("COMMIT")
        self._db.close()
        durable.sync(self._partial)
        self._partial.rename(self._path)
        durable.sync(self._path.parent)

    def discard(self) -> None:
        """Remove the plan, unless it was finished."""
        self._db.close()
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._identities:
            return
        for into, row, values in (
            ("operations (line, fields)", "(?, ?)", self._rows),
            ("scratch.identities (identity)", "(?)", self._identities),
        ):
            rows = ", ".join([row] * len(self._identities))
            # only question marks and the names above are inserted
            self._db.execute(f"INSERT INTO {into} VALUES {rows}", values)  # noqa: S608
        self._rows.clear()
        self._identities.clear()


class SqliteStore:
    """The store during a run; see `bulkcert.store.base.Store`.

    One thread at a time may use it; that need not be the thread that opened it.

    Args:
        path: the file.
        now: returns the time at which an operation is claimed, in Unix seconds.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._db = _connect(path, writable=True)
        self._now = now
        self._claimed_up_to = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Return a context whose writes are durable when it exits, all of them or none."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(
                f"The checkpoint can't be written: {error}",
                "Everything recorded so far is safe. Free some space or repair the disk, then run"
                " again: the run continues, and looks up the operations that were in flight.",
            ) from error

    def claim(self, most: int) -> list[Operation]:
        """Take the next operations in target order; see the contract."""
        # in one row: see _CHANGES_PER_STATEMENT
        (found,) = self._db.execute(
            """
            SELECT json_group_array(json_array(
                id, line, json(fields), state, step, json(step_data), attempts, first_sent_at))
            FROM (SELECT * FROM operations WHERE id > ? AND state IN ('planned', 'in_flight')
                  ORDER BY id LIMIT ?)
            """,
            (self._claimed_up_to, most),
        ).fetchone()
        rows = sorted(orjson.loads(found))  # an aggregate promises no order
        if not rows:
            return []
        first_id, last_id = rows[0][0], rows[-1][0]
        now = self._now()
        self._db.execute(
            "UPDATE operations SET state = 'in_flight', attempts = attempts + 1,"
            " first_sent_at = coalesce(first_sent_at, ?)"
            " WHERE id BETWEEN ? AND ? AND state = 'planned'",
            (now, first_id, last_id),
        )
        self._claimed_up_to = last_id
        return [
            Operation(
                id=id_,
                line=line,
                fields=fields,
                step=step,
                step_data=step_data,
                attempts=attempts + (state == State.PLANNED),
                in_doubt=state == State.IN_FLIGHT,
                first_sent_at=first_sent_at or now,
            )
            for id_, line, fields, state, step, step_data, attempts, first_sent_at in rows
        ]

    def record(self, changes: Sequence[Change]) -> None:
        """Apply the changes in order. Raises `StoreError` if one finds another state."""
        applied = 0
        for part in _parts(changes):
            values: list[Any] = []
            for change in part:
                values += (
                    change.operation_id,
                    change.expected,
                    change.state,
                    change.attempts,
                    change.step,
                    _dumped(change.step_data),
                    change.code,
                    change.message,
                    change.request_id,
                    _dumped(change.result),
                    change.finished_at,
                )
            applied += self._db.execute(_record_statement(len(part)), values).rowcount
        if applied != len(changes):
            raise StoreError(
                f"{len(changes) - applied} operations were not in the state they should"
                " be in: something else writes to this checkpoint.",
                "Make sure that only one process uses the run directory, then run again.",
            )
        for change in changes:
            if change.fan_out:
                self._fan_out(change)
            if change.next_page is not None:
                self._add_to_target(change.operation_id, [change.next_page], step=0)

    def _fan_out(self, change: Change) -> None:
        first, *others = change.fan_out
        self._db.execute(
            "UPDATE operations SET fields = ? WHERE id = ?",
            (orjson.dumps(first).decode(), change.operation_id),
        )
        self._add_to_target(change.operation_id, others, change.step)

    def _add_to_target(
        self, operation_id: int, added: Sequence[dict[str, FieldValue]], step: int
    ) -> None:
        """Add planned operations to the target of another one."""
        self._db.executemany(
            "INSERT INTO operations (line, fields, step) SELECT line, ?, ? FROM operations"
            " WHERE id = ?",
            [(orjson.dumps(fields).decode(), step, operation_id) for fields in added],
        )

    def note_session(self, session: Session) -> None:
        """Store the figures of this process, replacing earlier ones of the same process."""
        self._db.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                session.started_at,
                session.updated_at,
                session.requests,
                session.throttled,
                session.busiest_second,
                session.rate,
                session.note,
                session.exit_code,
            ),
        )

    def retry_failed(self) -> int:
        """Put failed operations back to planned and unknown ones back in flight."""
        cursor = self._db.execute(
            "UPDATE operations SET attempts = 0, finished_at = NULL,"
            " state = CASE state WHEN 'failed' THEN 'planned' ELSE 'in_flight' END"
            " WHERE state IN ('failed', 'unknown')"
        )
        return cursor.rowcount

    def close(self) -> None:
        """Close the store."""
        self._db.close()


class SqliteReader:
    """The store as the reports see it; see `bulkcert.store.base.StoreReader`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = _connect(path, writable=False)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Return a context in which all reads see the same moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.rollback()

    def manifest(self) -> RunManifest:
        """What the run is about, as stored when it was planned."""
        rows = self._rows("SELECT key, value FROM meta")
        return RunManifest.from_entries({key: orjson.loads(value) for key, value in rows})

    def counts(self) -> dict[State, int]:
        """Number of operations by state, without the states that no operation is in."""
        rows = self._rows("SELECT state, count(*) FROM operations GROUP BY state")
        return {State(state): count for state, count in rows}

    def attempts(self) -> int:
        """Number of attempts of all operations."""
        ((attempts,),) = self._rows("SELECT sum(attempts) FROM operations")
        return int(attempts or 0)

    def sessions(self) -> list[Session]:
        """The sessions of all processes, oldest first."""
        return [Session(*row) for row in self._rows("SELECT * FROM sessions ORDER BY started_at")]

    def reasons(self, most: int) -> list[tuple[int, int | str | None, str]]:
        """Why operations failed or are unknown: (count, code, message), most frequent first."""
        rows = self._rows(
            "SELECT count(*), code, coalesce(message, '') FROM operations"
            " WHERE state IN ('failed', 'unknown') GROUP BY 2, 3 ORDER BY 1 DESC, 2, 3 LIMIT ?",
            (most,),
        )
        return list(rows)

    def records(self, states: Iterable[State] | None = None) -> Iterator[Record]:
        """Stream the operations in target order, optionally only those in some states."""
        wanted = list(State) if states is None else list(states)
        marks = ", ".join("?" * len(wanted))
        order = "line, id" if self.manifest().adds_operations else "id"
        rows = self._rows(
            # only question marks and names of columns are inserted
            "SELECT id, line, fields, state, attempts, code, message, request_id, result,"  # noqa: S608
            f" finished_at FROM operations WHERE state IN ({marks}) ORDER BY {order}",
            wanted,
        )
        for id_, line, fields, state, attempts, code, message, request_id, result, at in rows:
            yield Record(
                id_,
                line,
                orjson.loads(fields),
                State(state),
                attempts,
                code,
                message,
                request_id,
                _loaded(result),
                at,
            )

    def close(self) -> None:
        """Close the store."""
        self._db.close()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Run a query. A damaged file fails only where the damaged part is read."""
        try:
            # not `yield from`, which would close the cursor of an abandoned stream, maybe too late
            for row in self._db.execute(query, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise RunDirectoryError(
                f"{self._path} can't be read: {error}",
                "If the file is damaged, restore it from a backup, or name another --run-dir.",
            ) from error


def _dumped(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _loaded(value: str | None) -> Any:
    return None if value is None else orjson.loads(value)


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    require_sqlite()
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'rw' if writable else 'ro'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_TIMEOUT_S,
        )
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == SCHEMA_VERSION and writable:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise RunDirectoryError(
            f"{path} can't be opened: {error}",
            "Make sure that the disk is not full and the directory is writable, or name another"
            " --run-dir.",
        ) from error
    if version != SCHEMA_VERSION:
        db.close()
        raise RunDirectoryError(
            f"{path} has schema version {version}; this bulkcert needs {SCHEMA_VERSION}.",
            "Use the bulkcert version that started this run, or name another --run-dir.",
        )
    return db


def _parts(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Split changes into one part per statement; no operation occurs twice in a part."""
    part: dict[int, Change] = {}
    for change in changes:
        if change.operation_id in part or len(part) == _CHANGES_PER_STATEMENT:
            yield list(part.values())
            part = {}
        part[change.operation_id] = change
    if part:
        yield list(part.values())


@lru_cache(maxsize=_CHANGES_PER_STATEMENT)
def _record_statement(changes: int) -> str:
    rows = ", ".join([f"({', '.join('?' * 11)})"] * changes)
    # only question marks are inserted
    return f"""
        UPDATE operations SET state = column3, attempts = column4, step = column5,
            step_data = column6, code = column7, message = column8, request_id = column9,
            result = column10, finished_at = column11
        FROM (VALUES {rows}) WHERE id = column1 AND state = column2
        """  # noqa: S608
