"""What one process writes into the event log of its run about itself: its start and its end.

In: the store, in a transaction; the last figures. Out: events. A process that was killed can't log
its end, so the next one does. In a shared store nobody has to guess that: whoever is silent for too
long is fenced, which is an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkcert import event_log
from bulkcert.control import user_name
from bulkcert.errors import BulkcertError, StoppedByRulesError
from bulkcert.event_log import EventType, Happened
from bulkcert.model import Outcome
from bulkcert.rules import Rules
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import OUTCOMES, Session, Store, kind_of
from bulkcert.store.claims import Claims
from bulkcert.version import VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLog:
    """Logs the start of this process.

    Attributes:
        total: operations of the run.
        settled: how many of them were settled before.
        ceiling: requests per second.
        rehearsal: it is a rehearsal.
        options: what else the process was asked to do, such as "no-wait".
        last_seen_s: when an earlier process last noted its figures, as Unix time; 0 if none has.
        lease: the id of the lease of this process; empty if the store is not shared.
    """

    total: int
    settled: int
    ceiling: float
    rehearsal: bool
    options: Sequence[str] = ()
    last_seen_s: float = 0.0
    lease: str = ""

    def start(self, store: Store) -> None:
        """Log that this process has begun; before that, that the one before was killed, if so."""
        if not self.lease:
            log_lost(store, self.last_seen_s)
        process = {**this_process(self.lease), "user": user_name(), "version": VERSION}
        started = event_log.started(
            store.now(),
            process=process,
            total=self.total,
            settled=self.settled,
            ceiling=self.ceiling,
            rehearsal=self.rehearsal,
            options=self.options,
        )
        store.add_event(started)


def this_process(lease: str = "") -> dict[str, Any]:
    """What names this process in the log.

    Args:
        lease: the id of its lease; empty if the store is not shared.
    """
    named = {"host": socket.gethostname(), "pid": os.getpid()}
    return {**named, "lease": lease} if lease else named


def ended(
    at: float, session: Session, outcomes: Mapping[Outcome, int], why: str, lease: str = ""
) -> Happened:
    """This process has ended.

    Args:
        at: when, by the clock of the store.
        session: its last figures, with its exit code.
        outcomes: operations by outcome.
        why: why it ended early; empty if the run is over.
        lease: the id of its lease; empty if the store is not shared.
    """
    assert session.exit_code is not None
    return event_log.ended(
        at,
        session.exit_code,
        why,
        outcomes,
        process=this_process(lease),
        requests=session.requests,
        throttled=session.throttled,
        busiest_second=session.busiest_second,
    )


def outcomes(store: Store) -> Counter[Outcome]:
    """Operations by outcome, as the reports count them: what is in doubt is unknown."""
    counts: Counter[Outcome] = Counter()
    for state, many in store.counts_of_wave(None).items():
        counts[OUTCOMES[state]] += many
    return counts


def log_lost(store: Store, last_seen_s: float) -> bool:
    """Log that the process before was killed, if it was; return whether it was.

    Only where one process works on a run at a time.

    Args:
        store: the store, in a transaction.
        last_seen_s: when it last noted its figures, as Unix time; 0 if it never has.
    """
    types = (EventType.STARTED, EventType.ENDED)
    processes = [event for event in store.events() if event.type in types]
    if not processes or processes[-1].type is EventType.ENDED:
        return False
    process = {name: processes[-1].data["process"][name] for name in ("host", "pid")}
    store.add_event(event_log.lost(store.now(), process, max(last_seen_s, processes[-1].at)))
    return True


def close_log(directory: RunDirectory, rules: Rules) -> None:
    """Log what a process could not that was killed when all was done.

    Args:
        directory: of a run on which no process works.
        rules: of the job.
    """
    if directory.place.is_shared:  # the next host has done so
        return
    with contextlib.closing(directory.reader()) as reader:
        sessions = reader.sessions()

    def close(store: Store) -> None:
        if log_lost(store, sessions[-1].updated_at if sessions else 0.0):
            Claims(rules).finish(store)

    directory.commit(close)


def in_words(failure: BaseException) -> str:
    """Say why a process ended early, without what may name a device."""
    match failure:
        case StoppedByRulesError():
            return failure.problem
        case BulkcertError():
            return failure.for_log or kind_of(failure.problem)
        case asyncio.CancelledError():
            return "it was cancelled"
        case _:  # the text of a fault may be anything
            return f"bulkcert itself has failed: {type(failure).__name__}"
