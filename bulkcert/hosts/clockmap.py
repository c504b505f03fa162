"""What does the clock of the database show now? Without ever asking it in time.

In: readings, that is a question, what the database answered, and when both were, by this machine's
clock. Out: two moments between which the database's clock is; and whether it has stepped. Pure, so
that it can be tested on a virtual clock.

The clock was read at some moment between question and answer. So each reading says between which
two numbers the *offset* is, the database's clock minus this machine's, and the next readings narrow
that down. With time it gets wider again, because the two clocks don't run equally fast.

A *step* is a reading that contradicts those before. A step that is smaller than what is known of
the offset goes unnoticed: by so much a slot may be early or late. Several steps of one sign are a
*slew*: a time service makes the clock run faster or slower until it is right. Then readings are
trusted for a shorter time, and slots are to be further apart.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

DRIFT = 0.001
"""How much faster one clock may run than the other, as a rule: twice what ntpd slews at most."""

SLEW_DRIFT = 0.12
"""The same while the database's clock is slewed: a fifth more than what chrony does at most."""

FORGOTTEN_S = 1.0
"""A reading that is older says nothing any more. Slots that were reserved by it are gone."""

SLEWS_S = 10.0
"""Steps of one sign within this time are a slew."""

SLEWING_S = 60.0
"""For so long after its last step a slew is assumed to go on."""

_NEVER = float("-inf")


class Reading(NamedTuple):
    """One look at the database's clock.

    Attributes:
        asked: when it was asked, in seconds of this machine's clock.
        shown: what it showed.
        answered: when the answer was there.
    """

    asked: float
    shown: float
    answered: float


class Seen(Enum):
    """What a reading says about the one before."""

    FIRST = "there is none, or it is forgotten"
    SAME = "they agree"
    STEP = "the clock has stepped in between"


class Bounds(NamedTuple):
    """What is known of the database's clock.

    Attributes:
        at: for this moment of this machine's clock.
        low: least offset.
        high: greatest offset.
        drift: how much faster one of the clocks may run than the other.
    """

    at: float
    low: float
    high: float
    drift: float

    def now(self, local: float) -> tuple[float, float]:
        """The earliest and the latest that the database's clock may show.

        Args:
            local: now, by this machine's clock.
        """
        spread = self.drift * abs(local - self.at)
        return local + self.low - spread, local + self.high + spread

    @property
    def width_s(self) -> float:
        """How exactly the offset is known."""
        return self.high - self.low


class ClockMap:
    """The database's clock, as this machine knows it.

    Attributes:
        bounds: what is known; None before the first reading. A new object with each reading, so
            that other threads may read it.
        slewing: the database's clock is being slewed.
    """

    def __init__(self) -> None:
        self.bounds: Bounds | None = None
        self.slewing = False
        self._stepped_at = _NEVER
        self._sign = 0

    def add(self, reading: Reading) -> Seen:
        """Learn from a reading. After a step, only this reading counts."""
        if self.slewing and reading.answered > self._stepped_at + SLEWING_S:
            self.slewing = False
        drift = SLEW_DRIFT if self.slewing else DRIFT
        # the clocks drift between question and answer as well
        spread = drift * (reading.answered - reading.asked)
        low = reading.shown - reading.answered - spread
        high = reading.shown - reading.asked + spread
        before, self.bounds = self.bounds, Bounds(reading.answered, low, high, drift)
        if before is None or reading.asked > before.at + FORGOTTEN_S:
            return Seen.FIRST
        # the drift of now, also for a reading from before the slew
        earliest, latest = before._replace(drift=drift).now(reading.answered)
        earliest, latest = earliest - reading.answered, latest - reading.answered
        if low > latest or high < earliest:
            self._step(reading.answered, 1 if low > latest else -1)
            return Seen.STEP
        self.bounds = Bounds(reading.answered, max(low, earliest), min(high, latest), drift)
        return Seen.SAME

    def _step(self, at: float, sign: int) -> None:
        if sign == self._sign and at < self._stepped_at + SLEWS_S:
            self.slewing = True
        self._sign, self._stepped_at = sign, at
