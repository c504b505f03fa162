"""Looks at a run again and again, without being a burden to the run or its machine.

In: a run directory. Out: the run as it is now, with all hosts that work on it, as one value. Reads
only. Each look opens the store and closes it again: a transaction that stays open would make the
store's log grow for as long. Counting the operations of a large run takes long, so that is done
less often than the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bulkcert.campaign_state import CampaignState, campaign_state
from bulkcert.errors import RunDirectoryError
from bulkcert.event_log import EventType, RunEvent
from bulkcert.found_runs import RunState, state_without_process
from bulkcert.model import State
from bulkcert.report.summary import Summary, figures_of, summarize
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import HostNow, Session, StoreReader, is_shared
from bulkcert.store.manifest import RunManifest
from bulkcert.timings import HostTimings, WatchTimings

STALE_AFTER_S = 30.0
"""A running process notes its figures twice a second; this long without any is a bad sign."""

MOST_EVENTS = 200
"""How many of the last events are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as it is when somebody looks at it.

    Attributes:
        directory: where it is kept.
        at: when it was looked at, as Unix time in seconds.
        counted_at: the same for its operations, which are not counted with every look.
        state: whether a process works on it, or what is left to do.
        manifest: what it is about.
        summary: its counts and figures. What is in flight is not `unknown` while it runs.
        in_flight: number of operations whose request is open or about to leave, while it runs.
        campaign: where its campaign stands.
        hosts: those that work on it, in the order in which they began.
        gone: those that have, likewise.
        times: what the hosts of a shared store agree on.
        events: the last things that have happened to it, in order.
        last_start, last_end: how the last process began, and how it ended; None if it has not, or
            without a word.
    """

    directory: RunDirectory
    at: float
    counted_at: float
    state: RunState
    manifest: RunManifest
    summary: Summary
    in_flight: int
    campaign: CampaignState
    hosts: Sequence[HostNow] = ()
    gone: Sequence[HostNow] = ()
    times: HostTimings = HostTimings()
    events: Sequence[RunEvent] = ()
    last_start: RunEvent | None = None
    last_end: RunEvent | None = None

    @property
    def is_running(self) -> bool:
        """Whether a process works on it."""
        return self.state is RunState.RUNNING

    @property
    def is_shared(self) -> bool:
        """Whether it is in a shared store."""
        return is_shared((*self.hosts, *self.gone))

    @property
    def noted(self) -> Sequence[Session]:
        """The figures of the hosts that work on it, as far as they have noted any."""
        return [host.session for host in self.hosts if host.session is not None]

    @property
    def rate(self) -> float:
        """Requests per second, recently, of all hosts together that are not silent."""
        return sum(host.rate for host in self.hosts if not host.lease or not self.silent_s(host))

    @property
    def open_requests(self) -> int:
        """Open requests of all hosts together."""
        return sum(host.open_requests for host in self.hosts)

    @property
    def notes(self) -> Sequence[str]:
        """What slows its hosts down at the moment; each note once, and an empty one if a host has
        none."""
        return tuple(dict.fromkeys(session.note for session in self.noted))

    @property
    def note(self) -> str:
        """What slows it down at the moment, for people; empty if nothing does."""
        return " · ".join(filter(None, self.notes))

    @property
    def reasons(self) -> Sequence[str]:
        """Why nothing is sent, or less than could be, on any host; or what will pause it when it
        goes on."""
        if self.state is RunState.OVER:
            return ()
        if not self.is_running:
            return self.campaign.pauses
        if not self.noted:
            return ()
        first, *others = [session.reasons for session in self.noted]
        return tuple(reason for reason in first if all(reason in each for each in others))

    def reasons_of(self, host: HostNow) -> Sequence[str]:
        """The same for one host, besides those that all hosts have."""
        common = self.reasons
        reasons = host.session.reasons if host.session else ()
        return tuple(reason for reason in reasons if reason not in common)

    def silent_s(self, host: HostNow) -> float | None:
        """For how many seconds a host has noted nothing, if that is a bad sign."""
        patience_s = self.times.silent_after_s if host.lease else STALE_AFTER_S
        return None if host.silent_s < patience_s else host.silent_s

    @property
    def all_silent_s(self) -> float | None:
        """The same for the run: only if no host has noted anything, since the last one has."""
        silent_s = [self.silent_s(host) for host in self.hosts if host.session or host.lease]
        known = [each for each in silent_s if each is not None]
        return min(known) if known and len(known) == len(silent_s) else None

    @property
    def ends_at(self) -> float | None:
        """When it will be over, as Unix time; None if unknown.

        One host estimates that itself, with all that it will wait for. Of several hosts, none knows
        how fast the others are.
        """
        if self.all_silent_s is not None or not self.noted:
            return None
        if len(self.hosts) > 1:
            left_s = self._left_s()
            return None if left_s is None else self.at + left_s
        [host], [session] = self.hosts, self.noted
        return None if session.left_s is None else self.at - host.silent_s + session.left_s

    def _left_s(self) -> float | None:
        """How long it takes at the present rate, with as many requests for each operation."""
        left = self.summary.pending + self.in_flight
        settled = self.summary.total - left
        if not self.rate or not settled:
            return None
        return left * max(1.0, self.summary.requests / settled) / self.rate

    @property
    def slack_s(self) -> float | None:
        """Seconds between that and its deadline; None if unknown, or without a deadline."""
        if self.ends_at is None or self.campaign.deadline_s is None:
            return None
        return self.campaign.deadline_s - self.ends_at


class Observer:
    """Looks at a run.

    Args:
        directory: the run directory.
        timings: how often to look, and how much of a processor that may take.
        now: returns Unix time in seconds.
        clock: seconds since some moment.
        hosts: what the hosts of a shared store agree on.
        briefly: leave out what takes long in a large run: see `bulkcert.report.summary.summarize`.

    Attributes:
        rest_s: how long to wait before the next look.
    """

    def __init__(
        self,
        directory: RunDirectory,
        timings: WatchTimings = WatchTimings(),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        hosts: HostTimings = HostTimings(),
        *,
        briefly: bool = False,
    ) -> None:
        self._directory, self._timings, self._hosts = directory, timings, hosts
        self._summarize = functools.partial(summarize, briefly=True) if briefly else summarize
        self._now, self._clock = now, clock
        self._counted: RunView | None = None
        self._count_at = 0.0
        self._events: deque[RunEvent] = deque(maxlen=MOST_EVENTS)
        self._started: RunEvent | None = None
        self._ended: RunEvent | None = None
        self.rest_s = timings.every_s

    def look(self) -> RunView:
        """Return the run as it is now.

        Raises:
            RunDirectoryError: it can't be read.
        """
        try:
            return self._look()
        except OSError as error:  # such as a file server that is gone
            reason = error.strerror or error
            raise RunDirectoryError(f"{self._directory.path} can't be read: {reason}") from error
        except RunDirectoryError:
            if self._counted is None or self._directory.place.exists():
                raise
            if self._directory.is_worked_on():  # nothing was sent, so it is planned anew
                return dataclasses.replace(self._counted, at=self._now())
            raise RunDirectoryError(
                f"{self._directory.path} no longer contains a run: it was moved or deleted.",
                "If it was moved, watch it in its new place.",
            ) from None

    def _look(self) -> RunView:
        began_s, at = self._clock(), self._now()
        # in this order, so that what a process notes at its end is seen
        shared = self._directory.place.is_shared
        runs = not shared and self._directory.is_worked_on()
        with contextlib.closing(self._directory.reader()) as reader, reader.snapshot():
            hosts = reader.hosts()
            if shared:
                runs = any(host.works(self._hosts.fence_after_s) for host in hosts)
            if self._is_due(began_s, runs):
                self._counted = self._count(reader, runs, at)
                self._count_at = self._clock() + self._rest_s_after(began_s)
                began_s = self._clock()
            assert self._counted is not None
            view = self._glance(reader, self._counted, hosts, at)
        self.rest_s = self._rest_s_after(began_s)
        return view

    def _is_due(self, now_s: float, runs: bool) -> bool:
        """Whether the operations are to be counted now."""
        counted = self._counted
        return counted is None or counted.is_running != runs or now_s >= self._count_at

    def _rest_s_after(self, began_s: float) -> float:
        """How long to rest after what began then, so that it takes no more than its share."""
        worked_s = self._clock() - began_s
        return max(self._timings.every_s, worked_s / self._timings.share - worked_s)

    def _count(self, reader: StoreReader, runs: bool, at: float) -> RunView:
        """Look at everything."""
        manifest, summary, in_flight = reader.manifest(), self._summarize(reader), 0
        if self._counted is not None and manifest.run_id != self._counted.manifest.run_id:
            self._events.clear()  # it was planned anew
        if runs:
            in_flight = reader.counts().get(State.IN_FLIGHT, 0)
            # nobody has lost sight of them
            summary = dataclasses.replace(summary, unknown=summary.unknown - in_flight)
        return RunView(
            directory=self._directory,
            at=at,
            counted_at=at,
            state=RunState.RUNNING if runs else state_without_process(reader),
            manifest=manifest,
            summary=summary,
            in_flight=in_flight,
            campaign=campaign_state(self._directory, reader),
        )

    def _glance(
        self, reader: StoreReader, counted: RunView, hosts: Sequence[HostNow], at: float
    ) -> RunView:
        """Look at everything that is quick to read."""
        live = self._live(hosts) if counted.is_running else []
        self._follow(reader.events(self._events[-1].seq if self._events else 0))
        return dataclasses.replace(
            counted,
            at=at,
            summary=dataclasses.replace(
                counted.summary,
                **figures_of(
                    reader.sessions(),
                    shared=is_shared(hosts),
                    busiest_second=counted.summary.busiest_second,
                ),
            ),
            campaign=campaign_state(self._directory, reader, waves=counted.campaign.waves),
            hosts=live,
            gone=[host for host in hosts if host not in live],
            times=self._hosts,
            events=tuple(self._events),
            last_start=self._started,
            last_end=self._ended,
        )

    def _follow(self, events: Iterable[RunEvent]) -> None:
        for event in events:
            self._events.append(event)
            if event.type is EventType.STARTED:
                self._started, self._ended = event, None
            elif event.type in (EventType.ENDED, EventType.FENCED):
                self._ended = event

    def _live(self, hosts: Sequence[HostNow]) -> list[HostNow]:
        """The hosts that work on the run, if one does.

        Of a shared store those that may, with those that the others will soon fence. In another one
        the last process was killed, and the next one has not begun yet, if it is gone.
        """
        return [
            host
            for host in hosts
            if host.is_live and (host.lease or not _is_gone(host.name, host.pid))
        ]


def _is_gone(host: str, pid: int) -> bool:
    """Whether a process is known to have ended: only those of this machine can be looked at."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is there, and belongs to somebody else
    return False
