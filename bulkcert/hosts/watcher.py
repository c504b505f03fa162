"""Fences hosts that are silent for too long.

In: the beats of the other hosts, seen again and again. Out: the leases of those that are silent are
ended. Must never fence a host because this one, or the database, was slow: what could not be seen
says nothing about the others. Fencing a healthy host costs it a new beginning; it never leads to
anything being done twice, which the leases see to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from bulkcert.errors import BulkcertError
from bulkcert.model import State
from bulkcert.store.base import Seen
from bulkcert.timings import HostTimings

_COUNTING_SHARE = 0.05
"""Counting the operations takes at most this share of a connection's time."""


class Observations:
    """Which hosts were silent for too long, by one monotonic clock.

    Args:
        timings: how long a lease lasts, and how slow a look may be.
    """

    def __init__(self, timings: HostTimings) -> None:
        self._timings = timings
        self._since: dict[UUID, tuple[int, float]] = {}  # beats, and since when they are the same
        self._most: dict[UUID, int] = {}  # beats that a host has had, whatever has failed since
        self._looked_at: float | None = None

    def see(self, asked_s: float, answered_s: float, seen: Sequence[Seen]) -> dict[UUID, float]:
        """Note what a look has shown.

        Args:
            asked_s, answered_s: when it was asked for, and answered.
            seen: the live leases of the others.

        Returns:
            For how long each host was silent that is to be fenced, in seconds.
        """
        gap_s = 0.0 if self._looked_at is None else asked_s - self._looked_at
        is_slow = answered_s - asked_s > self._timings.watch_every_s
        self._looked_at = answered_s
        if is_slow or gap_s > 2 * self._timings.watch_every_s:
            self.forget()  # nobody could show a beat that this host would have seen
        before, self._since = self._since, {}
        for each in seen:
            beats, since_s = before.get(each.id, (-1, 0.0))
            # from the answer: the beat may have come just before it
            self._since[each.id] = each.beats, since_s if beats == each.beats else answered_s
        limit_s = self._timings.fence_after_s
        silent = {id_: asked_s - since_s for id_, (_, since_s) in self._since.items()}
        return {id_: silent_s for id_, silent_s in silent.items() if silent_s > limit_s}

    def forget(self) -> None:
        """A look has failed: begin anew with all hosts."""
        self._since.clear()

    def went_back(self, seen: Sequence[Seen]) -> bool:
        """Whether a host has fewer beats than before: then the store has lost commits."""
        before, self._most = self._most, {each.id: each.beats for each in seen}
        return any(beats < before.get(id_, 0) for id_, beats in self._most.items())


class WatchedStore(Protocol):
    """The store as a watcher uses it: with a connection of its own."""

    def others(self) -> Sequence[Seen]:
        """The other hosts that work on the run."""

    def keeps_hosts_waiting(self) -> bool:
        """Whether no host can commit at the moment, because somebody changes the run as a whole."""

    def fence(self, seen: Seen, by: str, silent_s: float) -> int | None:
        """End the lease of a host; None if it has beaten since."""

    def lost_commits(self) -> None:
        """Store that the store has lost commits."""

    def counts(self) -> Mapping[State, int]:
        """Number of operations by state."""

    def close(self) -> None:
        """Close the connection."""


class Watcher:
    """A thread that looks at the other hosts every now and then.

    Args:
        open_store: opens the store; called again after an error.
        lease: that of this host. However it is, its own watcher does not fence it: whoever can't
            write stands still.
        me: the name of this host, for the event log.
        timings: how often it looks, and how long the others may be silent.

    Attributes:
        live: how many hosts work on the run, this one included: its lease is one of those that are
            seen, because the connection of a watcher has none.
        counts: operations by state, of all hosts, as of a moment ago; None if not known yet.
    """

    def __init__(
        self, open_store: Callable[[], WatchedStore], lease: UUID, me: str, timings: HostTimings
    ) -> None:
        self._open_store, self._lease = open_store, lease
        self._me, self._timings = me, timings
        self._observations = Observations(timings)
        self._store: WatchedStore | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._count_at_s = 0.0
        self.live = 0
        self.counts: Mapping[State, int] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, as soon as the store answers; it does not keep the process alive."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._timings.watch_every_s):
            try:
                self.look()
            except BulkcertError:
                self._observations.forget()
                self._close_store()
        self._close_store()

    def look(self) -> None:
        """Look once."""
        if self._store is None:
            self._store = self._open_store()
        asked_s = time.monotonic()
        seen = self._store.others()
        answered_s = time.monotonic()
        self.live = len(seen)
        if self._observations.went_back(seen):
            self._store.lost_commits()
            return
        if self._store.keeps_hosts_waiting():
            self._observations.forget()
            return
        silent = self._observations.see(asked_s, answered_s, seen)
        for each in seen:
            if each.id in silent and each.id != self._lease:
                self._store.fence(each, self._me, silent[each.id])
        if time.monotonic() >= self._count_at_s:
            self._count(self._store)

    def _count(self, store: WatchedStore) -> None:
        """Count the operations; less often, the longer it takes."""
        begun_s = time.monotonic()
        try:
            self.counts = store.counts()
        finally:  # what takes too long to be answered must not be asked for again and again
            took_s = time.monotonic() - begun_s
            self._count_at_s = begun_s + took_s / _COUNTING_SHARE

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()
