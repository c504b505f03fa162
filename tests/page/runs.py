"""Runs for tests of the page, in memory, with everything that it can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stores import Disk, Row, manifest

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import EventType, Happened, RunEvent
from bulkcert.model import HistoryEntry, HistoryEvent, State
from bulkcert.plan_hash import PlanHash
from bulkcert.store.base import Abort, Session, StoredApproval, WaveOfRun

BEGIN_S = 1_780_056_000.0
EVIL = "<script>alert(1)</script>\"'&\u202e"


def chained(happened: Sequence[Happened]) -> list[RunEvent]:
    """The events of a log."""
    log: list[RunEvent] = []
    for each in happened:
        log.append(event_log.following(log[-1] if log else None, "job", "0" * 64, each))
    return log


def small_run(states: Sequence[State] = (State.SUCCEEDED,) * 9, **changes: object) -> Disk:
    """A run that settled an operation each second, without rules."""
    disk = Disk(manifest=manifest(**changes))
    for number, state in enumerate(states, 1):
        at_s = BEGIN_S + number
        is_settled = state not in (State.PLANNED, State.IN_FLIGHT)
        disk.rows[number] = Row(
            line=number + 1,
            fields={"assetId": f"A{number}"},
            state=state,
            attempts=1,
            code=99403 if state is State.FAILED else 0,
            message=f"not A{number}" if state is State.FAILED else "",
            finished_at=at_s if is_settled else None,
        )
        sent_at = at_s - 0.08
        entry = HistoryEntry(number, HistoryEvent.ATTEMPT, 1, sent_at, at_s, "10.0.0.1", "done")
        disk.history.append(entry)
    session = Session(BEGIN_S, BEGIN_S + len(states) + 1, requests=len(states), exit_code=0)
    disk.sessions[0] = session
    process = {"host": "ops1", "pid": 7, "user": "ann", "version": "1.0"}
    facts = {"total": len(states), "settled": 0, "rehearsal": False, "options": []}
    started = event_log.started(BEGIN_S, process=process, ceiling=490.0, **facts)  # type: ignore[arg-type]
    disk.events = chained([started])
    return disk


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of everything in a large run."""

    operations: int = 200
    waves: int = 4
    pauses: int = 3
    controls: int = 6
    aborts: int = 2
    errors: int = 3
    sessions: int = 3
    text: str = "a reason"


def large_run(size: Size = Size()) -> Disk:
    """A run with waves, pauses, controls and aborts, and a day between its processes."""
    bad = (State.FAILED, State.UNKNOWN)
    states = [bad[n // 10 % 2] if n % 10 == 0 else State.SUCCEEDED for n in range(size.operations)]
    disk = small_run([*states, State.PLANNED])
    contents = disk.manifest.plan.contents
    window = {"zone": "Europe/Berlin", "openings": [[[0, 1], 0, 60]]}
    plan = PlanHash({**contents, "approval": {"required": 2}, "window": window})
    disk.manifest = manifest(name=f"job {size.text}", plan=plan, left_out=3, protected=1)
    for number, row in disk.rows.items():
        if row.state in bad:
            kind = chr(ord("a") + number % 26) * (1 + number % max(1, size.errors) // 26)
            code = f"E.{number % size.errors}"
            disk.rows[number] = replace(row, code=code, message=f"{kind} {size.text}")
    per_wave = -(-size.operations // size.waves)
    disk.waves = [WaveOfRun(n, f"{n}% {size.text}", per_wave) for n in range(size.waves)]
    for number, row in disk.rows.items():
        disk.rows[number] = replace(row, wave=min(number // per_wave, size.waves - 1))
    disk.sessions = {
        n: Session(
            *(BEGIN_S + n * 86_400, BEGIN_S + n * 86_400 + size.operations, size.operations),
            exit_code=3,
        )
        for n in range(size.sessions)
    }
    disk.controls = [
        ControlEntry(n, BEGIN_S + n, "ann@ops1", size.text, Verb.RATE, str(n))
        for n in range(1, size.controls + 1)
    ]
    disk.aborts = {
        f"{n:06x}": Abort(
            *(f"{n:06x}", BEGIN_S + 40 * n, "failed", f"11 of 500 {size.text}"),
            *(BEGIN_S + 40 * n + 9, "bob@ops2", size.text),
        )
        for n in range(size.aborts)
    }
    disk.approvals = [
        StoredApproval(BEGIN_S, "", name, f"SHA256:{name * 8}", BEGIN_S + 9, b"", b"", b"")
        for name in ("alice", "bob")
    ]
    disk.events = chained([*_log(size)])
    return disk


def _log(size: Size) -> list[Happened]:
    process = {"host": "ops1", "pid": 7, "user": "ann", "version": size.text}
    facts = {"total": size.operations, "settled": 0, "rehearsal": False, "options": []}
    log = [event_log.started(BEGIN_S, process=process, ceiling=490.0, **facts)]  # type: ignore[arg-type]
    each_s = size.operations / max(1, size.pauses)
    for n in range(size.pauses):
        at_s = BEGIN_S + n * each_s
        for kind, share in (("paused", 0.1), ("held", 0.3), ("waiting", 0.5), ("running", 0.7)):
            reasons = [] if kind == "running" else [f"{kind} ({size.text})"]
            data = {"state": kind, "reasons": reasons}
            log.append(Happened(at_s + share * each_s, EventType.STATE, data))
    for n in range(size.waves):
        at_s = BEGIN_S + n * size.operations / size.waves
        log.append(event_log.wave_begun(at_s, f"{n}% {size.text}", n, 9))
    log += [
        event_log.throttled(BEGIN_S + 3, size.text),
        event_log.breaker(BEGIN_S + 5, "closed", "half-open", size.text),
        Happened(BEGIN_S + 6, EventType.CHECK, {"verdict": "hold", "reason": size.text}),
        event_log.retried(BEGIN_S + 7, 12),
        event_log.verified(BEGIN_S + 8, 180, 2, 1, "ab" * 32),
    ]
    return log
