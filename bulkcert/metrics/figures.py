"""The figures of one process: counted on the event loop, read by other threads as snapshots.

In: each result, and how the run stands at each tick. Out: `Recorder.latest`, an immutable snapshot
that is replaced as a whole. Nothing here waits, locks or writes: a result costs one bisection and
three additions.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from bulkcert.event_log import EventType, RunEvent
from bulkcert.events import Progress
from bulkcert.job import Job
from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult, Outcome, State
from bulkcert.report.summary import outcome_counts
from bulkcert.rules.gate import ReasonKind
from bulkcert.store.base import OUTCOMES, Session
from bulkcert.store.claims import Position
from bulkcert.version import VERSION

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets in which the durations of requests are counted; one more has none."""

SETTLED = (State.SUCCEEDED, State.ALREADY_DONE, State.FAILED, State.FLAWED, State.UNKNOWN)

_Name = TypeVar("_Name")


def _none(names: Iterable[_Name]) -> Mapping[_Name, int]:
    """Count nothing, under each name: every series is there from the start."""
    return field(default_factory=lambda: MappingProxyType(dict.fromkeys(names, 0)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # each is equal to itself alone
class Figures:
    """A snapshot. Times are Unix seconds, 0 for none; counters count since this process began.

    Attributes:
        run: the name of the run.
        about: what does not change while it runs, by label.
        ceiling: most requests that the plan allows in any second.
        most_open_requests: most requests that may be open at once.
        deadline_at: when the run must be over.
        updated_at: when the snapshot was taken.
        operations: operations by outcome.
        attempts, lookups: results by kind.
        requests: all requests that were sent.
        throttled: responses that asked to slow down.
        durations: requests that had a response, or were given up, by bucket.
        durations_s: the sum of their durations.
        rate: recent requests per second.
        limit: most requests that people allow in any second, at most the ceiling.
        busiest_second: most requests in any rolling second.
        open_requests: requests that have left and have not ended.
        wave, waves: number of the current wave, from 1, and of the last one; 0 if there are none.
        reasons: why nothing is sent, or less than could be.
        ends_at: when the run is expected to be over.
        settled_at: when the last operation was settled.
        run_started_at: when the first process began to work on the run.
        process_started_at, process_ended_at: when this one did, and when it ended.
        exit_code: of this process, when it has ended.
        events: new events of the log by type.
        log_length: number of the last event of the log.
        hosts: processes that work on the run, this one included; 0 when it has ended.
    """

    run: str
    about: Mapping[str, str]
    ceiling: float
    most_open_requests: int
    deadline_at: float = 0.0
    updated_at: float = 0.0
    operations: Mapping[Outcome, int] = _none(Outcome)
    attempts: Mapping[AttemptKind, int] = _none(AttemptKind)
    lookups: Mapping[LookupKind, int] = _none(LookupKind)
    requests: int = 0
    throttled: int = 0
    durations: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    durations_s: float = 0.0
    rate: float = 0.0
    limit: float = 0.0
    busiest_second: int = 0
    open_requests: int = 0
    wave: int = 0
    waves: int = 0
    reasons: frozenset[ReasonKind] = frozenset()
    ends_at: float = 0.0
    settled_at: float = 0.0
    run_started_at: float = 0.0
    process_started_at: float = 0.0
    process_ended_at: float = 0.0
    exit_code: int | None = None
    events: Mapping[EventType, int] = _none(EventType)
    log_length: int = 0
    hosts: int = 0


class Recorder:
    """Counts what one process does, and takes the snapshots. For one thread at a time.

    Args:
        job: the job.
        run: the name of the run.
        rehearsal: it is a rehearsal, which has no deadline.
        now: returns Unix time in seconds.

    Attributes:
        latest: the last snapshot; any thread may read it.
        hosts: returns how many hosts work on the run, this one included.
    """

    def __init__(
        self, job: Job, run: str, *, rehearsal: bool, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self.hosts: Callable[[], int] = lambda: 1
        about = {
            "provider": job.provider.name,
            "action": job.action.name,
            "rehearsal": str(rehearsal).lower(),
            "version": VERSION,
        }
        self.latest = self._first = Figures(
            run=run,
            about=MappingProxyType(about),
            ceiling=job.ceiling,
            limit=job.ceiling,
            most_open_requests=job.limits.in_flight,
            deadline_at=0.0 if rehearsal else job.deadline_s or 0.0,
        )
        self._forget()

    def _forget(self) -> None:
        self._results: dict[AttemptKind | LookupKind, int] = dict.fromkeys(
            (*AttemptKind, *LookupKind), 0
        )
        self._durations = list(self._first.durations)
        self._durations_s = 0.0
        self._events = dict.fromkeys(EventType, 0)
        self._log_length = 0
        self._settled = 0

    def stands(self, counts: Mapping[State, int], sessions: Iterable[Session]) -> None:
        """Note how a run stands while nobody works on it.

        Args:
            counts: number of operations by state.
            sessions: of all processes so far.
        """
        began = next((session.started_at for session in sessions), 0.0)
        self.latest = replace(
            self.latest,
            updated_at=self._now(),
            operations=MappingProxyType(outcome_counts(counts)),
            run_started_at=began,
        )

    def begin(self, counts: Mapping[State, int]) -> None:
        """Note that this process begins to work on the run, and count from 0.

        Args:
            counts: number of operations by state.
        """
        self._forget()
        self._settled = sum(counts.get(state, 0) for state in SETTLED)
        latest, now = self.latest, self._now()
        self.latest = replace(
            self._first,
            updated_at=now,
            operations=latest.operations,
            run_started_at=latest.run_started_at,
            process_started_at=now,
            hosts=self.hosts(),
        )

    def ended(self, result: AttemptResult | LookupResult, departed_at_s: float | None) -> None:
        """Count a result.

        Args:
            result: of an attempt or of a look-up.
            departed_at_s: when its request left, on the monotonic clock; None if nothing left.
        """
        self._results[result.kind] += 1
        if departed_at_s is not None:
            duration_s = time.monotonic() - departed_at_s
            self._durations[bisect_left(BUCKETS_S, duration_s)] += 1
            self._durations_s += duration_s

    def logged(self, events: Iterable[RunEvent]) -> None:
        """Count new events of the log."""
        for event in events:
            self._events[event.type] += 1
            self._log_length = event.seq

    def tick(self, progress: Progress, session: Session, position: Position) -> None:
        """Take a snapshot.

        Args:
            progress: how far the run is, and what delays it.
            session: the figures of this process.
            position: where the campaign stands.
        """
        latest, now, results = self.latest, self._now(), self._results
        settled = sum(progress.settled.values())
        operations = dict.fromkeys(Outcome, 0)
        for state, many in progress.settled.items():
            operations[OUTCOMES[state]] += many
        operations[Outcome.PENDING] = progress.total - settled
        has_settled, self._settled = settled > self._settled, settled
        self.latest = replace(
            latest,
            updated_at=now,
            operations=MappingProxyType(operations),
            attempts=MappingProxyType({kind: results[kind] for kind in AttemptKind}),
            lookups=MappingProxyType({kind: results[kind] for kind in LookupKind}),
            requests=session.requests,
            throttled=session.throttled,
            durations=tuple(self._durations),
            durations_s=self._durations_s,
            rate=progress.rate,
            limit=progress.rate_limit or latest.ceiling,
            busiest_second=session.busiest_second,
            open_requests=session.open_requests,
            wave=position.standing.wave + 1 if position.waves else 0,
            waves=len(position.waves),
            reasons=frozenset(reason.kind for reason in progress.reasons),
            ends_at=0.0 if progress.left_s is None else now + progress.left_s,
            settled_at=now if has_settled else latest.settled_at,
            run_started_at=latest.run_started_at or session.started_at,
            events=MappingProxyType(self._events.copy()),
            log_length=self._log_length,
            hosts=self.hosts(),
        )

    def end(self, exit_code: int) -> None:
        """Note that this process has ended its work.

        Args:
            exit_code: how.
        """
        now = self._now()
        self.latest = replace(
            self.latest,
            updated_at=now,
            rate=0.0,
            open_requests=0,
            reasons=frozenset(),
            ends_at=0.0,
            process_ended_at=now,
            exit_code=exit_code,
            hosts=0,
            events=MappingProxyType(self._events.copy()),
            log_length=self._log_length,
        )
