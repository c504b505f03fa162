"""Slots for one host, out of the pace that all hosts of an account share.

In: how many requests are ready, step after step; a table in the shared store; a clock. Out: slots,
as moments of the store's clock, and what is known of that clock. Must never use a slot twice, nor
reserve anything while slots from before may still be used. No threads and no waiting in here:
whoever calls `step` does that.

What keeps the ceiling, whatever happens to whom, is written down in docs/model/slots.pml:

* a slot is used within `slot_s`, or not at all;
* nothing is reserved further ahead than `horizon_s`;
* whoever notices a step of the store's clock drops its slots and begins an epoch: nothing is
  reserved until all that was reserved before has left;
* a newcomer waits for as long, because it can't notice a step that was before its first reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from bulkcert.hosts.clockmap import SLEW_DRIFT, Bounds, ClockMap, Reading, Seen
from bulkcert.slots import Cut
from bulkcert.store.pace import PaceAnswer, PaceMember, PaceTable
from bulkcert.timings import HostTimings

READ_EVERY_S = 0.1
"""How often the store's clock is read while all is well. It is a read, which commits nothing."""

READ_SLEWING_EVERY_S = 0.03
"""The same while that clock is slewed."""

JOIN_EVERY_S = 1.0
"""How often a host says that it is there."""

NEWS_EVERY_S = 0.05
"""The same while the number of its late requests changes."""

SILENT_S = 5.0
"""If requests are ready and no slot could be used for this long, people are told why."""

SLEW_SHARE = 0.89
"""Slots are further apart by so much while the store's clock may run fast by a ninth."""

SICK_EPOCHS = 3
SICK_S = 60.0
"""A host that begins so many epochs in this time, while nobody else notices anything, has a sick
clock itself, and stands aside for as long."""

_NEVER = float("-inf")


class Slot(NamedTuple):
    """A moment at which one request may leave.

    Attributes:
        at: by the store's clock.
        generation: of the reserver; slots of an earlier one are void.
    """

    at: float
    generation: int


class Demand(NamedTuple):
    """What the pacer wants.

    Attributes:
        ready: requests that are ready to leave.
        in_hand: slots that it has for them.
        share: share of the full rate that this host uses.
        late: requests that have left, but may not have arrived.
        version: of what people and rules have decided: the last that is in force on this host.
        used_at: when the last slot was used.
    """

    ready: int = 0
    in_hand: int = 0
    share: float = 1.0
    late: int = 0
    version: int = 0
    used_at: float = _NEVER


class Owed(NamedTuple):
    """An epoch that is to begin.

    Attributes:
        offset_s: what the store's clock was ahead of this machine's before it stepped; None if it
            has not.
        state: begin it only if this is still the state of the pace.
    """

    offset_s: float | None
    state: str | None = None


class Rest(NamedTuple):
    """What to do until the next step.

    Attributes:
        seconds: how long to wait.
        may_end: it may be shorter, if more requests get ready.
    """

    seconds: float
    may_end: bool = False


class Reserver:
    """Reserves slots for one host. Its attributes may be read by other threads.

    Args:
        member: this host.
        timings: what hosts agree on.
        clock: this machine's clock, in seconds.
        notify: called with a sentence for people.

    Attributes:
        granted: slots for the pacer, which removes them.
        generation: grows when all slots in anybody's hand are void.
        bounds: the store's clock; None if it is not known.
        hosts: how many share the account, this one included.
        cut: how the provider has slowed them down.
    """

    def __init__(
        self,
        member: PaceMember,
        timings: HostTimings,
        clock: Callable[[], float],
        notify: Callable[[str], object],
    ) -> None:
        self.granted: deque[Slot] = deque()
        self.generation = 0
        self.hosts = 1
        self.cut = Cut(_NEVER, _NEVER, 1.0)
        self._member = member
        self._timings = timings
        self._clock = clock
        self._notify = notify
        self._map = ClockMap()
        self._span_s = timings.span_s(member.utilization * member.ceiling / member.lanes)
        self._hold_until = self._aside_until = _NEVER
        self._read_at = self._joined_at = _NEVER
        self._lead_s = timings.lead_s
        self._epoch = 0
        self._late = 0  # as the store knows it
        self._owed: Owed | None = None
        self._alone_noticed: deque[float] = deque(maxlen=SICK_EPOCHS)
        self._refused = ("", _NEVER)  # the state that refused, and since when
        self._heard: tuple[float, float, float] | None = None
        self._to_say: Cut | None = None
        self._hungry_since: float | None = None
        self._why_none = ""
        self._said = False

    @property
    def _read_every_s(self) -> float:
        return READ_SLEWING_EVERY_S if self._map.slewing else READ_EVERY_S

    @property
    def bounds(self) -> Bounds | None:
        """The store's clock, as this machine knows it."""
        return self._map.bounds

    def slow_down(self, cut: Cut) -> None:
        """The provider has asked this host for a pause; everybody is to hear of it. From any
        thread."""
        self._to_say = cut

    def connected(self) -> None:
        """There is another connection, perhaps to another server."""
        self._joined_at = _NEVER

    def failed(self, problem: str, demand: Demand) -> None:
        """The store can't be used.

        Args:
            problem: why, for people.
            demand: what the pacer wants.
        """
        self._why_none = problem
        self._watch_hunger(demand)

    def step(self, table: PaceTable, demand: Demand) -> Rest:
        """Do what there is to do.

        Args:
            table: the pace of the account.
            demand: what the pacer wants.

        Raises:
            StoreError: the store can't be used. The next step goes on with another table.
        """
        self._watch_hunger(demand)
        if (aside_s := self._aside_until - self._clock()) > 0:
            return Rest(aside_s)
        if self._clock() >= self._read_at + self._read_every_s:
            self._read(table)
        if self._owed is not None:
            self._begin_epoch(table)
        now = self._clock()
        if now < self._hold_until:
            return Rest(min(self._hold_until - now, self._read_every_s))
        missing = demand.ready - demand.in_hand
        is_hungry = missing > 0 and missing * 2 >= demand.ready
        # else the reservation says it
        is_news = demand.late != self._late and not is_hungry
        if now >= self._joined_at + (NEWS_EVERY_S if is_news else JOIN_EVERY_S):
            table.join(demand.late, self._span_s)
            self._joined_at, self._late = now, demand.late
        self._say(table)
        if not is_hungry:
            return Rest(self._read_every_s, may_end=True)
        return self._reserve(table, missing, demand)

    def _read(self, table: PaceTable) -> None:
        asked = self._clock()
        shown = table.now_s()
        self._read_at = answered = self._clock()
        self._see(Reading(asked, shown, answered))

    def _see(self, reading: Reading) -> bool:
        """Learn from a reading; False if what was reserved can't be used."""
        before = self._map.bounds
        match self._map.add(reading):
            case Seen.SAME:
                return True
            case Seen.FIRST:
                self._drop()
                self._hold(reading.answered + self._span_s)
            case Seen.STEP:
                assert before is not None
                self._drop()
                # the offset that was true before
                self._owed = Owed(before.now(reading.answered)[1] - reading.answered)
        return False

    def _hold(self, until: float) -> None:
        self._hold_until = max(self._hold_until, until)

    def _drop(self) -> None:
        self.generation += 1
        self.granted.clear()

    def _begin_epoch(self, table: PaceTable) -> None:
        """Begin an epoch that is due. If that fails, it stays due."""
        assert self._owed is not None
        now, (offset_s, state) = self._clock(), self._owed
        known, stepped = self._epoch, offset_s is not None
        expected_s = now + offset_s if offset_s is not None else None
        epoch = table.begin_epoch(self._span_s, known, expected_s, state)
        self._owed = None
        self._refused = ("", _NEVER)
        self._joined_at = _NEVER
        if epoch is None:
            return
        self._epoch = epoch
        if stepped and epoch == known + len(self._member.scopes) and self.hosts > 1:
            self._stand_aside_if_sick(now)
        else:
            self._alone_noticed.clear()

    def _stand_aside_if_sick(self, now: float) -> None:
        self._alone_noticed.append(now)
        if len(self._alone_noticed) < SICK_EPOCHS or self._alone_noticed[0] < now - SICK_S:
            return
        self._alone_noticed.clear()
        self._aside_until = now + SICK_S
        self._why_none = "this machine's clock runs unevenly"
        self._notify(
            f"This machine's clock and that of the store have drifted apart {SICK_EPOCHS} times,"
            f" and no other host has seen that. This host sends nothing for {SICK_S:.0f} s."
            " Check its clock."
        )

    def _reserve(self, table: PaceTable, wanted: int, demand: Demand) -> Rest:
        asked = self._clock()
        answer = table.reserve(
            wanted,
            version=demand.version,
            late=demand.late,
            share=demand.share * (SLEW_SHARE if self._map.slewing else 1.0),
            lead_s=self._lead_s,
        )
        answered = self._clock()
        self._late = demand.late
        if not self._see(Reading(asked, answer.now_s, answered)):
            return Rest(0.0)
        self._epoch, self.hosts = answer.epoch, max(1, answer.hosts)
        self._hear(answer, answered)
        if answer.refusal:
            return Rest(self._refuse(answer, answered))
        self._refused, self._why_none = ("", _NEVER), ""
        slots = [answer.first_slot + n * answer.spacing_s for n in range(answer.granted)]
        self.granted.extend(Slot(at, self.generation) for at in slots)
        self._judge(slots, asked, answered)
        # as long as it lasts and some more: the next slot should not be over on arrival
        lead_s = max(self._timings.lead_s, 2 * (answered - asked))
        self._lead_s = min(lead_s, self._timings.horizon_s)
        return Rest(self._read_every_s, may_end=True)

    def _refuse(self, answer: PaceAnswer, now: float) -> float:
        """Do something about a refusal; return after how many seconds to ask again."""
        self._why_none = answer.refusal
        match answer.refusal:
            case "server":
                self._owed = Owed(None)
                return 0.0
            case "host":
                self._joined_at = _NEVER
                return 0.0
            case "quarantine" | "ahead":
                may_be_wrong = True
            case "pause":
                may_be_wrong = answer.wait_s > answer.pause_s + self._span_s
            case _:
                may_be_wrong = False
        state, since = self._refused
        # the store's clock may be slow
        patience_s = (self._span_s + answer.reach_s) * (1 + 2 * SLEW_DRIFT)
        if not may_be_wrong or state != answer.state:
            self._refused = (answer.state, now)
        elif now > since + patience_s:
            # nobody has moved the row, so what it says is wrong
            self._owed = Owed(None, answer.state)
            return 0.0
        return min(max(answer.wait_s, 0.001), self._read_every_s)

    def _hear(self, answer: PaceAnswer, now: float) -> None:
        """Learn how the provider has slowed everybody down."""
        heard = (answer.not_before, answer.share, answer.cut_at)
        if heard == self._heard:
            return
        self._heard = heard
        until = now + min(answer.not_before - answer.now_s, answer.pause_s)
        self.cut = Cut(now + answer.cut_at - answer.now_s, until, answer.share)

    def _say(self, table: PaceTable) -> None:
        """Slow everybody down, as the provider has asked this host."""
        cut, bounds, now = self._to_say, self._map.bounds, self._clock()
        if cut is None or bounds is None:
            return
        if cut.until > now:
            departed_s = bounds.now(cut.at)[0] if cut.at > _NEVER else 0.0
            table.slow_down(departed_s, cut.until - now, cut.share)
        if self._to_say is cut:
            self._to_say = None

    # ---- what people should know

    def _judge(self, slots: list[float], asked: float, answered: float) -> None:
        """Why slots that were granted can't be used, if so."""
        bounds, slot_s = self._map.bounds, self._timings.slot_s
        assert bounds is not None
        if bounds.width_s >= slot_s:
            self._why_none = (
                f"the store's clock is known to {bounds.width_s * 1000:.0f} ms, and a slot is"
                f" {slot_s * 1000:.0f} ms long: the way to the store is too slow"
            )
        elif slots and bounds.now(answered)[1] > slots[-1] + slot_s:
            self._why_none = (
                f"a reservation took {(answered - asked) * 1000:.0f} ms, and slots are at most"
                f" {self._timings.horizon_s * 1000:.0f} ms ahead: the store is too slow"
            )

    def _watch_hunger(self, demand: Demand) -> None:
        """Say it if requests are ready and nothing leaves for long."""
        now, used_at = self._clock(), demand.used_at
        if not demand.ready:
            self._hungry_since, self._said = None, False
            return
        if self._hungry_since is None or used_at > self._hungry_since:
            self._hungry_since, self._said = max(now, used_at), False
        elif not self._said and now > self._hungry_since + SILENT_S:
            self._said = True
            why = _REFUSALS.get(self._why_none, self._why_none)
            end = "" if why.endswith("?") else "."  # the texts of PostgreSQL may be questions
            self._notify(f"No slot of the ceiling for {SILENT_S:.0f} s: {why}{end}")


_REFUSALS = {
    "": "some were reserved, but this machine was too busy to use them in time",
    "server": "the store has just changed",
    "host": "this host is not counted among those that share it",
    "lane": "other ways out have all lanes, see BULKCERT_EGRESS",
    "held": "the run is held",
    "version": "this host has not heard of the last decision about the run",
    "quarantine": "the store's clock is set again and again",
    "pause": "the provider has asked for a pause",
    "late": "requests that may not have arrived have taken all of them",
    "ahead": "other hosts have taken all of them",
}
