"""Is the provider still working? Stops a run in which nearly everything fails for a long time.

In: a `Signal` for each result, and the time. Out: a `BreakerState`. It never sends, waits or stops
anything itself; the dispatcher does what the state says.

There are three states, so that a dead provider does not use up the attempts of every operation.
When the provider has been failing for a few seconds, the breaker half-opens: the run sends one
probe a second and nothing else. The first good result closes it again (with a failure share of 0.9
or less it takes the first few). After `stop_after_s` of failing it opens: the run stops, and can be
resumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from bulkcert.timings import BreakerTimings


class Signal(Enum):
    """What one result says about the provider. A throttled request says nothing."""

    GOOD = "the provider works"
    REFUSED = "the provider responds, but does not do what it is asked to"
    TROUBLE = "the provider did not respond, or responded that it is broken"


class BreakerState(Enum):
    """What the run may send."""

    CLOSED = "everything"
    HALF_OPEN = "one probe now and then"
    OPEN = "nothing; the run stops"


class CircuitBreaker:
    """Watches the results of a run.

    Args:
        failing_share: the provider counts as failing when this share of the results in a window are
            not good; above 1 it never does.
        stop_after_s: the breaker opens after this many seconds of failing.
        clock: monotonic time in seconds.
        timings: when the breaker half-opens, and how it probes.
    """

    def __init__(
        self,
        failing_share: float,
        stop_after_s: float,
        clock: Callable[[], float],
        timings: BreakerTimings = BreakerTimings(),
    ) -> None:
        self.timings = timings
        self._failing_share = failing_share
        self._stop_after_s = stop_after_s
        self._clock = clock
        self._results: deque[tuple[float, Signal]] = deque()
        self._good = 0
        self._trouble = 0
        self._failing_since: float | None = None

    def observe(self, signal: Signal) -> None:
        """Count one result. Throttled requests must not be counted."""
        now = self._clock()
        window_begins_at = now - self.timings.window_s
        self._results.append((now, signal))
        self._good += signal is Signal.GOOD
        self._trouble += signal is Signal.TROUBLE
        self._forget(window_begins_at)
        total = len(self._results)
        if total - self._good < self._failing_share * total:
            self._failing_since = None
        elif self._failing_since is None and total >= self.timings.minimum_sample:
            # At a low rate the first of these results may be hours old, with a pause in between.
            self._failing_since = max(self._results[0][0], window_begins_at)

    @property
    def failing_for_s(self) -> float:
        """Seconds since the provider began to fail; 0 while it does not."""
        return 0.0 if self._failing_since is None else self._clock() - self._failing_since

    @property
    def state(self) -> BreakerState:
        """What the run may send now."""
        if self._failing_since is None:
            return BreakerState.CLOSED
        if self.failing_for_s >= self._stop_after_s:
            return BreakerState.OPEN
        # A refusal is final for its operation and uses up no attempts, so there is nothing to save
        # by probing: only trouble half-opens the breaker.
        in_trouble = self._trouble >= self._failing_share * len(self._results)
        if in_trouble and self.failing_for_s >= self.timings.half_open_after_s:
            return BreakerState.HALF_OPEN
        return BreakerState.CLOSED

    def _forget(self, before: float) -> None:
        # The last few results stay, however old: at a low rate there are never more in a window,
        # and a half-open breaker has only its probes to go by.
        sample = self.timings.minimum_sample
        kept = sample if self._failing_since is None else sample // 5
        while len(self._results) > kept and self._results[0][0] < before:
            _, signal = self._results.popleft()
            self._good -= signal is Signal.GOOD
            self._trouble -= signal is Signal.TROUBLE
