"""What tests of stores share: a manifest, and a store in memory.

`MemoryStore` passes the same conformance suite as the real stores (`test_store_conformance.py`), so
tests may use it wherever the disk does not matter. A `Disk` is what survives a process: each store
on it is another process.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import orjson

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.errors import StoreError
from bulkcert.event_log import Happened, RunEvent
from bulkcert.fingerprints import fingerprint
from bulkcert.job import Connection, Limits
from bulkcert.model import (
    Change,
    Fields,
    FieldValue,
    HistoryEntry,
    HistoryEvent,
    Material,
    Operation,
    State,
    Target,
)
from bulkcert.plan_hash import PlanHash
from bulkcert.rules.abort import Settled
from bulkcert.rules.check import CheckResult
from bulkcert.rules.gate import Standing
from bulkcert.rules.rollout import RETRY, Wave
from bulkcert.store.base import (
    Abort,
    HostNow,
    Record,
    Session,
    StoredApproval,
    WaveOfRun,
    kind_of,
)
from bulkcert.store.lives import lives_of
from bulkcert.store.manifest import RunManifest
from bulkcert.store.timeline import Requests, SettledOperations, latency_floor

OPEN = (State.PLANNED, State.IN_FLIGHT)


def manifest(
    *,
    provider: str = "enos",
    action: str = "revoke",
    parameters: Fields = MappingProxyType({"reason": 1}),
    **changes: Any,
) -> RunManifest:
    """A manifest that differs from a usual one in these attributes."""
    usual: dict[str, Any] = {
        "name": "job",
        "rehearsal": False,
        "plan": PlanHash(
            {
                "action": {"provider": provider, "action": action},
                "parameters": dict(parameters),
                "connection": {"org_id": "o1"},
            }
        ),
        "run_id": "1" * 32,
        "planned_at": 1e9,
        "reading": {"columns.assetId": "Asset ID"},
        "targets_sha256": "0" * 64,
        "repeated": 2,
        "left_out": 0,
        "adds_operations": True,
        "ceiling": 490.0,
        "connection": Connection(
            endpoint="https://example.com",
            ca_file=Path("/ca.pem"),
            source_addresses=("10.0.0.1",),
            options={"org_id": "o1"},
        ),
        "limits": Limits(requests_per_second=490.0),
    }
    return RunManifest(**usual | changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation as it is on disk."""

    line: int
    fields: dict[str, FieldValue]
    extra: Mapping[str, Any] = field(default_factory=dict)
    state: State = State.PLANNED
    step: int = 0
    step_data: Any = None
    attempts: int = 0
    sent_at: float | None = None
    code: int | str | None = None
    message: str | None = None
    request_id: str | None = None
    result: Any = None
    finished_at: float | None = None
    wave: int = 0
    begun: bool = False


@dataclass(slots=True)
class Disk:
    """What is durable of one run: rows and sessions, in the order of their keys."""

    rows: dict[int, Row] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)
    manifest: RunManifest = field(default_factory=manifest)
    history: list[HistoryEntry] = field(default_factory=list)
    waves: list[WaveOfRun] = field(default_factory=list)
    standing: Standing = field(default_factory=Standing)
    settled: list[Settled] = field(default_factory=list)
    first_settled: int = 0  # those before do not count
    aborts: dict[str, Abort] = field(default_factory=dict)
    controls: list[ControlEntry] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    notified: int = 0
    approvals: list[StoredApproval] = field(default_factory=list)

    @classmethod
    def planned(cls, targets: Iterable[Target], waves: Sequence[Wave] = ()) -> Disk:
        """A disk with an operation for each target."""
        planned = [
            Row(line=target.line, fields=dict(target.fields), extra=dict(target.extra))
            for target in targets
        ]
        for number, wave in enumerate(waves):
            for index in range(wave.begin, wave.end):
                planned[index] = replace(planned[index], wave=number)
        return cls(
            dict(enumerate(planned, 1)),
            waves=[WaveOfRun(n, wave.name, wave.targets) for n, wave in enumerate(waves)],
        )


T = TypeVar("T")


class MemoryStore:
    """A store in memory, as `bulkcert.store.base.Store` describes it.

    Args:
        disk: what is durable; a transaction changes it when it ends, and not before.
        now: returns the time at which an attempt is intended, in Unix seconds.
    """

    def __init__(self, disk: Disk, now: Callable[[], float] = lambda: 1.0) -> None:
        self.disk = disk
        self._now = now
        self._check_result: CheckResult | None = None
        self._wave: int | None = None
        self._claimed_up_to = 0
        self._rows: dict[int, Row] = {}  # written by the current transaction
        self._sessions: dict[int, Session] = {}
        self._history: list[HistoryEntry] = []
        self._session_id = len(disk.sessions)

    @property
    def shared(self) -> bool:
        return False

    def now(self) -> float:
        return self._now()

    def commit(self, work: Callable[[], T]) -> T:
        with self.transaction():
            return work()

    def lock_rules(self) -> None:
        pass

    def policy_version(self) -> int:
        return 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        before = copy.copy(self.disk)
        for name in ("waves", "settled", "aborts", "controls", "events", "approvals"):
            setattr(before, name, copy.copy(getattr(self.disk, name)))
        try:
            yield
        except BaseException:
            for attribute in dataclasses.fields(Disk):
                setattr(self.disk, attribute.name, getattr(before, attribute.name))
            raise
        else:
            self.disk.rows |= self._rows
            self.disk.sessions |= self._sessions
            self.disk.history += self._history
        finally:
            self._rows, self._sessions, self._history = {}, {}, []

    def claim(
        self,
        most: int,
        lookup_first: Collection[int] = (),
        *,
        wave: int | None = None,
        most_begun: int | None = None,
    ) -> list[Operation]:
        if wave != self._wave:
            self._wave, self._claimed_up_to = wave, 0
        claimed: list[Operation] = []
        last_id = max(self.disk.rows.keys() | self._rows.keys(), default=0)
        while len(claimed) < most and self._claimed_up_to < last_id:
            number = self._claimed_up_to + 1
            row = self._row(number)
            if row.state in OPEN and wave in (None, row.wave):
                if most_begun is not None and not row.begun:
                    standing = self.disk.standing
                    if standing.begun >= most_begun:
                        break
                    self.disk.standing = replace(standing, begun=standing.begun + 1)
                    row = self._rows[number] = replace(row, begun=True)
                claimed.append(self._claimed(number, row, lookup_first))
            self._claimed_up_to = number
        return claimed

    def waves(self) -> list[WaveOfRun]:
        return list(self.disk.waves)

    def end_of_wave(self, wave: int | None) -> float | None:
        rows = [r for r in (self.disk.rows | self._rows).values() if wave in (None, r.wave)]
        if any(row.state in OPEN for row in rows):
            return None
        return max((row.finished_at or 0.0 for row in rows), default=self._now())

    def standing(self) -> Standing:
        return self.disk.standing

    def set_standing(self, standing: Standing) -> None:
        self.disk.standing = standing

    def check_result(self) -> CheckResult | None:
        return self._check_result

    def set_check_result(self, result: CheckResult) -> None:
        self._check_result = result

    def be_steward(self) -> bool:
        return True

    def resign(self) -> None:
        """There is nobody else."""

    def notifies(self, lease: UUID | None) -> bool:
        return True

    def add_settled(self, settled: Sequence[tuple[int, Settled]]) -> list[Settled]:
        added = [each for _, each in settled]
        self.disk.settled += added
        return added

    def settled(self, most: int | None) -> list[Settled]:
        counted = self.disk.settled[self.disk.first_settled :]
        return counted if most is None else counted[len(counted) - min(most, len(counted)) :]

    def aborts(self) -> list[Abort]:
        return list(self.disk.aborts.values())

    def add_abort(self, abort: Abort) -> None:
        self.disk.aborts[abort.id] = abort

    def override_abort(
        self, abort_id: str, at: float, who: str, why: str, *, forget: bool = True
    ) -> None:
        overridden = self.disk.aborts[abort_id]._replace(overridden_at=at, who=who, why=why)
        self.disk.aborts[abort_id] = overridden
        if forget:
            self.disk.first_settled = len(self.disk.settled)

    def controls(self, after: int = 0) -> list[ControlEntry]:
        return [entry for entry in self.disk.controls if entry.id > after]

    def add_control(self, at: float, who: str, why: str, verb: Verb, value: str = "") -> int:
        entry = ControlEntry(len(self.disk.controls) + 1, at, who, why, verb, value)
        self.disk.controls.append(entry)
        return entry.id

    def add_event(self, happened: Happened) -> RunEvent:
        before = self.disk.events[-1] if self.disk.events else None
        manifest = self.disk.manifest
        event = event_log.following(before, manifest.run, manifest.plan.hash, happened)
        self.disk.events.append(RunEvent.parse(event.line))
        return event

    def events(self, after: int = 0, most: int | None = None) -> list[RunEvent]:
        return self.disk.events[after:][:most]

    def notified(self) -> int:
        return self.disk.notified

    def set_notified(self, seq: int) -> None:
        self.disk.notified = seq

    def add_approval(self, approval: StoredApproval) -> None:
        self.disk.approvals.append(approval)

    def others_work(self) -> bool:
        """Nobody else works on the run."""
        return False

    def counts_of_wave(self, wave: int | None) -> dict[State, int]:
        rows = (self.disk.rows | self._rows).values()
        return dict(Counter(row.state for row in rows if wave in (None, row.wave)))

    def _claimed(self, number: int, row: Row, lookup_first: Collection[int]) -> Operation:
        in_doubt = row.state is State.IN_FLIGHT
        if not in_doubt and row.step not in lookup_first:
            row = self._rows[number] = replace(
                row,
                state=State.IN_FLIGHT,
                attempts=row.attempts + 1,
                sent_at=self._now(),
            )
        return Operation(
            id=number,
            line=row.line,
            fields=dict(row.fields),
            state=row.state,
            step=row.step,
            step_data=row.step_data,
            attempts=row.attempts,
            in_doubt=in_doubt,
            sent_at=row.sent_at if in_doubt else None,
        )

    def record(self, changes: Sequence[Change]) -> None:
        for change in changes:
            row = self._row(change.operation_id)
            if row.state is not change.expected:
                raise StoreError(f"{change} was not in the state it should be in: {row}")
            self._rows[change.operation_id] = replace(
                row,
                state=change.state,
                sent_at=self._now() if change.state is State.IN_FLIGHT else row.sent_at,
                step=change.step,
                step_data=change.step_data,
                attempts=change.attempts,
                code=change.code,
                message=change.message,
                request_id=change.request_id,
                result=change.result,
                finished_at=change.finished_at,
                fields=dict(change.fan_out[0]) if change.fan_out else row.fields,
            )
            for fields in change.fan_out[1:]:
                self._add(
                    Row(
                        line=row.line,
                        fields=dict(fields),
                        extra=row.extra,
                        step=change.step,
                        step_data=change.step_data,
                        wave=row.wave,
                    )
                )
            if change.next_page is not None:
                page = dict(change.next_page)
                self._add(Row(line=row.line, fields=page, extra=row.extra, wave=row.wave))

    def _add(self, row: Row) -> None:
        self._rows[max(self.disk.rows.keys() | self._rows.keys()) + 1] = row

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        self._history += entries

    def note_session(self, session: Session) -> None:
        self._sessions[self._session_id] = replace(session)

    def update_manifest(self, manifest: RunManifest) -> None:
        self.disk.manifest = manifest

    def keep_hosts_away(self) -> str:
        """The lock of the run directory does."""
        return ""

    def count_begun(self) -> None:
        begun = 0
        for number, row in (self.disk.rows | self._rows).items():
            if row.begun or row.attempts or row.state is not State.PLANNED:
                self._rows[number] = replace(row, begun=True)
                begun += 1
        self.disk.standing = replace(self.disk.standing, begun=begun)

    def retry_failed(self) -> int:
        again = {
            State.FAILED: State.PLANNED,
            State.FLAWED: State.IN_FLIGHT,
            State.UNKNOWN: State.IN_FLIGHT,
        }
        rows = self.disk.rows | self._rows
        chosen = {number: row for number, row in rows.items() if row.state in again}
        for number, row in chosen.items():
            retried = HistoryEntry(number, HistoryEvent.RETRIED, row.attempts, None, self._now())
            self._history.append(retried)
            self._rows[number] = replace(
                row,
                state=again[row.state],
                attempts=0,
                finished_at=None,
                wave=len(self.disk.waves),
            )
        if chosen:
            self.add_event(event_log.retried(self._now(), len(chosen)))
        if self.disk.waves and chosen:
            number = len(self.disk.waves)
            self.disk.waves.append(WaveOfRun(number, f"{RETRY}-{number}", len(chosen)))
        return len(chosen)

    def close(self) -> None:
        """Nothing to close."""

    def _row(self, number: int) -> Row:
        return self._rows.get(number) or self.disk.rows[number]


class MemoryReader:
    """Reads a disk, as `bulkcert.store.base.StoreReader` describes it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._seen = disk

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._seen = copy.copy(self._disk)
        self._seen.rows, self._seen.sessions = dict(self._disk.rows), dict(self._disk.sessions)
        try:
            yield
        finally:
            self._seen = self._disk

    def manifest(self) -> RunManifest:
        return self._seen.manifest

    def counts(self) -> dict[State, int]:
        return dict(Counter(row.state for row in self._seen.rows.values()))

    def is_begun(self) -> bool:
        return self.counts().keys() != {State.PLANNED} or self.attempts() > 0

    def is_over(self) -> bool:
        return self.counts().keys().isdisjoint({State.PLANNED, State.IN_FLIGHT})

    def attempts(self) -> int:
        return sum(row.attempts for row in self._seen.rows.values())

    def sessions(self) -> list[Session]:
        return [replace(session) for _, session in sorted(self._seen.sessions.items())]

    def hosts(self) -> list[HostNow]:
        return lives_of(self.events(), self.sessions(), time.time())

    def under_way(self) -> frozenset[int]:
        return frozenset()

    def busiest_second(self) -> int:
        return max((session.busiest_second for session in self.sessions()), default=0)

    def busy_buckets(self, bucket_s: int) -> Iterator[int]:
        times = [entry.sent_at for entry in self._sent()]
        times += [row.finished_at for row in self._seen.rows.values()]
        yield from sorted({int(at // bucket_s) for at in times if at is not None})

    def requests_by_time(self, bucket_s: int) -> Iterator[Requests]:
        kinds = Counter(
            (
                int((entry.sent_at or 0) // bucket_s),
                entry.event,
                entry.result == "throttled",
                latency_floor(round((entry.ended_at - (entry.sent_at or 0)) * 1000)),
            )
            for entry in self._sent()
        )
        yield from (Requests(*kind, count) for kind, count in sorted(kinds.items()))

    def busiest_seconds(self, bucket_s: int) -> Iterator[tuple[int, int]]:
        seconds = Counter(int(entry.sent_at or 0) for entry in self._sent())
        most: dict[int, int] = {}
        for second, count in seconds.items():
            bucket = second // bucket_s
            most[bucket] = max(count, most.get(bucket, 0))
        yield from sorted(most.items())

    def settled_by_time(self, bucket_s: int) -> Iterator[SettledOperations]:
        kinds = Counter(
            (int(row.finished_at // bucket_s), row.state)
            for row in self._seen.rows.values()
            if row.finished_at is not None
        )
        yield from (SettledOperations(*kind, count) for kind, count in sorted(kinds.items()))

    def _sent(self) -> list[HistoryEntry]:
        sent = (HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP)
        return [e for e in self._disk.history if e.event in sent and e.sent_at is not None]

    def reasons(self, most: int) -> list[tuple[int, int | str | None, str]]:
        bad = (State.FAILED, State.FLAWED, State.UNKNOWN)
        said = [
            (row.code, row.message or "") for row in self._seen.rows.values() if row.state in bad
        ]
        kinds: dict[tuple[int | str | None, str], list[str]] = {}
        for code, message in said:
            kinds.setdefault((code, kind_of(message)), []).append(message)
        reasons = [
            (len(messages), code, messages[0] if len(set(messages)) == 1 else kind)
            for (code, kind), messages in kinds.items()
        ]
        return sorted(reasons, key=lambda reason: -reason[0])[:most]

    def kinds_of_reasons(self) -> int:
        return len(self.reasons(len(self._seen.rows)))

    def remarks(self) -> dict[str, int]:
        results = [row.result for row in self._seen.rows.values() if isinstance(row.result, dict)]
        return dict(Counter(remark for result in results for remark in result.get("remarks", ())))

    def still_valid(self, device: Sequence[str], serial: str) -> int:
        done = [
            (tuple(row.fields.get(name) for name in device), row)
            for row in self._seen.rows.values()
            if row.state in (State.SUCCEEDED, State.ALREADY_DONE)
        ]
        revoked = {(name, str(row.fields.get(serial))) for name, row in done}
        others = {
            (name, str(other))
            for name, row in done
            if isinstance(row.result, dict)
            for other in row.result.get("other_valid", ())
        }
        return len({name for name, _ in others - revoked})

    def waves(self) -> list[WaveOfRun]:
        return list(self._seen.waves)

    def counts_by_wave(self) -> dict[int, dict[State, int]]:
        counts: dict[int, dict[State, int]] = {}
        for row in self._seen.rows.values():
            of_wave = counts.setdefault(row.wave, {})
            of_wave[row.state] = of_wave.get(row.state, 0) + 1
        return counts

    def standing(self) -> Standing:
        return self._seen.standing

    def aborts(self) -> list[Abort]:
        return list(self._seen.aborts.values())

    def controls(self, after: int = 0) -> list[ControlEntry]:
        return [entry for entry in self._seen.controls if entry.id > after]

    def events(self, after: int = 0) -> list[RunEvent]:
        return self._seen.events[after:]

    def approvals(self) -> list[StoredApproval]:
        return list(self._seen.approvals)

    def history(self, operation_ids: Sequence[int]) -> list[HistoryEntry]:
        return [each for each in self._disk.history if each.operation_id in operation_ids]

    def whole_history(self) -> Iterator[tuple[int, HistoryEntry]]:
        for each in self._disk.history:
            yield self._disk.rows[each.operation_id].line, each

    def material(self, operation_ids: Sequence[int]) -> list[Material]:
        return []

    def planned_fields(self) -> Iterator[bytes]:
        for _, row in sorted(self._disk.rows.items()):
            yield orjson.dumps(row.fields) + b"\n"

    def fields_and_states(self) -> Iterator[tuple[dict[str, FieldValue], State]]:
        for row in self._seen.rows.values():
            yield row.fields, row.state

    def fingerprints(self) -> Iterator[bytes]:
        fields = (orjson.dumps(row.fields).decode() for row in self._disk.rows.values())
        yield from sorted(map(fingerprint, fields))

    def records(
        self, states: Iterable[State] | None = None, containing: Sequence[str] = ()
    ) -> Iterator[Record]:
        wanted = set(State if states is None else states)
        for number, row in sorted(
            self._seen.rows.items(), key=lambda item: (item[1].line, item[0])
        ):
            values = [str(value) for value in (*row.fields.values(), *row.extra.values())]
            found = any(text in value for text in containing for value in values)
            if row.state in wanted and (found or not containing):
                yield Record(
                    id=number,
                    line=row.line,
                    fields=row.fields,
                    state=row.state,
                    attempts=row.attempts,
                    code=row.code,
                    message=row.message,
                    request_id=row.request_id,
                    result=row.result,
                    finished_at=row.finished_at,
                    extra=row.extra,
                )

    def close(self) -> None:
        """Nothing to close."""
