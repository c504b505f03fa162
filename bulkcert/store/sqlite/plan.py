"""Builds a checkpoint from a stream of targets, and finds repeated ones.

A file under its final name always contains a whole plan, because it is built under another name and
then renamed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bulkcert import durable
from bulkcert.errors import RunDirectoryError
from bulkcert.model import Fields, Target
from bulkcert.plan_hash import Targets
from bulkcert.rules.rollout import Rollout
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite.database import CACHE_KIB, SCHEMA, SCHEMA_VERSION, require_sqlite
from bulkcert.store.sqlite.rollout import RolledOut, RolloutTables

_ROWS_PER_STATEMENT = 200
"""Measured: 0.6 µs per row, and 2.2 µs with one statement per row. More rows do not help."""

_ROWS_PER_DIGEST = 1000
"""A row may have a signing request of 64 KiB, and so many are in memory at once."""


@contextmanager
def new_store(path: Path, rollout: Rollout | None = None) -> Iterator[SqlitePlan]:
    """Build a checkpoint. Unless it is finished, nothing is left behind; see `SqlitePlan`.

    Raises:
        PlatformError: SQLite is too old, see `require_sqlite`.
        RunDirectoryError: the file can't be written.
    """
    require_sqlite()
    try:
        plan = SqlitePlan(path, rollout)
        try:
            yield plan
        finally:
            plan.discard()
    except (OSError, sqlite3.Error) as error:
        raise RunDirectoryError(
            f"{path} can't be written: {getattr(error, 'strerror', None) or error}",
            "Make sure that there is space, and that this user may write there.",
        ) from error


class Pair(NamedTuple):
    """Two operations that may be about the same.

    Attributes:
        first_id, later_id: their ids.
        first, later: their targets.
    """

    first_id: int
    later_id: int
    first: Target
    later: Target


class Dropped(NamedTuple):
    """An operation that was removed again; see `SqlitePlan.drop`."""

    target: Target
    is_bad: bool
    reason: str


class SqlitePlan:
    """Builds a checkpoint from a stream of targets, and finds repeated ones.

    `finish` makes the file appear under `path`; without it nothing is left behind.

    Args:
        path: the file.
        rollout: in which order and in which waves operations are carried out; None for the order
            of the target file, all at once.
    """

    def __init__(self, path: Path, rollout: Rollout | None = None) -> None:
        self._path = path
        self._partial = durable.new_partial(path.parent)
        os.close(durable.create(self._partial))
        self._lines: list[int] = []
        self._fields: list[str] = []
        self._extra: list[str | None] = []
        self._identities: list[int] = []
        self._devices: list[int | None] = []
        self._added = 0
        self._rollout: RolloutTables | None = None
        self._db = sqlite3.connect(self._partial, isolation_level=None)
        try:
            # durability is not needed here: an unfinished plan is thrown away
            self._db.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;"
                f"PRAGMA cache_size=-{CACHE_KIB};{SCHEMA}ATTACH '' AS scratch;"
                "CREATE TABLE scratch.identities"
                " (id INTEGER PRIMARY KEY, identity INTEGER, device INTEGER);"
                "CREATE TABLE scratch.dropped"
                " (id INTEGER PRIMARY KEY, line INTEGER, fields TEXT, is_bad INTEGER, reason TEXT);"
                "BEGIN"
            )
            if rollout is not None:
                self._rollout = RolloutTables(self._db, rollout)
        except BaseException:
            self.discard()
            raise

    def add(
        self,
        target: Target,
        identity: int,
        device: int | None = None,
        values: Sequence[str] = (),
    ) -> None:
        """Append one operation.

        Args:
            target: what it acts on.
            identity: a 64-bit hash of what names the operation. Operations with equal hashes may
                be the same one.
            device: a 64-bit hash of what names its device, if `on_one_device` is to find it.
            values: the values of the columns of the rollout, if there is one.
        """
        if self._rollout is not None:
            self._added += 1
            self._rollout.add(self._added, target.line, values)
        self._lines.append(target.line)
        self._fields.append(orjson.dumps(target.fields).decode())
        self._extra.append(orjson.dumps(target.extra).decode() if target.extra else None)
        self._identities.append(identity)
        self._devices.append(device)
        if len(self._lines) >= _ROWS_PER_STATEMENT:
            self._flush()

    def add_all(
        self,
        line: int,
        fields: Iterable[Fields],
        extra: Sequence[Mapping[str, Any]],
        identities: Iterable[int],
    ) -> None:
        """Append the operations of consecutive lines; see `add`.

        Args:
            line: the first line.
            fields: the fields of each target.
            extra: its other columns; empty if no target has any.
            identities: a hash for each operation.
        """
        texts = [orjson.dumps(each).decode() for each in fields]
        self._lines += range(line, line + len(texts))
        self._fields += texts
        self._extra += [orjson.dumps(each).decode() for each in extra] or [None] * len(texts)
        self._identities += identities
        self._devices += [None] * len(texts)
        self._flush()

    def repeated(self) -> Iterator[Pair]:
        """Find operations with the hash of an earlier one."""
        return self._pairs("identity", "later.id")

    def on_one_device(self) -> Iterator[Pair]:
        """Find operations on the device of an earlier one, device by device; see `repeated`."""
        return self._pairs("device", "first.id, later.id")

    def _pairs(self, column: str, order: str) -> Iterator[Pair]:
        self._flush()
        # only the names above are inserted
        pairs = self._db.execute(
            f"""
            SELECT first.id, later.id, a.line, a.fields, b.line, b.fields
            FROM (SELECT {column}, min(id) AS id FROM scratch.identities
                  WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1) AS first
            JOIN scratch.identities AS later
                -- with a plus, SQLite looks for equal hashes, and not at all later rows of each
                ON later.{column} = first.{column} AND +later.id > first.id
            JOIN operations AS a ON a.id = first.id
            JOIN operations AS b ON b.id = later.id
            ORDER BY {order}
            """  # noqa: S608
        )
        for first_id, later_id, line_a, fields_a, line_b, fields_b in pairs:
            first = Target(line_a, orjson.loads(fields_a))
            yield Pair(first_id, later_id, first, Target(line_b, orjson.loads(fields_b)))

    def drop(self, operation_id: int, reason: str, *, is_bad: bool) -> None:
        """Remove an operation with the next `apply_drops`.

        Args:
            operation_id: which one.
            reason: why. The first one counts, but that a row is bad overrules that it repeats
                another one.
            is_bad: its row is bad, and does not only repeat another one.
        """
        self._db.execute(
            "INSERT INTO scratch.dropped SELECT id, line, fields, ?, ? FROM operations WHERE id = ?"
            " ON CONFLICT DO UPDATE SET is_bad = 1, reason = excluded.reason"
            " WHERE excluded.is_bad AND NOT is_bad",
            (is_bad, reason, operation_id),
        )

    def apply_drops(self) -> None:
        """Remove what was dropped. Not to be called while pairs are read."""
        self._flush()
        tables = ["operations", "scratch.identities"]
        if self._rollout is not None:
            self._rollout.flush()
            tables.append("scratch.keys")
        for table in tables:
            # only the names above are inserted
            self._db.execute(
                f"DELETE FROM {table} WHERE id IN (SELECT id FROM scratch.dropped)"  # noqa: S608
            )

    def dropped(self) -> Iterator[Dropped]:
        """What was dropped, in target order."""
        rows = self._db.execute(
            "SELECT line, fields, is_bad, reason FROM scratch.dropped ORDER BY id"
        )
        for line, fields, is_bad, reason in rows:
            yield Dropped(Target(line, orjson.loads(fields)), bool(is_bad), reason)

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

    def roll_out(self) -> RolledOut:
        """Put the operations in the order of the rollout, and in waves; nothing without one.

        Not to be called before everything is dropped that is to be: ids change.
        """
        self._flush()
        return RolledOut() if self._rollout is None else self._rollout.apply()

    def targets(self) -> Targets:
        """Identify the operations in the order in which they run."""
        self._flush()
        digest, last = hashlib.sha256(), 0
        while True:
            # measured: 2.7 % of the time that planning takes; row by row it is 3.2 %
            last, lines = self._db.execute(
                "SELECT max(id), CAST(group_concat(fields, char(10)) AS BLOB)"
                " FROM (SELECT id, fields FROM operations WHERE id > ? ORDER BY id LIMIT ?)",
                (last, _ROWS_PER_DIGEST),
            ).fetchone()
            if last is None:
                return Targets(self.count(), digest.hexdigest())
            digest.update(lines + b"\n")

    def finish(self, manifest: RunManifest) -> None:
        """Store what the run is about, make everything durable, and rename the file."""
        self._flush()
        self._db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            list(manifest.as_entries().items()),
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
        lines, fields, extra = self._lines, self._fields, self._extra
        self._insert("operations", {"line": lines, "fields": fields, "extra": extra})
        identities, devices = self._identities, self._devices
        self._insert("scratch.identities", {"identity": identities, "device": devices})
        for column in (lines, fields, extra, identities, devices):
            column.clear()

    def _insert(self, table: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Append rows to a table, given column by column."""
        # measured: to bind a column of nulls takes as long as all others
        given = {name: each for name, each in columns.items() if each.count(None) < len(each)}
        mark, rows = f"({', '.join('?' * len(given))})", list(zip(*given.values(), strict=True))
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            part = rows[start : start + _ROWS_PER_STATEMENT]
            self._db.execute(
                # only question marks and the names above are inserted
                f"INSERT INTO {table} ({', '.join(given)}) VALUES {', '.join([mark] * len(part))}",  # noqa: S608
                list(itertools.chain.from_iterable(part)),
            )
