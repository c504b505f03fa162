"""How close to the ceiling may a run go? Judged by how much the time to a response varies.

In: how long each response took. Out: the share of the ceiling that the steady rate may use, how
many requests may leave in which time, and why. Must never allow more than what was seen permits,
and nothing beyond `DEFAULT` before enough was seen.

What leaves evenly arrives in bunches, because some requests take longer to arrive than others. If
the longest takes `spread_s` longer than the shortest, then what arrives within a second has left
within 1 s + `spread_s`. So no second is above the ceiling for the provider if so many requests
leave in that time. How long requests take to arrive is not known, but the time to the response
includes it. So it varies at least as much, whatever the way: through a proxy, a load balancer, or
a busy machine at either end. It also includes the provider's own work. Where that varies by more
than 20 ms, the network can't be seen behind it, and nothing changes.

What happens for the first time can't be seen beforehand; see docs/decisions.md for how often that
was too much.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from bulkcert.quantities import number

DEFAULT = 0.975
"""Share of the ceiling where nothing is known, or too little: enough for a spread of 20 ms."""

MOST = 0.995
"""Share of the ceiling that is never exceeded, however evenly responses come."""

SPARE = 2
"""Requests that stay unused of the ceiling: a second has two ends, and one may be a straggler."""

PERIOD_S = 5.0
"""Responses are compared in periods of this length."""

FEWEST = 500
"""A period with fewer responses says too little: everything before it is forgotten."""

PERIODS_TO_TRUST = 2
PERIODS_TO_REMEMBER = 60

LONGEST_SPAN_S = 1 / DEFAULT
"""`Allowance.span_s` is shorter."""


class Allowance(NamedTuple):
    """What may leave.

    Attributes:
        utilization: share of the ceiling that the steady rate may use.
        departures: most departures in `span_s`.
        span_s: in seconds, at least 1.
    """

    utilization: float
    departures: int
    span_s: float


class _Extremes(NamedTuple):
    shortest_s: float
    longest_s: float


class Jitter:
    """Watches how much the time to a response varies.

    Args:
        ceiling: most arrivals in any rolling second.

    Attributes:
        allowance: what may leave; None as long as the default is the best that is known.
    """

    def __init__(self, ceiling: float) -> None:
        self.allowance: Allowance | None = None
        self._ceiling = ceiling
        self._periods: deque[_Extremes] = deque(maxlen=PERIODS_TO_REMEMBER)
        self._ends_at: float | None = None  # the period; None before the first response
        self._begun = False  # connections are opened in the first period, so it does not count
        self._distrusted = False
        self._count, self._shortest_s, self._longest_s = 0, math.inf, 0.0  # of this period
        self._range: _Extremes | None = None  # of all periods that count

    def add(self, took_s: float, now: float) -> bool:
        """Add a response; return whether `allowance` has changed.

        Args:
            took_s: seconds since its request left.
            now: the time in seconds.
        """
        changed = (self._ends_at is None or now >= self._ends_at) and self._end_period(now)
        self._count += 1
        if took_s < self._shortest_s:
            self._shortest_s = took_s
        if took_s > self._longest_s:
            self._longest_s = took_s
        known = self._range
        if known and not known.shortest_s <= took_s <= known.longest_s:
            # it counts at once, not only at the end of the period
            so_far = _Extremes(self._shortest_s, self._longest_s)
            changed = self._judge([*self._periods, so_far]) or changed
        return changed

    def distrust(self) -> bool:
        """Stay at the default from now on: the provider itself says that it was too much.

        Returns:
            Whether `allowance` has changed.
        """
        self._distrusted = True
        changed, self.allowance = self.allowance is not None, None
        return changed

    @property
    def utilization(self) -> float:
        """Share of the ceiling that is used."""
        return self.allowance.utilization if self.allowance else DEFAULT

    @property
    def reason(self) -> str:
        """What was chosen and why, for people; empty as long as nothing is known."""
        if self._distrusted:
            why = "the provider has throttled"
        elif self._range is not None:
            spread_s = self._range.longest_s - self._range.shortest_s
            why = f"responses vary by {number(round(1000 * spread_s, 1))} ms"
        else:
            return ""
        return f"{number(round(100 * self.utilization, 1))} % of the ceiling, because {why}"

    def _end_period(self, now: float) -> bool:
        complete = (
            self._ends_at is not None and now < self._ends_at + PERIOD_S and self._count >= FEWEST
        )
        if not complete:
            self._periods.clear()
        elif self._begun:
            self._periods.append(_Extremes(self._shortest_s, self._longest_s))
        self._begun = complete
        self._ends_at = now + PERIOD_S
        self._count, self._shortest_s, self._longest_s = 0, math.inf, 0.0
        return self._judge(list(self._periods))

    def _judge(self, periods: list[_Extremes]) -> bool:
        before, self.allowance, self._range = self.allowance, None, None
        if len(periods) >= PERIODS_TO_TRUST:
            shortest_s = min(each.shortest_s for each in periods)
            longest_s = max(each.longest_s for each in periods)
            self._range = _Extremes(shortest_s, longest_s)
            if not self._distrusted:
                self.allowance = allowance(self._ceiling, longest_s - shortest_s)
        return self.allowance != before


def allowance(ceiling: float, spread_s: float) -> Allowance | None:
    """What may leave if the time to arrive varies by so much; None if that is not more than by
    default."""
    departures = int(ceiling) - SPARE
    utilization = min(MOST, departures / ceiling / (1 + spread_s))
    return Allowance(utilization, departures, 1 + spread_s) if utilization > DEFAULT else None
