"""One ceiling over many hosts: slots reserved in a shared store, as the pacer takes them.

In: requests that are ready, on the event loop. Out: a permission for each, when its slot has come.
A thread with a connection of its own reserves slots for all requests that are ready, before their
turn has come; the event loop never waits for the store.

How a run is wired to it:

    pace = StorePace(store_url, member(…, id=lease.id), timings.hosts, notify)
    pacer = Pacer(ceiling, utilization=timings.hosts.utilization, elapsed_s=boot_time_s,
                  slots=pace, may_leave=lease.may_act)
    pace.start()      # on the event loop, when the host has registered
    pace.follow(n)    # decisions about the run up to this version are in force here
    pace.close()      # when nothing is sent any more

The pacers of source addresses get no slots. What people and rules ask of a run is written with
`bulkcert.store.postgresql.pace.set_run_pace`, in the transaction of the decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from bulkcert.errors import StoreError
from bulkcert.hosts.clockmap import FORGOTTEN_S
from bulkcert.hosts.reservation import Demand, Reserver, Rest, Slot
from bulkcert.providers.clock import boot_time_s
from bulkcert.quantities import count, number
from bulkcert.slots import Cut, SharedSlots
from bulkcert.store.pace import PaceMember, PaceTable
from bulkcert.timings import HostTimings

EGRESS_VARIABLE = "BULKCERT_EGRESS"
"""Names the way out of the network that a host uses. Hosts behind the same one, such as a NAT, give
the same name; without a name, all are taken to be behind one."""

LANES = 8
"""Into so many lanes an account is divided where addresses have a limit of their own."""

BLACKOUT_SHARE = 0.05
"""A host of which more requests are late than this share of its rate waits until they have arrived:
the network loses everything, and what is sent meanwhile would arrive together with the others."""

JUDGE_EVERY_S = 10.0
BUSY_SHARE = 0.1
FEWEST_LOST = 50
"""People are told if more slots than these are missed, because the machine is busy."""

_POLL_S = 0.005  # while no slot is in hand
_LONGEST_WAIT_S = 0.01  # meanwhile, more requests get ready
_STALE_S = 0.25  # requests that nobody has asked about for so long are not ready any more
_RETRY_S = 0.2  # after the store could not be reached


class ClosableTable(PaceTable, Protocol):
    """A table with a connection."""

    def close(self) -> None:
        """Close the connection."""


def member(
    *,
    id: UUID,  # noqa: A002 - the word of the store
    run: int,
    scopes: Sequence[str],
    ceiling: float,
    timings: HostTimings,
    per_address: float | None = None,
    addresses: int = 1,
    egress: str = "",
) -> PaceMember:
    """A host as it shares the pace of an account.

    Args:
        id: of its lease.
        run: the number of the run.
        scopes: what identifies the account, see `bulkcert.sharing.account_scopes`.
        ceiling: most requests in any rolling second.
        timings: what hosts agree on.
        per_address: the same for each address that requests come from; None for no limit.
        addresses: how many addresses this host sends from.
        egress: the name of its way out.
    """
    ceiling = math.floor(ceiling) if ceiling >= 1 else ceiling
    lanes, each = divide(ceiling, per_address, timings)
    return PaceMember(
        id=id,
        run=run,
        scopes=tuple(sorted(scopes)),
        ceiling=ceiling,
        utilization=timings.utilization,
        lanes=lanes,
        egress=None if per_address is None else egress,
        most_lanes=each * addresses,
    )


def divide(ceiling: float, per_address: float | None, timings: HostTimings) -> tuple[int, int]:
    """Into how many lanes an account is divided, and how many of them one address may carry.

    In any rolling second a lane lets one request more leave than its rate says, so there can't be
    many. And each must be below the limit of an address.
    """
    if per_address is None:
        return 1, 1
    most = max(1, int(ceiling))

    def in_a_second(lanes: int) -> int:
        rate = timings.utilization * ceiling / lanes
        return math.ceil((1 + timings.slot_s) * rate - 1e-9)

    for lanes in (*range(min(LANES, most), most + 1), *range(min(LANES, most) - 1, 0, -1)):
        each = in_a_second(lanes)
        if each <= per_address and lanes * each <= ceiling:
            return lanes, int(per_address // each)
    return most, 1


class StorePace(SharedSlots):
    """The slots of an account that all hosts share.

    Args:
        url: where the store is.
        member: this host.
        timings: what hosts agree on.
        notify: called on the event loop with a sentence for people.
        clock: this machine's clock in seconds, that of the pacer.
        connect: opens the table; for tests.
    """

    def __init__(
        self,
        url: str,
        member: PaceMember,
        timings: HostTimings,
        notify: Callable[[str], object],
        clock: Callable[[], float] = boot_time_s,
        connect: Callable[[], ClosableTable] | None = None,
    ) -> None:
        self._url = url
        self._member = member
        self._rate = member.utilization * member.ceiling
        self._timings = timings
        self._notify = notify
        self._clock = clock
        self._connect = connect or self._open
        self._reserver = Reserver(member, timings, clock, self._notify_soon)
        self._in_hand: list[Slot] = []  # a heap
        self._ready = 0
        self._share = 1.0
        self._asked_at = self._used_at = float("-inf")
        self._late = self._version = 0
        self._used = self._lost = 0  # slots, since it was last judged whether this host is busy
        self._judge_at = 0.0
        self._is_busy = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pace", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to reserve slots when there are requests for them. On the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Reserve nothing more, and be no longer counted. Waits for the thread."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def follow(self, version: int) -> None:
        """Decisions of people and rules up to this version are in force on this host."""
        self._version = version

    @property
    def hosts(self) -> int:
        """How many hosts share the account, this one included."""
        return self._reserver.hosts

    def now_s(self) -> float | None:
        """The store's clock, without asking it; None if it is not known."""
        bounds, now = self._reserver.bounds, self._clock()
        if bounds is None or now > bounds.at + FORGOTTEN_S:
            return None
        return sum(bounds.now(now)) / 2

    # ---- for the pacer

    def take(
        self, ready: int | None, share: float, now: float, narrower: SharedSlots | None
    ) -> float:
        """See `SharedSlots`. There are no narrower limits."""
        if self._late > max(1.0, BLACKOUT_SHARE * self._rate / self.hosts):
            return _POLL_S
        waited, self._asked_at = now < self._asked_at + _STALE_S, now
        self._ready, self._share = ready or 1, share
        self._collect()
        in_hand = len(self._in_hand)
        wait_s = self._take(now)
        if wait_s == 0.0:
            self._ready -= 1
            self._used_at = now
            self._used += 1
        if waited:
            self._lost += in_hand - len(self._in_hand) - (wait_s == 0.0)
        if (self._ready - len(self._in_hand)) * 2 >= self._ready > 0:
            self._wake.set()
        return wait_s

    def _collect(self) -> None:
        """Take over what the thread has reserved."""
        granted = self._reserver.granted
        while granted:
            try:
                heapq.heappush(self._in_hand, granted.popleft())
            except IndexError:  # they are void by now
                break

    def _take(self, now: float) -> float:
        bounds = self._reserver.bounds
        if bounds is None or now > bounds.at + FORGOTTEN_S:
            return _POLL_S
        earliest, latest = bounds.now(now)
        while self._in_hand:
            slot = self._in_hand[0]
            is_over = latest > slot.at + self._timings.slot_s
            if not is_over and slot.generation == self._reserver.generation:
                if earliest < slot.at:
                    return min(slot.at - earliest, _LONGEST_WAIT_S)
                heapq.heappop(self._in_hand)
                return 0.0
            heapq.heappop(self._in_hand)
        return _POLL_S

    def use(self, utilization: float) -> None:
        """See `SharedSlots`. Hosts have agreed on how much they use, so nothing changes."""

    def report_late(self, count: int) -> None:
        """See `SharedSlots`."""
        if count != self._late:
            self._late = count
            self._wake.set()

    def slow_down(self, cut: Cut) -> None:
        """See `SharedSlots`."""
        self._reserver.slow_down(cut)
        self._wake.set()

    @property
    def cut(self) -> Cut:
        """See `SharedSlots`."""
        return self._reserver.cut

    @property
    def sharing(self) -> str:
        """See `SharedSlots`."""
        if self.hosts < 2:
            return ""
        return f"shares {number(self._member.ceiling)}/s with {count(self.hosts - 1, 'host')}"

    @property
    def stuck(self) -> bool:
        """See `SharedSlots`. Nobody can be in the way for long."""
        return False

    # ---- the thread

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                with contextlib.closing(self._connect()) as table:
                    self._serve(table)
            except StoreError as error:
                self._reserver.failed(error.problem, self._demand())
                self._closing.wait(_RETRY_S)
            except Exception as error:  # the run would wait for slots for ever, without a word
                self._reserver.failed(f"a fault in the program: {error!r}", self._demand())
                self._closing.wait(_RETRY_S)

    def _serve(self, table: ClosableTable) -> None:
        self._reserver.connected()
        while not self._closing.is_set():
            rest = self._step(table)
            (self._wake if rest.may_end else self._closing).wait(rest.seconds)
        table.leave()

    def _step(self, table: PaceTable) -> Rest:
        self._wake.clear()
        self._say_if_busy()
        return self._reserver.step(table, self._demand())

    def _say_if_busy(self) -> None:
        """Say it if this host is too busy to use its slots: they are lost for all."""
        now = self._clock()
        if now < self._judge_at:
            return
        used, lost, was_busy = self._used, self._lost, self._is_busy
        self._used, self._lost, self._judge_at = 0, 0, now + JUDGE_EVERY_S
        self._is_busy = lost > FEWEST_LOST and lost > BUSY_SHARE * (used + lost)
        if self._is_busy and not was_busy:
            self._notify_soon(
                f"This machine is too busy: of {used + lost:,} slots of the ceiling it has missed"
                f" {lost:,}, because it was more than {self._timings.slot_s * 1000:.0f} ms late."
                " No host can use them any more."
            )

    def _demand(self) -> Demand:
        asked_lately = self._clock() < self._asked_at + _STALE_S
        return Demand(
            ready=self._ready if asked_lately else 0,
            in_hand=len(self._in_hand) + len(self._reserver.granted),
            share=self._share,
            late=self._late,
            version=self._version,
            used_at=self._used_at,
        )

    def _open(self) -> ClosableTable:
        # imported here because it needs psycopg, and other tables do not
        from bulkcert.store.postgresql.pace import PostgresPace

        return PostgresPace(self._url, self._member, self._timings)

    def _notify_soon(self, text: str) -> None:
        if self._loop is not None and not self._closing.is_set():
            self._loop.call_soon_threadsafe(self._notify, text)
