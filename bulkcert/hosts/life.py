"""One life of a host: from its registration until it leaves, or is fenced by others.

In: where the run is stored, and who this is. Out: the store, with all that makes it safe to work on
it beside others. Where one process at a time works on a run, there is nothing to make safe.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bulkcert.hosts.lease import Lease, stand_still_in_time
from bulkcert.hosts.pace import EGRESS_VARIABLE, StorePace, member
from bulkcert.hosts.switch import Switch
from bulkcert.hosts.watcher import Watcher
from bulkcert.job import Job
from bulkcert.model import State
from bulkcert.providers.clock import boot_time_s
from bulkcert.rules.gate import Gate
from bulkcert.slots import SharedSlots
from bulkcert.store.base import Host, Store
from bulkcert.store.place import SharedPlace
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
        """Operations by state as all hosts have left them a moment ago; None if that is not known,
        or if nobody else works on the run."""

    @property
    def slots(self) -> SharedSlots | None:
        """Those of the limits that are shared with others; None if none is."""

    @property
    def takeover_wait_s(self) -> float:
        """What another host has left is looked up after this time at the earliest."""

    def start(self) -> None:
        """Begin what goes on beside the work; to be called on the event loop."""

    def may_leave(self) -> bool:
        """Whether a request may leave now."""

    def obey(self, gate: Gate) -> None:
        """What people and rules have decided is in force in this process."""

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
        slots: those of the limits that other processes of this machine share; None for none.
    """

    lease = None
    hosts = 1
    counts = None
    takeover_wait_s = 0.0

    def __init__(self, store: Store, slots: SharedSlots | None = None) -> None:
        self.store, self.slots = store, slots

    def start(self) -> None:
        """Nothing to do: there is nobody else."""

    def may_leave(self) -> bool:
        """Nobody else can take over."""
        return True

    def obey(self, gate: Gate) -> None:
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
        scopes: what identifies the account, see `bulkcert.sharing.account_scopes`.
        timings: the times that hosts agree on.
        notify: called with what people should know; from any thread.

    Raises:
        CommitsLostError: the store has lost commits since the run began.
        StoreError: it can't be used.
    """

    def __init__(
        self,
        place: SharedPlace,
        job: Job,
        scopes: Sequence[str],
        timings: HostTimings,
        notify: Callable[[str], object],
    ) -> None:
        switch = Switch.prove(notify)
        self.store = place.open_for(timings, boot_time_s)
        self.lease = Lease(
            self.store.owner,
            ttl_s=timings.ttl_s,
            stand_still_s=timings.stand_still_s,
            switch=switch,
        )
        # it begins before the lease does: a switch that is armed must never be left alone
        threading.Thread(
            target=stand_still_in_time, args=(self.lease,), name="lease", daemon=True
        ).start()
        name, egress = socket.gethostname(), os.environ.get(EGRESS_VARIABLE, "")
        addresses = job.connection.source_addresses
        try:
            self.store.register(
                Host(
                    name=name,
                    pid=os.getpid(),
                    address=", ".join(addresses),
                    egress=egress,
                    version=VERSION,
                    has_switch=switch is not None,
                    ordered=not job.connection.proxy,
                ),
                self.lease.extend,
                self._say_trouble(notify),
            )
        except BaseException:
            self.lease.end()
            self.store.close()
            raise
        self.slots = StorePace(
            place.url,
            member(
                id=self.store.owner,
                run=self.store.number,
                scopes=scopes,
                ceiling=job.ceiling,
                timings=timings,
                per_address=job.limits.requests_per_second_per_source_ip,
                addresses=max(1, len(addresses)),
                egress=egress,
            ),
            timings,
            notify,
        )
        self._watcher = Watcher(
            lambda: place.open_for(timings, boot_time_s), self.lease.id, name, timings
        )
        wait_s = timings.recheck_wait_s if self.store.rechecked else timings.takeover_wait_s
        self.takeover_wait_s = wait_s(
            job.retry.settling_seconds, job.limits.request_timeout_seconds
        )

    @property
    def hosts(self) -> int:
        """How many hosts work on the run, this one included."""
        return max(1, self._watcher.live)

    @property
    def counts(self) -> Mapping[State, int] | None:
        """Operations by state, as all hosts have left them a moment ago."""
        return self._watcher.counts

    def start(self) -> None:
        """Watch the others, and reserve slots."""
        self._watcher.start()
        self.slots.start()

    def may_leave(self) -> bool:
        """Whether the lease permits it."""
        return self.lease.may_act()

    def obey(self, gate: Gate) -> None:
        """Reserve slots again, and note with the next commit which control is in force here."""
        self.slots.follow(gate.version)
        self.store.obey(gate.control_id)

    def hurry(self) -> None:
        """Don't wait for a store that can't be used for longer than a lease lasts."""
        self.store.hurry()

    def leave(self, store: Store) -> None:
        """End the lease, and free what this host has not finished."""
        self.store.leave()

    def end(self) -> None:
        """Nothing may leave any more."""
        if self.lease.over:
            return
        self.lease.end()
        # beside the event loop: it says goodbye to a store that may be out of reach
        threading.Thread(target=self.slots.close, daemon=True).start()
        self._watcher.close()

    @staticmethod
    def _say_trouble(notify: Callable[[str], object]) -> Callable[[str], object]:
        def say(problem: str) -> None:
            if problem:
                notify(f"{problem.rstrip('.?')}. Nothing is sent until it can be used again.")
            else:
                notify("The shared store can be used again.")

        return say
