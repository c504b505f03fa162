"""The shared store as the reports see it, during a run or after it.

What may be long is read in parts, each of them a statement of its own: a statement that takes
minutes keeps the server from removing what was overwritten meanwhile, and slows all hosts down. In
a `snapshot` that is so all the same, so it should be short.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import orjson
import psycopg

from bulkcert.control import ControlEntry
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import RunEvent
from bulkcert.fingerprints import fingerprint
from bulkcert.model import FieldValue, HistoryEntry, HistoryEvent, Material, State
from bulkcert.rules.gate import Standing
from bulkcert.store.base import (
    Abort,
    HostNow,
    Record,
    Session,
    StoredApproval,
    WaveOfRun,
    any_overlap,
    kind_of,
)
from bulkcert.store.manifest import RunManifest
from bulkcert.store.postgresql.campaign import (
    read_aborts,
    read_controls,
    read_events,
    read_standing,
    read_waves,
)
from bulkcert.store.postgresql.database import connect, readable, run_id
from bulkcert.store.postgresql.hosts import read_hosts, read_sessions
from bulkcert.store.postgresql.material import read_material
from bulkcert.store.postgresql.timeline import (
    read_busiest_second,
    read_busiest_seconds,
    read_busy,
    read_requests,
    read_settled,
)
from bulkcert.store.sqlite.database import SCHEMA
from bulkcert.store.sqlite.database import SCHEMA_VERSION as SQLITE_SCHEMA_VERSION
from bulkcert.store.timeline import Requests, SettledOperations

_ROWS_PER_PART = 5000

_MARKS = ", ".join("?" * 16)
"""One for each column of the operations in a checkpoint."""

# PostgreSQL can't take a text with U+0000 out of JSON.
_RESULT: LiteralString = r"replace(result, '\u0000', '\ufffd')::json"
_FIELDS: LiteralString = r"replace(fields, '\u0000', '\ufffd')::json"


class PostgresReader:
    """The shared store as the reports see it; see `bulkcert.store.base.StoreReader`.

    Args:
        dsn: the shared store.
        run: the name of the run.

    Attributes:
        number: the number of the run.
    """

    def __init__(self, dsn: str, run: str) -> None:
        with readable():
            self._db = connect(dsn)
            try:
                self._run = self.number = run_id(self._db, run)
            except BaseException:
                self._db.close()
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Return a context in which all reads see the same moment."""
        with readable():
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            with contextlib.suppress(psycopg.Error):  # there may be no connection any more
                self._db.execute("ROLLBACK")

    def manifest(self) -> RunManifest:
        """What the run is about, as stored when it was planned."""
        (stored,) = self._one("SELECT manifest FROM bulkcert.run WHERE id = %s", (self._run,))
        return RunManifest.from_entries(orjson.loads(stored))

    def counts(self) -> dict[State, int]:
        """Number of operations by state, without the states that no operation is in."""
        rows = self._rows(
            "SELECT state, count(*) FROM bulkcert.operation WHERE run = %s GROUP BY state",
            (self._run,),
        )
        return {State(state): count for state, count in rows}

    def is_begun(self) -> bool:
        """Whether a request that changes something may have left, or there are no operations."""
        begun = self._exists("state <> 'planned' OR attempts > 0")
        return begun or not self._exists("true")

    def is_over(self) -> bool:
        """Whether no operation is left to do."""
        return not self._exists("state IN ('planned', 'in_flight')")

    def attempts(self) -> int:
        """Number of attempts of all operations."""
        (attempts,) = self._one(
            "SELECT coalesce(sum(attempts), 0) FROM bulkcert.operation WHERE run = %s", (self._run,)
        )
        return int(attempts)

    def sessions(self) -> list[Session]:
        """The sessions of all processes, in the order in which they began.

        Their times are those of the store: no two hosts have the same clock.
        """
        return read_sessions(self._rows, self._run)

    def hosts(self) -> list[HostNow]:
        """The lives of all hosts, in the order in which they began."""
        return read_hosts(self._rows, self._run)

    def under_way(self) -> frozenset[int]:
        """The ids of the operations that are in flight, and that a live host is working on."""
        rows = self._rows(
            "SELECT o.id FROM bulkcert.lease AS l JOIN bulkcert.operation AS o"
            " ON o.run = l.run AND o.owner = l.id"
            " WHERE l.run = %s AND l.state = 'live' AND o.state = 'in_flight'",
            (self._run,),
        )
        return frozenset(id_ for (id_,) in rows)

    def busiest_second(self) -> int:
        """Most requests that left in any rolling second, of all hosts together."""
        sessions = self.sessions()
        most = max((session.busiest_second for session in sessions), default=0)
        if not any_overlap(sessions):
            return most
        return max(most, read_busiest_second(self._rows, self._run))

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""
        return read_waves(self._rows, self._run)

    def counts_by_wave(self) -> dict[int, dict[State, int]]:
        """Number of operations by wave and state."""
        counts: dict[int, dict[State, int]] = {}
        rows = self._rows(
            "SELECT wave, state, count(*) FROM bulkcert.operation WHERE run = %s GROUP BY 1, 2",
            (self._run,),
        )
        for wave, state, count in rows:
            counts.setdefault(wave, {})[State(state)] = count
        return counts

    def standing(self) -> Standing:
        """Where the campaign stands."""
        return read_standing(self._rows, self._run)

    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order. The last one is pending unless it is overridden."""
        return read_aborts(self._rows, self._run)

    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number."""
        return read_controls(self._rows, self._run, after)

    def events(self, after: int = 0) -> list[RunEvent]:
        """The event log, in order, after the event with this number."""
        return read_events(self._rows, self._run, after)

    def approvals(self) -> list[StoredApproval]:
        """The approvals with which the run was begun, or went on, in order."""
        rows = self._rows(
            "SELECT at, abort, who, key, expires_at, statement, signature, signers"
            " FROM bulkcert.approval WHERE run = %s ORDER BY id",
            (self._run,),
        )
        return [StoredApproval(*row) for row in rows]

    def busy_buckets(self, bucket_s: int) -> Iterator[int]:
        """The buckets in which a request left or an operation was settled, in order."""
        return read_busy(self._rows, self._run, bucket_s)

    def requests_by_time(self, bucket_s: int) -> Iterator[Requests]:
        """The requests that left, by bucket, in order."""
        return read_requests(self._rows, self._run, bucket_s)

    def busiest_seconds(self, bucket_s: int) -> Iterator[tuple[int, int]]:
        """Each bucket in which requests left, and the most that left in any second of it."""
        return read_busiest_seconds(self._rows, self._run, bucket_s)

    def settled_by_time(self, bucket_s: int) -> Iterator[SettledOperations]:
        """The operations that are settled, by bucket, in order; each of them once."""
        return read_settled(self._rows, self._run, bucket_s)

    def reasons(self, most: int) -> list[tuple[int, int | str | None, str]]:
        """Why operations failed or are unknown: (count, code, message), most frequent first."""
        return self._reasons()[:most]

    def kinds_of_reasons(self) -> int:
        """How many different reasons there are."""
        return len(self._reasons())

    def _reasons(self) -> list[tuple[int, int | str | None, str]]:
        counts: dict[tuple[str | None, str], int] = {}
        messages: dict[tuple[str | None, str], str] = {}
        rows = self._parts(
            "SELECT id, code, coalesce(message, '') FROM bulkcert.operation"
            " WHERE run = %(run)s AND state IN ('failed', 'flawed', 'unknown')"
            " AND id > %(after)s ORDER BY id LIMIT %(most)s",
        )
        for _, code, message in rows:
            reason = code, kind_of(message)
            counts[reason] = counts.get(reason, 0) + 1
            if messages.setdefault(reason, message) != message:
                messages[reason] = reason[1]
        found = [(count, _loaded(reason[0]), messages[reason]) for reason, count in counts.items()]
        return sorted(found, key=lambda each: (-each[0], str(each[1]), each[2]))

    def remarks(self) -> dict[str, int]:
        """Number of operations by remark: the names in `result["remarks"]`."""
        rows = self._rows(
            # only a constant is inserted
            "SELECT remark, count(*) FROM ("  # noqa: S608
            f" SELECT {_RESULT} -> 'remarks' AS remarks FROM bulkcert.operation"
            " WHERE run = %s AND strpos(result, '\"remarks\"') > 0) AS found,"
            " json_array_elements_text("
            "  CASE json_typeof(remarks) WHEN 'array' THEN remarks ELSE '[]' END) AS remark"
            " GROUP BY 1 ORDER BY 1",
            (self._run,),
        )
        return dict(rows)

    def still_valid(self, device: Sequence[str], serial: str) -> int:
        """Number of devices that can still connect, as far as their look-ups have shown."""
        (devices,) = self._one(
            f"""
            WITH
                done AS (
                    SELECT
                        (SELECT json_agg(name.of_target -> key ORDER BY place)::text
                         FROM unnest(%(device)s::text[]) WITH ORDINALITY AS part (key, place))
                        AS device,
                        name.of_target ->> %(serial)s AS serial,
                        CASE WHEN strpos(result, '"other_valid"') > 0
                            THEN {_RESULT} -> 'other_valid' END AS others
                    FROM bulkcert.operation, LATERAL (SELECT {_FIELDS} AS of_target) AS name
                    WHERE run = %(run)s AND state IN ('succeeded', 'already_done')),
                still AS (
                    SELECT device, other AS serial FROM done, json_array_elements_text(
                        CASE json_typeof(others) WHEN 'array' THEN others ELSE '[]' END) AS other
                    EXCEPT SELECT device, serial FROM done)
            SELECT count(DISTINCT device) FROM still
            """,  # noqa: S608 - constants
            {"run": self._run, "device": list(device), "serial": serial},
        )
        return int(devices)

    def records(
        self, states: Iterable[State] | None = None, containing: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Stream the operations in target order; see the contract."""
        wanted = State if states is None else states
        rows = self._parts(
            "SELECT id, line, fields, state, attempts, code, message, request_id, result,"
            " finished_at, extra FROM bulkcert.operation"
            " WHERE run = %(run)s AND (line, id) > (%(line)s, %(after)s)"
            " AND state = ANY(%(states)s)"
            " AND (%(all)s OR EXISTS (SELECT FROM unnest(%(texts)s::text[]) AS part"
            "  WHERE strpos(fields, part) > 0 OR strpos(extra, part) > 0))"
            " ORDER BY line, id LIMIT %(most)s",
            {
                "states": list(map(str, wanted)),
                "all": not containing,
                "texts": [orjson.dumps(text).decode()[1:-1] for text in containing],
            },
        )
        for id_, line, fields, state, attempts, code, message, request_id, *rest in rows:
            result, finished_at, extra = rest
            yield Record(
                id_,
                line,
                orjson.loads(fields),
                State(state),
                attempts,
                _loaded(code),
                message,
                request_id,
                _loaded(result),
                finished_at,
                _loaded(extra) or {},
            )

    def history(self, operation_ids: Sequence[int]) -> list[HistoryEntry]:
        """What happened to these operations, in the order in which it became durable."""
        rows = self._rows(
            "SELECT operation, event, attempt, sent_at, ended_at, source, result, code, message,"
            " request_id FROM bulkcert.history WHERE run = %s AND operation = ANY(%s) ORDER BY id",
            (self._run, list(operation_ids)),
        )
        return [_entry(*row) for row in rows]

    def whole_history(self) -> Iterator[tuple[int, HistoryEntry]]:
        """Stream what happened to all operations, each with the line of its target."""
        rows = self._parts(
            "SELECT h.id, o.line, h.operation, h.event, h.attempt, h.sent_at, h.ended_at, h.source,"
            " h.result, h.code, h.message, h.request_id"
            " FROM bulkcert.history AS h"
            " JOIN bulkcert.operation AS o ON o.run = h.run AND o.id = h.operation"
            " WHERE h.run = %(run)s AND h.id > %(after)s ORDER BY h.id LIMIT %(most)s"
        )
        for _, line, *entry in rows:
            yield line, _entry(*entry)

    def material(self, operation_ids: Sequence[int]) -> list[Material]:
        """The keys, signing requests and certificates of operations; see the contract."""
        return read_material(self._rows, self._run, operation_ids)

    def planned_fields(self) -> Iterator[bytes]:
        """Stream the fields of each operation as lines, in the order in which they run."""
        rows = self._parts(
            "SELECT id, fields FROM bulkcert.operation WHERE run = %(run)s AND id > %(after)s"
            " ORDER BY id LIMIT %(most)s"
        )
        for _, fields in rows:
            yield fields.encode() + b"\n"

    def fields_and_states(self) -> Iterator[tuple[dict[str, FieldValue], State]]:
        """Stream the fields and the state of each operation: as fast as can be."""
        states = {str(state): state for state in State}  # `State(...)` takes several times as long
        rows = self._parts(
            "SELECT id, fields, state FROM bulkcert.operation"
            " WHERE run = %(run)s AND id > %(after)s ORDER BY id LIMIT %(most)s"
        )
        for _, fields, state in rows:
            yield orjson.loads(fields), states[state]

    def fingerprints(self) -> Iterator[bytes]:
        """The fingerprint of each operation, in ascending order; see `bulkcert.fingerprints`."""
        rows = self._parts(
            "SELECT id, fields FROM bulkcert.operation WHERE run = %(run)s AND id > %(after)s"
            " ORDER BY id LIMIT %(most)s"
        )
        with contextlib.closing(sqlite3.connect("")) as sorter:  # on disk as soon as it grows
            sorter.execute("CREATE TABLE found (fingerprint BLOB)")
            found = ((fingerprint(fields),) for _, fields in rows)
            sorter.executemany("INSERT INTO found VALUES (?)", found)
            for (each,) in sorter.execute("SELECT fingerprint FROM found ORDER BY 1"):
                yield each

    def copy_to(self, path: Path) -> None:
        """Copy the run to a new checkpoint; see the contract."""
        operations = self._parts(
            "SELECT id, line, fields, extra, state, step, step_data, attempts, sent_at, code,"
            " message, request_id, result, finished_at, wave, begun::int FROM bulkcert.operation"
            " WHERE run = %(run)s AND id > %(after)s ORDER BY id LIMIT %(most)s"
        )
        try:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {SCHEMA}")
                copy.execute("BEGIN")
                entries = self.manifest().as_entries().items()
                rows = ((*row[:9], _loaded(row[9]), *row[10:]) for row in operations)
                copy.executemany("INSERT INTO meta VALUES (?, ?)", entries)
                copy.executemany("INSERT INTO waves VALUES (?, ?, ?)", self.waves())
                copy.executemany(
                    "INSERT INTO controls VALUES (?, ?, ?, ?, ?, ?)", map(tuple, self.controls())
                )
                copy.executemany(f"INSERT INTO operations VALUES ({_MARKS})", rows)  # noqa: S608
                copy.execute("COMMIT")
                copy.execute(f"PRAGMA user_version={SQLITE_SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise RunDirectoryError(
                f"The run can't be copied to {path}: {error}",
                "Free some space there, or set TMPDIR to a folder on another disk.",
            ) from error

    def close(self) -> None:
        """Close the store."""
        self._db.close()

    def _parts(
        self,
        query: LiteralString,
        values: Mapping[str, Any] = {},
    ) -> Iterator[Any]:
        """Run a query again and again, each time for the next rows.

        Its first column is the id of a row, and the second one the line of its target if it is in
        the order of lines.
        """
        after: dict[str, Any] = {"run": self._run, "line": 0, "after": 0, "most": _ROWS_PER_PART}
        while True:
            rows = self._rows(query, {**values, **after})
            yield from rows
            if len(rows) < _ROWS_PER_PART:
                return
            after |= {"after": rows[-1][0], "line": rows[-1][1]}

    def _exists(self, condition: LiteralString) -> bool:
        """Whether the run has an operation of which a condition is true."""
        query: LiteralString = "SELECT EXISTS (SELECT 1 FROM bulkcert.operation WHERE run = %s AND "
        (found,) = self._one(f"{query} ({condition}))", (self._run,))
        return bool(found)

    def _rows(self, query: LiteralString, values: Any) -> list[Any]:
        with readable():
            return self._db.execute(query, values).fetchall()

    def _one(self, query: LiteralString, values: Any) -> Any:
        (row,) = self._rows(query, values)
        return row


def _loaded(value: str | None) -> Any:
    return None if value is None else orjson.loads(value)


def _entry(number: int, event: str, *rest: Any) -> HistoryEntry:
    attempt, sent_at, ended_at, source, result, code, message, request_id = rest
    return HistoryEntry(
        *(number, HistoryEvent(event), attempt, sent_at, ended_at, source, result),
        *(_loaded(code), message, request_id),
    )
