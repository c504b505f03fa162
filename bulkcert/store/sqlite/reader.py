"""The store as the reports see it, during a run or after it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import orjson

from bulkcert.control import ControlEntry
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import RunEvent
from bulkcert.fingerprints import fingerprint
from bulkcert.model import FieldValue, HistoryEntry, HistoryEvent, Material, Slowdown, State
from bulkcert.rules.gate import Standing
from bulkcert.store.base import Abort, HostNow, Record, Session, StoredApproval, WaveOfRun, kind_of
from bulkcert.store.lives import lives_of
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite.campaign import (
    read_aborts,
    read_controls,
    read_events,
    read_standing,
    read_waves,
)
from bulkcert.store.sqlite.database import open_database
from bulkcert.store.sqlite.timeline import (
    read_busiest_seconds,
    read_busy,
    read_requests,
    read_settled,
)
from bulkcert.store.timeline import Requests, SettledOperations

_REASONS = """
    SELECT count(*), code, CASE WHEN min(said) = max(said) THEN min(said) ELSE kind_of(said) END
    FROM (SELECT code, coalesce(message, '') AS said FROM operations
          WHERE state IN ('failed', 'flawed', 'unknown'))
    GROUP BY code, kind_of(said)
"""


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_NOT_OURS = (ValueError, TypeError, KeyError, AttributeError)
"""What decoding raises where a damaged file has something that this program never writes."""


def _reading(
    method: Callable[Concatenate[SqliteReader, _Parameters], _Result],
) -> Callable[Concatenate[SqliteReader, _Parameters], _Result]:
    """Let a method say that the file can't be read where it finds something else than was written.

    SQLite notices damage to its own structures, but not to what is stored in them.
    """

    def guarded(reader: SqliteReader, stream: Iterator[Any]) -> Iterator[Any]:
        try:
            for each in stream:  # noqa: UP028 - as in `_rows`
                yield each
        except _NOT_OURS as error:
            raise reader._unreadable(repr(error)) from error

    @functools.wraps(method)
    def read(
        reader: SqliteReader, /, *values: _Parameters.args, **named: _Parameters.kwargs
    ) -> _Result:
        try:
            result: Any = method(reader, *values, **named)
        except _NOT_OURS as error:
            raise reader._unreadable(repr(error)) from error
        if isinstance(result, Iterator):
            result = guarded(reader, result)
        return cast(_Result, result)

    return read


class SqliteReader:
    """The store as the reports see it; see `bulkcert.store.base.StoreReader`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_database(path, writable=False)
        self._db.create_function("kind_of", 1, kind_of, deterministic=True)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Return a context in which all reads see the same moment."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.rollback()

    @_reading
    def manifest(self) -> RunManifest:
        """What the run is about, as stored when it was planned."""
        return RunManifest.from_entries(dict(self._rows("SELECT key, value FROM meta")))

    @_reading
    def counts(self) -> dict[State, int]:
        """Number of operations by state, without the states that no operation is in."""
        rows = self._rows("SELECT state, count(*) FROM operations GROUP BY state")
        return {State(state): count for state, count in rows}

    def is_begun(self) -> bool:
        """Whether a request that changes something may have left, or there are no operations."""
        begun = self._any("WHERE state != 'planned' OR attempts > 0 ORDER BY id")
        return begun or not self._any("")

    def is_over(self) -> bool:
        """Whether no operation is left to do."""
        # the last one is the last to be claimed
        return not self._any("WHERE state IN ('planned', 'in_flight') ORDER BY id DESC")

    def attempts(self) -> int:
        """Number of attempts of all operations."""
        ((attempts,),) = self._rows("SELECT sum(attempts) FROM operations")
        return int(attempts or 0)

    @_reading
    def sessions(self) -> list[Session]:
        """The sessions of all processes, in the order in which they began."""
        rows = self._rows("SELECT * FROM sessions ORDER BY id")
        return [_session(*row) for _, *row in rows]

    @_reading
    def hosts(self) -> list[HostNow]:
        """The processes of the run, in the order in which they began."""
        rows = self._rows(
            'SELECT line FROM events WHERE line LIKE \'%"type":"started"%\''
            ' OR line LIKE \'%"type":"ended"%\' ORDER BY seq'
        )
        logged = (RunEvent.parse(line.encode()) for (line,) in rows)
        return lives_of(logged, self.sessions(), time.time())

    def under_way(self) -> frozenset[int]:
        """Nothing: one process works on the run at a time."""
        return frozenset()

    def busiest_second(self) -> int:
        """Most requests that left in any rolling second: one process works at a time."""
        return max((session.busiest_second for session in self.sessions()), default=0)

    @_reading
    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""
        return read_waves(self._rows)

    @_reading
    def counts_by_wave(self) -> dict[int, dict[State, int]]:
        """Number of operations by wave and state."""
        counts: dict[int, dict[State, int]] = {}
        rows = self._rows("SELECT wave, state, count(*) FROM operations GROUP BY wave, state")
        for wave, state, count in rows:
            counts.setdefault(wave, {})[State(state)] = count
        return counts

    @_reading
    def standing(self) -> Standing:
        """Where the campaign stands."""
        return read_standing(self._rows)

    @_reading
    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order. The last one is pending unless it is overridden."""
        return read_aborts(self._rows)

    @_reading
    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number."""
        return read_controls(self._rows, after)

    @_reading
    def events(self, after: int = 0) -> list[RunEvent]:
        """The event log, in order, after the event with this number."""
        return read_events(self._rows, after)

    @_reading
    def approvals(self) -> list[StoredApproval]:
        """The approvals with which the run was begun, or went on, in order."""
        columns = ", ".join(StoredApproval._fields)
        # only names of columns are inserted
        rows = self._rows(f"SELECT {columns} FROM approvals ORDER BY id")  # noqa: S608
        return [StoredApproval(*row) for row in rows]

    @_reading
    def busy_buckets(self, bucket_s: int) -> Iterator[int]:
        """The buckets in which a request left or an operation was settled, in order."""
        return read_busy(self._rows, bucket_s)

    @_reading
    def requests_by_time(self, bucket_s: int) -> Iterator[Requests]:
        """The requests that left, by bucket, in order."""
        return read_requests(self._rows, bucket_s)

    @_reading
    def busiest_seconds(self, bucket_s: int) -> Iterator[tuple[int, int]]:
        """Each bucket in which requests left, and the most that left in any second of it."""
        return read_busiest_seconds(self._rows, bucket_s)

    @_reading
    def settled_by_time(self, bucket_s: int) -> Iterator[SettledOperations]:
        """The operations that are settled, by bucket, in order; each of them once."""
        return read_settled(self._rows, bucket_s)

    def reasons(self, most: int) -> list[tuple[int, int | str | None, str]]:
        """Why operations failed or are unknown: (count, code, message), most frequent first."""
        return list(self._rows(f"{_REASONS} ORDER BY 1 DESC, 2, 3 LIMIT ?", (most,)))

    def kinds_of_reasons(self) -> int:
        """How many different reasons there are."""
        ((kinds,),) = self._rows(f"SELECT count(*) FROM ({_REASONS})")  # noqa: S608 - a constant
        return int(kinds)

    @_reading
    def remarks(self) -> dict[str, int]:
        """Number of operations by remark: the names in `result["remarks"]`."""
        rows = self._rows(
            "SELECT remark.value, count(*)"
            " FROM operations, json_each(operations.result, '$.remarks') AS remark"
            """ WHERE result LIKE '%"remarks"%' GROUP BY 1 ORDER BY 1"""
        )
        return dict(rows)

    def still_valid(self, device: Sequence[str], serial: str) -> int:
        """Number of devices that can still connect, as far as their look-ups have shown."""
        name = f"json_array({', '.join(['json_extract(fields, ?)'] * len(device))})"
        paths = [f"$.{field}" for field in device]
        rows = self._rows(
            # only functions and question marks are inserted
            f"""
            WITH
                done AS (
                    SELECT fields, result FROM operations
                    WHERE state IN ('succeeded', 'already_done')),
                others AS (
                    SELECT {name} AS device, CAST(other.value AS TEXT) AS serial
                    FROM done, json_each(done.result, '$.other_valid') AS other
                    WHERE result LIKE '%"other_valid"%')
            SELECT count(DISTINCT device) FROM others WHERE (device, serial) NOT IN (
                SELECT {name}, CAST(json_extract(fields, ?) AS TEXT) FROM done
                WHERE json_extract(fields, ?) IS NOT NULL)
            """,  # noqa: S608
            [*paths, *paths, f"$.{serial}", f"$.{serial}"],
        )
        ((devices,),) = rows
        return int(devices)

    @_reading
    def records(
        self, states: Iterable[State] | None = None, containing: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Stream the operations in target order; see the contract."""
        wanted = list(State) if states is None else list(states)
        marks = ", ".join("?" * len(wanted))
        found = " OR ".join(["instr(fields, ?) OR instr(extra, ?)"] * len(containing)) or "true"
        texts = [orjson.dumps(text).decode()[1:-1] for text in containing]
        in_file_order = not (self.manifest().adds_operations or self.waves())
        order = "id" if in_file_order else "line, id"
        rows = self._rows(
            # only question marks and names of columns are inserted
            "SELECT id, line, fields, state, attempts, code, message, request_id, result,"  # noqa: S608
            f" finished_at, extra FROM operations WHERE state IN ({marks}) AND ({found})"
            f" ORDER BY {order}",
            [*wanted, *itertools.chain.from_iterable(zip(texts, texts, strict=True))],
        )
        for row in rows:
            id_, line, fields, state, attempts, code, message, request_id = row[:8]
            result, finished_at, extra = row[8:]
            yield Record(
                id_,
                line,
                orjson.loads(fields),
                _STATES[state],
                attempts,
                code,
                message,
                request_id,
                _loaded(result),
                finished_at,
                _loaded(extra) or {},
            )

    @_reading
    def fields_and_states(self) -> Iterator[tuple[dict[str, FieldValue], State]]:
        """Stream the fields and the state of each operation, in any order: as fast as can be."""
        for fields, state in self._rows("SELECT fields, state FROM operations"):
            yield orjson.loads(fields), _STATES[state]

    @_reading
    def history(self, operation_ids: Sequence[int]) -> list[HistoryEntry]:
        """What happened to these operations, in the order in which it became durable."""
        rows = self._rows(
            # only question marks and names of columns are inserted
            "SELECT operation, event, attempt, sent_at, ended_at, source, result, code, message,"  # noqa: S608
            f" request_id FROM history WHERE operation IN ({', '.join('?' * len(operation_ids))})"
            " ORDER BY id",
            operation_ids,
        )
        return [HistoryEntry(number, HistoryEvent(event), *rest) for number, event, *rest in rows]

    @_reading
    def whole_history(self) -> Iterator[tuple[int, HistoryEntry]]:
        """Stream what happened to all operations, each with the line of its target."""
        rows = self._rows(
            # CROSS JOIN: in the order of the first table
            "SELECT o.line, h.operation, h.event, h.attempt, h.sent_at, h.ended_at, h.source,"
            " h.result, h.code, h.message, h.request_id"
            " FROM history AS h CROSS JOIN operations AS o ON o.id = h.operation ORDER BY h.id"
        )
        for line, number, event, *rest in rows:
            yield line, HistoryEntry(number, HistoryEvent(event), *rest)

    def material(self, operation_ids: Sequence[int]) -> list[Material]:
        """Nothing: without other hosts, keys and certificates are files in the run directory."""
        return []

    @_reading
    def planned_fields(self) -> Iterator[bytes]:
        """Stream the fields of each operation as lines, in the order in which they run."""
        for (fields,) in self._rows("SELECT fields FROM operations ORDER BY id"):
            yield fields.encode() + b"\n"

    def fingerprints(self) -> Iterator[bytes]:
        """The fingerprint of each operation, in ascending order; see `bulkcert.fingerprints`."""
        self._db.create_function("fingerprint", 1, fingerprint, deterministic=True)
        for (found,) in self._rows("SELECT fingerprint(fields) FROM operations ORDER BY 1"):
            yield found

    def copy_to(self, path: Path) -> None:
        """Copy the store as it is at this moment to a new file, while others work with it.

        Raises:
            RunDirectoryError: the store can't be read, or the file can't be written.
        """
        try:
            with contextlib.closing(sqlite3.connect(path)) as copy:
                self._db.backup(copy)
        except sqlite3.Error as error:
            raise RunDirectoryError(
                f"{self._path} can't be copied to {path}: {error}",
                "Free some space there, or set TMPDIR to a folder on another disk.",
            ) from error

    def close(self) -> None:
        """Close the store."""
        self._db.close()

    def _any(self, which: str) -> bool:
        """Whether there is such an operation; `which` must be a constant."""
        return bool(list(self._rows(f"SELECT 1 FROM operations {which} LIMIT 1")))  # noqa: S608

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Run a query. A damaged file fails only where the damaged part is read."""
        try:
            # not `yield from`, which would close the cursor of an abandoned stream, maybe too late
            for row in self._db.execute(query, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise self._unreadable(str(error)) from error

    def _unreadable(self, why: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self._path} can't be read: {why}",
            "If the file is damaged, restore it from a backup.",
        )


_STATES = {state.value: state for state in State}
"""`State(...)` takes several times as long."""


def _loaded(value: str | None) -> Any:
    return None if value is None else orjson.loads(value)


def _session(*row: Any) -> Session:
    """The session in a row of the table, without its id."""
    *figures, retried, pause_s, share, left_s, control, under_way, open_requests, reasons = row
    return replace(
        Session(*figures),
        retried=orjson.loads(retried),
        slowdown=None if share is None else Slowdown(pause_s, share),
        left_s=left_s,
        control=control,
        under_way=under_way,
        open_requests=open_requests,
        reasons=tuple(orjson.loads(reasons)),
    )
