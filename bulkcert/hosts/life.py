"""One life of a host: from its registration until it leaves, or is fenced by others.

In: where the run is stored, and who this is. Out: the store, with all that makes it safe to work on
it beside others. Where one process at a time works on a run, there is nothing to make safe.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from bulkcert.hosts.lease import Lease, stand_still_in_time
from bulkcert.hosts.switch import Switch
from bulkcert.hosts.watcher import Watcher
from bulkcert.job import Job
from bulkcert.model import State
from bulkcert.providers.clock import boot_time_s
from bulkcert.store.base import Host, Store
from bulkcert.store.place import Place, SharedPlace
from bulkcert.timings import HostTimings
from bulkcert.version import VERSION


class Life(Protocol):
    """What a process needs to work on a run.

    Attributes:
        store: the store.
        lease: until when this process may act; None if nobody else works on the run.
    """

    @property
    def store(self) -> Store: ...

    @property
    def lease(self) -> Lease | None: ...

    @property
    def hosts(self) -> int:
        """How many hosts work on the run, this one included."""

    @property
    def counts(self) -> Mapping[State, int] | None:
        """Operations by state as all hosts have left them a moment ago; None if this process has
        settled all that was settled since it began."""

    def start(self) -> None:
        """Begin what goes on beside the work; to be called on the event loop."""

    def obey(self, control: int) -> None:
        """A control is in force in this process."""

    def hurry(self) -> None:
        """Somebody wants the work to end: don't wait for a store that can't be used."""

    def leave(self, store: Store) -> None:
        """Give everything back; to be called in the last transaction."""

    def end(self) -> None:
        """Nothing may leave any more."""


class LifeAlone:
    """The life of a process that has the run to itself.

    Args:
        store: the store.
    """

    lease = None
    hosts = 1
    counts = None

    def __init__(self, store: Store) -> None:
        self.store = store

    def start(self) -> None:
        """Nothing to do: there is nobody else."""

    def obey(self, control: int) -> None:
        """Nothing to do: the figures of this process say so."""

    def hurry(self) -> None:
        """Nothing to do."""

    def leave(self, store: Store) -> None:
        """Nothing to do: a later process takes up what is left."""

    def end(self) -> None:
        """Nothing to do."""


class SharedLife:
    """One life of a host of a shared store.

    Args:
        place: where the run is stored.
        job: the job of the run, with the addresses of this host.
        timings: the times that hosts agree on.
        notify: called with what people should know; from any thread.

    Raises:
        CommitsLostError: the store has lost commits since the run began.
        StoreError: it can't be used.
    """

    def __init__(
        self, place: SharedPlace, job: Job, timings: HostTimings, notify: Callable[[str], object]
    ) -> None:
        switch = Switch.prove(notify)
        self.store = place.open_for(timings, boot_time_s)
        self.lease = Lease(
            self.store.owner,
            ttl_s=timings.ttl_s,
            stand_still_s=timings.stand_still_s,
            switch=switch,
        )
        name = socket.gethostname()
        try:
            self.store.register(
                Host(
                    name=name,
                    pid=os.getpid(),
                    address=", ".join(job.connection.source_addresses),
                    egress="",
                    version=VERSION,
                    has_switch=switch is not None,
                    ordered=not job.connection.proxy,
                ),
                self.lease.extend,
                self._say_trouble(notify),
            )
        except BaseException:
            self.end()
            self.store.close()
            raise
        self._watcher = Watcher(lambda: place.open_for(timings, boot_time_s), name, timings)
        self._standing_still: asyncio.Task[None] | None = None

    @property
    def hosts(self) -> int:
        """How many hosts work on the run, this one included."""
        return 1 + self._watcher.others

    @property
    def counts(self) -> Mapping[State, int] | None:
        """Operations by state, as all hosts have left them a moment ago."""
        return self._watcher.counts

    def start(self) -> None:
        """Watch the others, and stand still in time."""
        self._watcher.start()
        self._standing_still = asyncio.create_task(stand_still_in_time(self.lease))

    def obey(self, control: int) -> None:
        """Note with the next commit that a control is in force here."""
        self.store.obey(control)

    def hurry(self) -> None:
        """Don't wait for a store that can't be used for longer than a lease lasts."""
        self.store.hurry()

    def leave(self, store: Store) -> None:
        """End the lease, and free what this host has not finished."""
        self.store.leave()

    def end(self) -> None:
        """Nothing may leave any more."""
        self.lease.end()
        if self._standing_still is not None:
            self._standing_still.cancel()
        self._watcher.close()

    @staticmethod
    def _say_trouble(notify: Callable[[str], object]) -> Callable[[str], object]:
        def say(problem: str) -> None:
            if problem:
                notify(f"{problem}. Nothing is sent until it can be used again.")
            else:
                notify("The shared store can be used again.")

        return say


def begin_life(
    place: Place,
    job: Job,
    now: Callable[[], float],
    timings: HostTimings,
    notify: Callable[[str], object],
) -> Life:
    """Begin to work on a run.

    Args:
        place: where it is stored.
        job: the job of the run.
        now: returns Unix time in seconds, where the store has no clock of its own.
        timings: the times that hosts agree on.
        notify: called with what people should know; from any thread.
    """
    if isinstance(place, SharedPlace):
        return SharedLife(place, job, timings, notify)
    return LifeAlone(place.open(now))
