"""Until when may this host act? One lease, by the clock of this machine.

In: commits that are known to be applied; requests that are about to be written. Out: whether they
may be written, and a switch that kills this process before anybody takes over from it. A host must
never write a request at or after the end of its lease, however long it is stopped in between.

The rules, in this order of time:

1. A commit extends the lease by its time to live, from the *begin* of that commit: only what begun
   before can be overtaken by others. Reading the store extends nothing.
2. The switch is armed first, then the deadline is published. So the deadline that `may_act` sees is
   always one at which the switch kills.
3. With `stand_still_s` left, nothing begins any more. A thread of its own has this time to notice,
   and to disarm the switch: whoever stands still is not killed. An extension ends that.
4. The switch is disarmed only while no request is between permission and write, or a process that
   is stopped there could write it at any time.
5. What is over stays over: a host that goes on has another lease.

The clock goes on while the machine is suspended, and so does that of the switch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

from bulkcert.hosts.switch import KillSwitch
from bulkcert.providers.clock import boot_time_s

LOOKS = 6
"""How often a host looks whether it has to stand still, in the time that it has for that."""

_NEVER = float("-inf")


class Lease:
    """The lease of one life of this host. At first it permits nothing, see `extend`.

    For any thread. It is the `bulkcert.providers.call.Permit` of all connections to the provider.

    Args:
        id: of its row in the store.
        ttl_s: how long it is valid after the begin of a commit.
        stand_still_s: with less than this left, nothing is sent.
        switch: kills this process; None if there is none.
        clock: seconds since some moment, as the switch counts them.

    Attributes:
        id: of its row in the store.
        deadline_s: when it ends, in seconds of `clock`; minus infinity while nothing may leave.
        stand_still_s: with less than this left, nothing is sent.
    """

    def __init__(
        self,
        id: UUID,  # noqa: A002 - the word of the store
        *,
        ttl_s: float,
        stand_still_s: float,
        switch: KillSwitch | None,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        self.id = id
        self.deadline_s = _NEVER
        self._ttl_s = ttl_s
        self.stand_still_s = stand_still_s
        self._switch = switch
        self._clock = clock
        self._lock = threading.Lock()
        self._armed = False
        self._writing = 0  # requests between permission and write
        self._ended = threading.Event()

    def extend(self, begun_s: float) -> None:
        """A commit is known to be applied, so the lease is valid for `ttl_s` from its begin.

        A commit that took too long changes nothing.

        Args:
            begun_s: when that commit was *first* sent, in seconds of `clock`.
        """
        deadline_s = begun_s + self._ttl_s
        with self._lock:
            too_late = self._clock() >= deadline_s - self.stand_still_s
            if self.over or too_late or deadline_s <= self.deadline_s:
                return
            if self._switch is not None:
                self._switch.arm(deadline_s)
                self._armed = True
            self.deadline_s = deadline_s

    @property
    def left_s(self) -> float:
        """Seconds for which this host may go on to act; 0 or less if it may not."""
        return self.deadline_s - self.stand_still_s - self._clock()

    def may_act(self) -> bool:
        """Whether something may leave now."""
        return self.left_s > 0

    @property
    def over(self) -> bool:
        """Whether nothing may ever leave again."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait this long, but not for longer than until it is over; returns whether it is over."""
        return self._ended.wait(seconds)

    def begin_write(self) -> bool:
        """Whether a request may be written now. If so, `end_write` must follow."""
        with self._lock:
            permitted = self.may_act()
            self._writing += permitted
            return permitted

    def end_write(self) -> None:
        """The request is in the kernel, or never will be."""
        with self._lock:
            self._writing -= 1
            if self.deadline_s == _NEVER:
                self._disarm()

    def stand_still(self) -> None:
        """If the lease was not extended in time, let nobody be killed for that."""
        with self._lock:
            if not self.may_act():
                self._withdraw()

    def end(self) -> None:
        """This life is over, because it was fenced or has left: let nothing leave any more."""
        with self._lock:
            self._ended.set()
            self._withdraw()

    def _withdraw(self) -> None:
        self.deadline_s = _NEVER
        self._disarm()

    def _disarm(self) -> None:
        if self._armed and not self._writing:
            assert self._switch is not None
            self._switch.disarm()
            self._armed = False


def stand_still_in_time(lease: Lease) -> None:
    """Have a host stand still whenever its lease is not extended in time; until the lease is over.

    In a thread of its own: an event loop that is busy must not have its process killed, unless it
    is busy between permission and write.
    """
    while not lease.wait(lease.stand_still_s / LOOKS):
        lease.stand_still()
