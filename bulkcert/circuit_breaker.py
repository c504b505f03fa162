"""Is the provider still working? Stops a run in which nearly everything fails for a long time.

In: a `Signal` for each result, and the time. Out: a `BreakerState`, and whether refusals concern
the whole account. It never sends, waits or stops anything itself; the dispatcher does what it says.

There are three states, so that a dead provider does not use up the attempts of every operation.
When the provider has been failing for a few seconds, the breaker half-opens: the run sends one
probe a second and nothing else. The first good result closes it again (with a failure share of 0.9
or less it takes the first few). After `stop_after_s` of failing it opens: the run stops, and can be
resumed.

A missing permission or a blocked address refuses everything at once. But the same refusal may
concern a single target: a released instance, a value that a firewall dislikes. So `AccountRefusals`
keeps such results until those that follow agree or contradict.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import Generic, TypeVar

from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult
from bulkcert.timings import BreakerTimings


class Signal(Enum):
    """What one result says about the provider. A throttled request says nothing."""

    GOOD = "the provider works"
    REFUSED = "the provider responds, but does not do what it is asked to"
    TROUBLE = "the provider did not respond, or responded that it is broken"


ATTEMPT_SIGNALS: dict[AttemptKind, Signal | None] = {
    AttemptKind.DONE: Signal.GOOD,
    AttemptKind.FLAWED: Signal.REFUSED,
    AttemptKind.REFUSED: Signal.REFUSED,
    AttemptKind.DISPUTED: Signal.REFUSED,
    AttemptKind.IN_DOUBT: Signal.TROUBLE,
    AttemptKind.NOT_SENT: Signal.TROUBLE,
    AttemptKind.THROTTLED: None,
}
LOOKUP_SIGNALS: dict[LookupKind, Signal | None] = {
    LookupKind.HOLDS: Signal.GOOD,
    LookupKind.ABSENT: Signal.GOOD,
    LookupKind.UNCLEAR: Signal.GOOD,
    LookupKind.NOT_YET: Signal.GOOD,
    LookupKind.SELECTED: Signal.GOOD,
    LookupKind.NOTHING_LEFT: Signal.GOOD,
    LookupKind.REFUSED: Signal.REFUSED,
    LookupKind.FLAWED: Signal.REFUSED,
    LookupKind.FAILED: Signal.TROUBLE,
    LookupKind.NOT_SENT: Signal.TROUBLE,
    LookupKind.THROTTLED: None,
}


def signal_of(result: AttemptResult | LookupResult) -> Signal | None:
    """What a result says about the provider; None for nothing."""
    if isinstance(result, LookupResult):
        return Signal.REFUSED if result.account_wide else LOOKUP_SIGNALS[result.kind]
    return ATTEMPT_SIGNALS[result.kind] if result.counts else None


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
        clock: monotonic time in seconds; should stand still while all requests have to pause.
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
        self._results: deque[tuple[float, Signal, str, int | str | None]] = deque()
        self._good = 0
        self._trouble = 0
        self._failing_since: float | None = None

    @property
    def disabled(self) -> bool:
        """Whether it never half-opens or opens."""
        return self._failing_share > 1

    def observe(self, signal: Signal, reason: str = "", code: int | str | None = None) -> None:
        """Count one result. Throttled requests must not be counted.

        Args:
            signal: what the result says.
            reason: the provider's code and text.
            code: its code alone.
        """
        now = self._clock()
        window_begins_at = now - self.timings.window_s
        self._results.append((now, signal, reason, code))
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

    @property
    def commonest_reason(self) -> str:
        """What most of the latest results that were not good have said; empty if nothing."""
        return _commonest(
            reason for _, signal, reason, _ in self._results if signal is not Signal.GOOD
        )

    @property
    def commonest_code(self) -> str:
        """The code that most of them had; unlike a text, it names no device. Empty if none."""
        return _commonest(
            "" if code is None else str(code)
            for _, signal, _, code in self._results
            if signal is not Signal.GOOD
        )

    def _forget(self, before: float) -> None:
        # The last few results stay, however old: at a low rate there are never more in a window,
        # and a half-open breaker has only its probes to go by.
        sample = self.timings.minimum_sample
        kept = sample if self._failing_since is None else sample // 5
        while len(self._results) > kept and self._results[0][0] < before:
            _, signal, _, _ = self._results.popleft()
            self._good -= signal is Signal.GOOD
            self._trouble -= signal is Signal.TROUBLE


def _commonest(texts: Iterable[str]) -> str:
    """The most frequent of some texts that are not empty; empty if there is none."""
    counts = Counter(filter(None, texts))
    return max(counts, key=counts.__getitem__, default="")


_Item = TypeVar("_Item")


class AccountRefusals(Generic[_Item]):
    """Keeps results that were refused for a reason that may concern the whole account.

    Requests of one kind are judged together: a permission to read says nothing about one to write.

    Args:
        enough: this many in a row, without a contradiction, concern the account.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._kept: dict[Hashable, list[_Item]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values())) if self._kept else 0

    def keep(self, request: Hashable, item: _Item) -> bool:
        """Keep a refused result; return whether the account is refused.

        Args:
            request: the kind of request.
            item: the result, and whatever belongs to it.
        """
        kept = self._kept.setdefault(request, [])
        kept.append(item)
        return len(kept) >= self._enough

    def contradict(self, request: Hashable) -> list[_Item]:
        """The service has served a request of this kind: return the refusals before it, which
        concerned only themselves."""
        return self._kept.pop(request, [])

    def take_all(self) -> list[_Item]:
        """Keep nothing any more, and return all that was kept."""
        items = [item for kept in self._kept.values() for item in kept]
        self._kept.clear()
        return items
