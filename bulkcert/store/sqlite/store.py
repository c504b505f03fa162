"""The store during a run: claims operations and records changes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import orjson

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.errors import StoreError
from bulkcert.event_log import Happened, RunEvent
from bulkcert.model import Change, FieldValue, HistoryEntry, HistoryEvent, Operation, State
from bulkcert.rules.abort import Settled
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Standing
from bulkcert.rules.rollout import RETRY
from bulkcert.store.base import Abort, Session, StoredApproval, WaveOfRun, within_cap
from bulkcert.store.manifest import RunManifest
from bulkcert.store.sqlite.campaign import (
    read_aborts,
    read_controls,
    read_events,
    read_standing,
    read_waves,
)
from bulkcert.store.sqlite.database import open_database

_TEXTS: Mapping[StrEnum, str] = {each: each.value for each in (*State, *HistoryEvent)}
"""What the store keeps of them. SQLite takes longer for their own type."""

_CHANGES_PER_STATEMENT = 50
"""For each row of an `executemany` or a SELECT, the interpreter's lock is released and taken again,
while the event loop wants it too. So many changes share one statement."""


T = TypeVar("T")

_ALL = 2**62  # of the rows of a table


class SqliteStore:
    """The store during a run; see `bulkcert.store.base.Store`.

    One thread at a time may use it; that need not be the thread that opened it.

    Args:
        path: the file.
        now: returns the time at which an attempt is intended, in Unix seconds.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._db = open_database(path, writable=True)
        self._now = now
        self._check_result: CheckResult | None = None
        self._wave: int | None = None
        self._claimed_up_to = 0  # in that wave
        self._session_id: int | None = None  # of this process

    @property
    def shared(self) -> bool:
        """Whether other hosts may work on the run: one process at a time does."""
        return False

    def now(self) -> float:
        """The machine's clock."""
        return time.time()

    def commit(self, work: Callable[[], T]) -> T:
        """Call a function in a transaction, once."""
        with self.transaction():
            return work()

    def lock_rules(self) -> None:
        """Nothing to do: there are no other hosts."""

    def policy_version(self) -> int:
        """Of no use: there are no other hosts."""
        return 0

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

    def claim(
        self,
        most: int,
        lookup_first: Collection[int] = (),
        *,
        wave: int | None = None,
        most_begun: int | None = None,
    ) -> list[Operation]:
        """Take the next operations in target order; see the contract."""
        if wave != self._wave:  # a wave begins when the one before is settled
            self._wave, self._claimed_up_to = wave, 0
        of_wave = "" if wave is None else "wave = ? AND"
        # in one row: see _CHANGES_PER_STATEMENT
        (found,) = self._db.execute(
            # only the condition above is inserted
            f"""
            SELECT json_group_array(json_array(
                id, line, json(fields), state, step, json(step_data), attempts, sent_at, begun))
            FROM (SELECT * FROM operations
                  WHERE {of_wave} id > ? AND state IN ('planned', 'in_flight')
                  ORDER BY id LIMIT ?)
            """,  # noqa: S608
            (*(() if wave is None else (wave,)), self._claimed_up_to, most),
        ).fetchone()
        rows = sorted(orjson.loads(found))  # an aggregate promises no order
        if most_begun is not None:
            rows = self._begin(rows, most_begun)
        if not rows:
            return []
        first_id, last_id = rows[0][0], rows[-1][0]
        marks = ", ".join("?" * len(lookup_first))
        self._db.execute(
            # only question marks and the condition above are inserted
            "UPDATE operations SET state = 'in_flight', attempts = attempts + 1, sent_at = ?"  # noqa: S608
            f" WHERE {of_wave} id BETWEEN ? AND ? AND state = 'planned' AND step NOT IN ({marks})",
            (
                self._now(),
                *(() if wave is None else (wave,)),
                first_id,
                last_id,
                *lookup_first,
            ),
        )
        self._claimed_up_to = last_id
        claimed = []
        for id_, line, fields, state, step, step_data, attempts, sent_at, _ in rows:
            planned = state == State.PLANNED
            intended = planned and step not in lookup_first
            claimed.append(
                Operation(
                    id=id_,
                    line=line,
                    fields=fields,
                    state=State.PLANNED if planned and not intended else State.IN_FLIGHT,
                    step=step,
                    step_data=step_data,
                    attempts=attempts + intended,
                    in_doubt=not planned,
                    sent_at=None if planned else sent_at,
                )
            )
        return claimed

    def keep_hosts_away(self) -> str:
        """The lock of the run directory does."""
        return ""

    def count_begun(self) -> None:
        """Count what was claimed before the run had a cap."""
        self._db.execute(
            "UPDATE operations SET begun = 1"
            " WHERE begun = 0 AND (attempts > 0 OR state != 'planned')"
        )
        (begun,) = self._db.execute("SELECT count(*) FROM operations WHERE begun = 1").fetchone()
        self.set_standing(replace(self.standing(), begun=begun))

    def _begin(self, rows: Sequence[Any], most_begun: int) -> list[Any]:
        """Mark operations as claimed; return those up to the last that may be."""
        standing = self.standing()
        allowed = within_cap(rows, most_begun - standing.begun)
        if new := [row[0] for row in allowed if not row[-1]]:
            marks = ", ".join("?" * len(new))
            # only question marks are inserted; most often the numbers follow each other
            where, values = f"id IN ({marks})", new
            if len(new) == new[-1] - new[0] + 1:
                where, values = "id BETWEEN ? AND ?", [new[0], new[-1]]
            self._db.execute(f"UPDATE operations SET begun = 1 WHERE {where}", values)  # noqa: S608
            self.set_standing(replace(standing, begun=standing.begun + len(new)))
        return allowed

    def waves(self) -> list[WaveOfRun]:
        """The waves of the run, in order; none if it has no rollout."""
        return read_waves(self._db.execute)

    def end_of_wave(self, wave: int | None) -> float | None:
        """When the last operation of a wave was settled; see the contract."""
        where, values = ("true", ()) if wave is None else ("wave = ?", (wave,))
        is_open = f"SELECT 1 FROM operations WHERE {where} AND state IN ('planned', 'in_flight')"  # noqa: S608 - constants
        if self._db.execute(f"{is_open} LIMIT 1", values).fetchone():
            return None
        (end,) = self._db.execute(
            f"SELECT max(finished_at) FROM operations WHERE {where}",  # noqa: S608 - constants
            values,
        ).fetchone()
        return self._now() if end is None else float(end)

    def others_work(self) -> bool:
        """Nobody else works on the run."""
        return False

    def counts_of_wave(self, wave: int | None) -> dict[State, int]:
        """Number of operations of a wave by state; None for all of them."""
        rows = self._db.execute(
            "SELECT state, count(*) FROM operations WHERE ?1 IS NULL OR wave = ?1 GROUP BY state",
            (wave,),
        )
        return {State(state): many for state, many in rows}

    def standing(self) -> Standing:
        """Where the campaign stands."""
        return read_standing(self._db.execute)

    def set_standing(self, standing: Standing) -> None:
        """Store where the campaign stands."""
        self._db.execute(
            "INSERT OR REPLACE INTO standing VALUES (1, ?, ?, ?)",
            (standing.wave, standing.over_at, standing.begun),
        )

    def check_result(self) -> CheckResult | None:
        """What the outside check of this process has said last."""
        return self._check_result

    def set_check_result(self, result: CheckResult) -> None:
        """Remember what the outside check has said."""
        self._check_result = result

    def be_steward(self) -> bool:
        """One process works on the run at a time, so it does everything."""
        return True

    def resign(self) -> None:
        """There is nobody else."""

    def add_settled(self, settled: Sequence[tuple[int, Settled]]) -> Iterable[Settled]:
        """Append settled operations that the rules about failures are to judge; return them."""
        for start in range(0, len(settled), _CHANGES_PER_STATEMENT):
            part = settled[start : start + _CHANGES_PER_STATEMENT]
            marks = ", ".join(["(?, ?, ?, ?)"] * len(part))
            self._db.execute(
                # only question marks are inserted
                f"INSERT INTO settled (operation, state, code, wave) VALUES {marks}",  # noqa: S608
                [value for number, each in part for value in (number, *each)],
            )
        return [each for _, each in settled]

    def settled(self, most: int | None) -> Iterator[Settled]:
        """The last settled operations since the last override, in order; see the contract."""
        rows = self._db.execute(
            "SELECT state, code, wave FROM settled WHERE id > max("
            " (SELECT coalesce(max(settled), 0) FROM aborts WHERE overridden_at IS NOT NULL),"
            " (SELECT coalesce(max(id), 0) FROM settled) - ?) ORDER BY id",
            (_ALL if most is None else most,),
        )
        for state, code, wave in rows:
            yield Settled(State(state), code, wave)

    def aborts(self) -> list[Abort]:
        """What has stopped the run, in order."""
        return read_aborts(self._db.execute)

    def add_abort(self, abort: Abort) -> None:
        """Store that a rule has stopped the run."""
        self._db.execute(
            "INSERT INTO aborts (id, at, rule, text, settled) VALUES (?, ?, ?, ?, 0)", abort[:4]
        )

    def override_abort(
        self, abort_id: str, at: float, who: str, why: str, *, forget: bool = True
    ) -> None:
        """Store that somebody decided to go on; see the contract."""
        self._db.execute(
            "UPDATE aborts SET overridden_at = ?, who = ?, why = ?, settled = CASE WHEN ?"
            " THEN (SELECT coalesce(max(id), 0) FROM settled) ELSE 0 END WHERE id = ?",
            (at, who, why, forget, abort_id),
        )

    def controls(self, after: int = 0) -> list[ControlEntry]:
        """What people asked of the run, in order, after the entry with this number."""
        return read_controls(self._db.execute, after)

    def add_control(self, at: float, who: str, why: str, verb: Verb, value: str = "") -> int:
        """Append what somebody asks of the run; return its number."""
        cursor = self._db.execute(
            "INSERT INTO controls (at, who, why, verb, value) VALUES (?, ?, ?, ?, ?)",
            (at, who, why, verb, value),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_event(self, happened: Happened) -> RunEvent:
        """Append to the event log; return the event."""
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        before = self.events(last - 1)
        meta = self._db.execute("SELECT key, value FROM meta")
        manifest = RunManifest.from_entries(dict(meta.fetchall()))
        event = event_log.following(
            before[0] if before else None, manifest.run, manifest.plan.hash, happened
        )
        self._db.execute("INSERT INTO events VALUES (?, ?)", (event.seq, event.line.decode()))
        return event

    def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
        """The event log, in order, after the event with this number; at most so many of them."""
        try:
            return read_events(self._db.execute, after, most)
        except (ValueError, AttributeError) as error:  # the latter if it is not text
            raise StoreError(
                f"The checkpoint has an event that can't be read: {error}",
                "If the file is damaged, restore it from a backup.",
            ) from error

    def notified(self) -> int:
        """The number of the last event that `[notify]` need not be given any more."""
        (row,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM notified")
        return int(row[0])

    def set_notified(self, seq: int) -> None:
        """Store that number, unless a higher one is stored."""
        self._db.execute(
            "INSERT OR REPLACE INTO notified SELECT 1, max(?, coalesce(max(seq), 0)) FROM notified",
            (seq,),
        )

    def notifies(self, lease: UUID | None) -> bool:
        """One process works on the run at a time, so it does everything."""
        return True

    def add_approval(self, approval: StoredApproval) -> None:
        """Keep an approval."""
        columns = ", ".join(approval._fields)
        marks = ", ".join("?" * len(approval))
        # only names of columns and question marks are inserted
        self._db.execute(f"INSERT INTO approvals ({columns}) VALUES ({marks})", approval)  # noqa: S608

    def record(self, changes: Sequence[Change]) -> None:
        """Apply the changes in order. Raises `StoreError` if one finds another state."""
        applied = 0
        for part in _parts(changes):
            values: list[Any] = [self._now()]
            for change in part:
                values += (
                    change.operation_id,
                    _TEXTS[change.expected],
                    _TEXTS[change.state],
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
                self._add_to_target(change.operation_id, [change.next_page])

    def _fan_out(self, change: Change) -> None:
        first, *others = change.fan_out
        self._db.execute(
            "UPDATE operations SET fields = ? WHERE id = ?",
            (orjson.dumps(first).decode(), change.operation_id),
        )
        self._add_to_target(change.operation_id, others, change.step, _dumped(change.step_data))

    def _add_to_target(
        self,
        operation_id: int,
        added: Sequence[dict[str, FieldValue]],
        step: int = 0,
        step_data: str | None = None,
    ) -> None:
        """Add planned operations to the target of another one."""
        self._db.executemany(
            "INSERT INTO operations (line, fields, extra, step, step_data, wave)"
            " SELECT line, ?, extra, ?, ?, wave FROM operations WHERE id = ?",
            [(orjson.dumps(fields).decode(), step, step_data, operation_id) for fields in added],
        )

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Keep what happened to operations, in this order."""
        for start in range(0, len(entries), _CHANGES_PER_STATEMENT):
            part = entries[start : start + _CHANGES_PER_STATEMENT]
            values: list[Any] = []
            for entry in part:
                values += (entry.operation_id, _TEXTS[entry.event], *entry[2:])
            self._db.execute(_history_statement(len(part)), values)

    def note_session(self, session: Session) -> None:
        """Store the figures of this process, replacing earlier ones of the same process."""
        cursor = self._db.execute(
            f"INSERT OR REPLACE INTO sessions VALUES ({', '.join('?' * 17)})",  # noqa: S608 - marks
            (
                self._session_id,
                session.started_at,
                session.updated_at,
                session.requests,
                session.throttled,
                session.busiest_second,
                session.rate,
                session.note,
                session.exit_code,
                orjson.dumps(session.retried).decode(),
                *(session.slowdown or (None, None)),
                session.left_s,
                session.control,
                session.under_way,
                session.open_requests,
                orjson.dumps(list(session.reasons)).decode(),
            ),
        )
        self._session_id = cursor.lastrowid

    def update_manifest(self, manifest: RunManifest) -> None:
        """Replace what is stored about the run."""
        self._db.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            list(manifest.as_entries().items()),
        )

    def retry_failed(self) -> int:
        """Put failed operations back to planned, flawed and unknown ones back in flight."""
        self._db.execute(
            "INSERT INTO history (operation, event, attempt, ended_at, source, result, message)"
            " SELECT id, ?, attempts, ?, '', '', '' FROM operations"
            " WHERE state IN ('failed', 'flawed', 'unknown')",
            (HistoryEvent.RETRIED, time.time()),
        )
        waves = len(self.waves())
        cursor = self._db.execute(
            "UPDATE operations SET attempts = 0, finished_at = NULL, wave = ?,"
            " state = CASE state WHEN 'failed' THEN 'planned' ELSE 'in_flight' END"
            " WHERE state IN ('failed', 'flawed', 'unknown')",
            (waves,),
        )
        retried = cursor.rowcount
        if retried:
            self.add_event(event_log.retried(time.time(), retried))
        if waves and retried:
            name = f"{RETRY}-{waves}"
            self._db.execute("INSERT INTO waves VALUES (?, ?, ?)", (waves, name, retried))
        return retried

    def close(self) -> None:
        """Close the store."""
        self._db.close()


def _dumped(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


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
            result = column10, finished_at = column11,
            sent_at = CASE column3 WHEN 'in_flight' THEN ? ELSE sent_at END
        FROM (VALUES {rows}) WHERE id = column1 AND state = column2
        """  # noqa: S608


@lru_cache(maxsize=_CHANGES_PER_STATEMENT)
def _history_statement(entries: int) -> str:
    rows = ", ".join([f"({', '.join('?' * len(HistoryEntry._fields))})"] * entries)
    return (
        # only question marks are inserted
        "INSERT INTO history (operation, event, attempt, sent_at, ended_at, source, result, code,"  # noqa: S608
        f" message, request_id) VALUES {rows}"
    )
