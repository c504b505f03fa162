"""Is the provider still there? Stops a run in which nearly everything fails for long.

Three stages, so that a dead provider does not burn the attempts of every operation: after
five seconds of failing the run holds, sending one probe a second; the first good answer lets it
go on (the first few, with a failing share of 0.9 or less); after `stop_after_seconds` it stops,
resumable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from bulkcert.model import AnswerKind
from bulkcert.timings import BreakerTimings

# no sets: the hash of an enumeration's member is computed in Python
_GOOD = (
    *(AnswerKind.DONE, AnswerKind.HOLDS, AnswerKind.ABSENT, AnswerKind.UNCLEAR),
    *(AnswerKind.STEP, AnswerKind.SELECTED),
)
_TROUBLE = (AnswerKind.IN_DOUBT, AnswerKind.NOT_SENT)


class BreakerState(Enum):
    """What the run should do."""

    CLOSED = "everything is sent"
    HALF_OPEN = "only a probe now and then is sent"
    OPEN = "nothing is sent any more; the run stops"


class CircuitBreaker:
    """Watches the answers of a run.

    Args:
        failing_share: share of failing answers in a window from which the provider counts as
            failing; above 1 never.
        stop_after_s: seconds of failing after which the verdict is STOP.
        clock: monotonic time in seconds.
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
        self._answers: deque[tuple[float, bool, bool]] = deque()  # when, good, trouble
        self._good = 0
        self._trouble = 0
        self._failing_since: float | None = None

    def observe(self, kind: AnswerKind) -> None:
        """Take note of one answer. Throttled ones say nothing about success or failure."""
        if kind is AnswerKind.THROTTLED:
            return
        now = self._clock()
        good, trouble = kind in _GOOD, kind in _TROUBLE
        self._answers.append((now, good, trouble))
        self._good += good
        self._trouble += trouble
        self._forget(now - self.timings.window_s)
        total = len(self._answers)
        failing = total - self._good >= self._failing_share * total
        if not failing:
            self._failing_since = None
        elif self._failing_since is None and total >= self.timings.minimum_sample:
            # at a low rate the first of them may be hours old, with a pause in between
            self._failing_since = max(self._answers[0][0], now - self.timings.window_s)

    @property
    def failing_for_s(self) -> float:
        """Seconds since the answers began to fail, 0 when they do not."""
        return 0.0 if self._failing_since is None else self._clock() - self._failing_since

    def state(self) -> BreakerState:
        """Tell what to do now."""
        if self._failing_since is None:
            return BreakerState.CLOSED
        if self.failing_for_s >= self._stop_after_s:
            return BreakerState.OPEN
        # Refusals are final for their operation and burn nothing: only trouble is worth holding.
        troubled = self._trouble >= self._failing_share * len(self._answers)
        return (
            BreakerState.HALF_OPEN
            if troubled and self.failing_for_s >= self.timings.half_open_after_s
            else BreakerState.CLOSED
        )

    def _forget(self, before: float) -> None:
        # The last few answers stay however old: at a low rate there never are more in a window, and
        # while holding there are only probes to go by.
        fewest = (
            self.timings.minimum_sample
            if self._failing_since is None
            else self.timings.minimum_sample // 5
        )
        while len(self._answers) > fewest and self._answers[0][0] < before:
            _, good, trouble = self._answers.popleft()
            self._good -= good
            self._trouble -= trouble
