"""What kept a run from working, and when: the stretches that the plots of a page shade. Pure.

In: the event log, the sessions and the controls of a run. Out: spans with a kind and a text, the
waves, and the ceiling over time. The clock of a machine may be set, and a process may be killed
before it logs that it ends, so nothing here relies on the order of times; but all hosts of a shared
store have one clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from bulkcert.control import FULL_RATE, ControlEntry, Verb
from bulkcert.event_log import EventType, RunEvent
from bulkcert.quantities import count, duration
from bulkcert.report.page.spans import OpenSpans, Span, SpanKind, merged
from bulkcert.rules.gate import ReasonKind
from bulkcert.store.base import Session

_OF_STATE = {
    str(ReasonKind.PAUSED): SpanKind.PAUSED,
    str(ReasonKind.CLOSED): SpanKind.CLOSED,
    str(ReasonKind.HELD): SpanKind.HELD,
    str(ReasonKind.WAITING): SpanKind.WAITING,
}

_SAME_S = 60.0
"""A process logs that it has started within this time of the begin of its session."""

KILLED = "the process was killed, or lost its store"
"""What is known of a process that has not said how it ended."""

_EXITS = {
    None: KILLED,
    0: "the process had ended",
    1: "the process had ended",
    3: "stopped early",
    4: "stopped by its own rules",
}
"""Why no process works on a run, by the exit code of the last one."""


class WaveSpan(NamedTuple):
    """When a wave was under way.

    Attributes:
        number, name: which wave.
        begin_s, end_s: Unix time in seconds.
        over: it is over; otherwise it is still under way at `end_s`.
    """

    number: int
    name: str
    begin_s: float
    end_s: float
    over: bool


class Process(NamedTuple):
    """What a process has logged of itself.

    Attributes:
        started: how it began.
        ended: how it ended, or that it was fenced; None if it has not, or without a word.
    """

    started: RunEvent
    ended: RunEvent | None

    @property
    def who(self) -> str:
        """Whose process it was, where, and of which version."""
        process = self.started.data["process"]
        return f"{process['user']}@{process['host']}, bulkcert {process['version']}"

    @property
    def why(self) -> str:
        """Why it ended early; empty if it did not."""
        if self.ended is None:
            return ""
        if self.ended.type is EventType.FENCED:
            return fenced_in_words(self.ended)
        return str(self.ended.data["why"]).removesuffix(".")


def fenced_in_words(event: RunEvent) -> str:
    """By whom a host was fenced, and what it left."""
    data = event.data
    left = count(data["operations"], "operation was", "operations were")
    silent = f"silent for {duration(data['silent_s'])}"
    return f"fenced by {data['by']}: {silent}; {left} taken over"


@dataclass(slots=True)
class Chronicle:
    """What the event log says about the course of a run.

    Attributes:
        spans: what kept it from working, by kind and then by time.
        waves: the waves that have begun.
        ceilings: the most requests per second that were permitted, from each of these times on.
        processes: the process of each session; None if it has logged nothing of itself.
        checks, troubles, retries, verifications: the events of these types, in order; `troubles`
            are those about throttling, the circuit breaker, and hosts that were fenced.
        seq, digest: number and hash of the last event; 0 and empty if there is none.
    """

    spans: list[Span] = field(default_factory=list)
    waves: list[WaveSpan] = field(default_factory=list)
    ceilings: list[tuple[float, float]] = field(default_factory=list)
    processes: list[Process | None] = field(default_factory=list)
    checks: list[RunEvent] = field(default_factory=list)
    troubles: list[RunEvent] = field(default_factory=list)
    retries: list[RunEvent] = field(default_factory=list)
    verifications: list[RunEvent] = field(default_factory=list)
    seq: int = 0
    digest: str = ""


def chronicle(
    events: Iterable[RunEvent],
    sessions: Sequence[Session],
    controls: Sequence[ControlEntry],
    ceiling: float,
    leases: Sequence[str] = (),
) -> Chronicle:
    """Read the event log once.

    Args:
        events: the log.
        sessions: the sessions of the run.
        controls: what people have asked for.
        ceiling: the most requests per second, where the log does not say otherwise.
        leases: in a shared store, the lease of each session.
    """
    found = Chronicle()
    waves: dict[int, WaveSpan] = {}
    in_force: dict[int, float] = {}
    ceilings: list[tuple[float, float]] = []
    processes = _Processes()
    last_s = _last_s(sessions, shared=bool(leases))
    spans = OpenSpans(found.spans)

    for event in events:
        data = event.data
        found.seq, found.digest = event.seq, event.hash
        lease = data.get("process", {}).get("lease", "")
        match event.type:
            case EventType.STARTED:
                processes.started(event)
                ceilings.append((event.at, float(data["ceiling"])))
            case EventType.ENDED | EventType.FENCED:
                processes.ended(event, lease)
                spans.close_all(lease, _seen(data, event.at), alone=not processes.working)
                if event.type is EventType.FENCED:
                    found.troubles.append(event)
            case EventType.STATE:
                kind = _OF_STATE.get(str(data["state"]))
                spans.follow("state", "", kind, event.at, "; ".join(data["reasons"]))
            case EventType.WAVE:
                waves[data["number"]] = _wave(event, waves.get(data["number"]), last_s)
            case EventType.CONTROL if data["change"] == "in_force":
                in_force.setdefault(data["number"], event.at)
            case EventType.THROTTLE:
                found.troubles.append(event)
                kind = SpanKind.THROTTLED if data["change"] == "begun" else None
                spans.follow("throttle", lease, kind, event.at, data["detail"])
            case EventType.BREAKER:
                found.troubles.append(event)
                kind = SpanKind.FAILING if data["now"] != "closed" else None
                spans.follow("breaker", lease, kind, event.at, data["reason"])
            case EventType.CHECK:
                found.checks.append(event)
            case EventType.RETRY:
                found.retries.append(event)
            case EventType.VERIFICATION:
                found.verifications.append(event)
            case _:
                pass  # controls, approvals and aborts are in the store by themselves
    spans.close_all("", last_s, alone=True)
    if leases:
        found.processes = [processes.by_lease.get(lease) for lease in leases]
        found.spans[:] = merged(found.spans)
        found.spans += _absences_of_all(sessions, found.processes)
    else:
        left = list(processes.all)
        found.processes = [_process_of(session, left) for session in sessions]
        found.spans += _absences(sessions, found.processes)
    order = list(SpanKind)
    found.spans.sort(key=lambda span: (order.index(span.kind), span.begin_s))
    found.waves = sorted(waves.values(), key=lambda wave: wave.number)
    found.ceilings = _steps(ceilings, controls, in_force, ceiling)
    return found


class _Processes:
    """The processes that the log names, each with its end.

    Attributes:
        all: in the order in which they began.
        by_lease: those of a shared store.
        working: the leases of those that have not ended.
    """

    def __init__(self) -> None:
        self.all: list[Process] = []
        self.by_lease: dict[str, Process] = {}
        self.working: set[str] = set()

    def started(self, event: RunEvent) -> None:
        process, lease = Process(event, None), event.data["process"].get("lease", "")
        self.all.append(process)
        if lease:
            self.by_lease[lease] = process
            self.working.add(lease)

    def ended(self, event: RunEvent, lease: str) -> None:
        self.working.discard(lease)
        if lease in self.by_lease:
            self.by_lease[lease] = self.by_lease[lease]._replace(ended=event)
        elif not lease and self.all and self.all[-1].ended is None:
            self.all[-1] = self.all[-1]._replace(ended=event)


def _last_s(sessions: Sequence[Session], *, shared: bool) -> float:
    """When the last process was last seen."""
    last = sessions if shared else sessions[-1:]
    return max((session.updated_at for session in last), default=0.0)


def most_permitted(ceilings: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """The highest ceiling at any moment of a stretch of time."""
    before = [value for at_s, value in ceilings if at_s <= begin_s]
    within = [value for at_s, value in ceilings if begin_s < at_s < end_s]
    return max([*before[-1:], *within], default=ceilings[0][1])


def _seen(data: Any, at_s: float) -> float:
    """When a process ended, as far as that is known."""
    last_seen = data.get("last_seen")
    return datetime.fromisoformat(last_seen).timestamp() if last_seen else at_s


def _wave(event: RunEvent, before: WaveSpan | None, last_s: float) -> WaveSpan:
    number, name = event.data["number"], event.data["wave"]
    if event.data["change"] == "begun":
        return WaveSpan(number, name, event.at, max(event.at, last_s), over=False)
    return WaveSpan(number, name, before.begin_s if before else event.at, event.at, over=True)


def _process_of(session: Session, processes: list[Process]) -> Process | None:
    """The process of a session, the first one that began at about the same time."""
    for process in processes:
        if abs(process.started.at - session.started_at) < _SAME_S:
            processes.remove(process)
            return process
    return None


def _absences(sessions: Sequence[Session], processes: Sequence[Process | None]) -> Iterator[Span]:
    """The stretches between two processes."""
    for (before, after), process in zip(itertools.pairwise(sessions), processes, strict=False):
        if before.updated_at < after.started_at:
            text = _EXITS.get(before.exit_code, f"exit code {before.exit_code}")
            said = process.why if process else ""
            yield Span(SpanKind.ABSENT, before.updated_at, after.started_at, said or text)


def _absences_of_all(
    sessions: Sequence[Session], processes: Sequence[Process | None]
) -> Iterator[Span]:
    """The stretches in which no host of a shared store worked."""
    ordered = sorted(zip(sessions, processes, strict=True), key=lambda each: each[0].started_at)
    last: tuple[Session, Process | None] | None = None
    for session, process in ordered:
        if last is not None and last[0].updated_at < session.started_at:
            yield from _absences([last[0], session], [last[1]])
        if last is None or session.updated_at > last[0].updated_at:
            last = session, process


def _steps(
    processes: Sequence[tuple[float, float]],
    controls: Sequence[ControlEntry],
    in_force: dict[int, float],
    ceiling: float,
) -> list[tuple[float, float]]:
    """The ceiling over time: that of the process, or what somebody has set, whichever is lower."""
    changes: list[tuple[float, float | None, float | None]] = [
        (at_s, value, None) for at_s, value in processes
    ]
    for entry in controls:
        if entry.verb is Verb.RATE:
            rate = float("inf") if entry.value == FULL_RATE else float(entry.value)
            changes.append((in_force.get(entry.id, entry.at), None, rate))
    own, asked = ceiling, float("inf")
    steps = [(float("-inf"), ceiling)]
    for at_s, of_process, by_people in sorted(changes, key=lambda change: change[0]):
        own = own if of_process is None else of_process
        asked = asked if by_people is None else by_people
        steps.append((at_s, min(own, asked)))
    return steps
