"""The processes of a run in a store that is not shared: what its log and its figures say. Pure.

In: the event log and the sessions of a run. Out: its hosts, as a shared store has them. At most one
of them is live: the last one, until its end is logged. Whether it was killed since, the lock of the
run directory says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bulkcert.event_log import EventType, RunEvent
from bulkcert.store.base import HostNow, HostState, Session


def lives_of(
    events: Iterable[RunEvent], sessions: Sequence[Session], now_s: float
) -> list[HostNow]:
    """Return the processes that have worked on a run, in order.

    Args:
        events: its log; only the beginnings and ends of processes matter.
        sessions: its sessions.
        now_s: the Unix time.
    """
    processes: list[tuple[RunEvent, RunEvent | None]] = []
    for event in events:
        if event.type is EventType.STARTED:
            processes.append((event, None))
        elif event.type is EventType.ENDED and processes and processes[-1][1] is None:
            processes[-1] = (processes[-1][0], event)
    noted: dict[int, Session] = {}
    for session in sessions:
        # that of the last process that had begun by then
        begun = sum(began.at <= session.updated_at for began, _ in processes)
        noted[begun - 1] = session
    last = len(processes) - 1
    return [
        _life(began, end, noted.get(place), now_s, is_last=place == last)
        for place, (began, end) in enumerate(processes)
    ]


def _life(
    began: RunEvent, end: RunEvent | None, session: Session | None, now_s: float, *, is_last: bool
) -> HostNow:
    process = began.data["process"]
    is_live = is_last and end is None
    seen_at = session.updated_at if session else began.at
    return HostNow(
        name=process["host"],
        pid=process["pid"],
        version=process["version"],
        state=HostState.LIVE if is_live else HostState.LEFT,
        began_at=began.at,
        silent_s=max(0.0, now_s - seen_at),
        control=session.control if session else 0,
        ended_at=None if is_live else end.at if end else seen_at,
        ending="" if is_live else _ending(end),
        session=session,
    )


def _ending(end: RunEvent | None) -> str:
    if end is None or end.data["exit_code"] is None:
        return "ended without a word"
    return ended_with(end.data["exit_code"], end.data["why"])


def ended_with(exit_code: int | None, why: str = "") -> str:
    """How a process ended that has said so, in words without a full stop."""
    because = f": {why.removesuffix('.')}" if why else ""
    return f"{'left' if exit_code is None else f'exit code {exit_code}'}{because}"
