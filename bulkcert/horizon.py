"""How long a run will still take, with what its rules add; and whether that is in time.

In: the progress of a process, and where its campaign stands. Out: the same progress, its time left
with the waits between waves and the closed window in it; and, once, that the deadline will be
missed. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from bulkcert.events import Progress
from bulkcert.forecast import Forecast, Work
from bulkcert.quantities import duration, moment
from bulkcert.rules import Rules
from bulkcert.store.claims import Position

SURE_AFTER_S = 10.0
"""A measured rate must say for this long that the run will be late: one slow moment says little."""


class Horizon:
    """Looks ahead to the end of a run.

    Args:
        rules: the rules of the run.
        deadline_s: when it must be over, as Unix time in seconds; None for no deadline.
        requests_per_operation: the fewest requests that an operation takes.
        ceiling: most requests in any second.
        now: returns Unix time in seconds.
    """

    def __init__(
        self,
        rules: Rules,
        deadline_s: float | None,
        *,
        requests_per_operation: int,
        ceiling: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rules, self._deadline_s = rules, deadline_s
        self._requests, self._ceiling = requests_per_operation, ceiling
        self._now = now
        self._late_since_s: float | None = None
        self._told = False

    def see(self, progress: Progress, position: Position) -> tuple[Progress, str]:
        """Look ahead.

        Args:
            progress: the progress; its time left is that of sending alone.
            position: where the campaign stands.

        Returns:
            The progress with the whole time left, and what people should be told now, if anything.
        """
        left = progress.total - sum(progress.settled.values())
        if left <= 0:
            return progress, ""
        now_s = self._now()
        least_s = self._requests / min(self._ceiling, position.rate or self._ceiling)
        least = self._forecast(now_s, position, left, least_s)
        measured_s = None if progress.left_s is None else progress.left_s / left
        if measured_s is None and not position.held:
            return progress, self._late(now_s, least, least)
        expected = self._forecast(now_s, position, left, max(least_s, measured_s or 0.0))
        late = self._late(now_s, least, expected)
        if expected is None:
            return replace(progress, left_s=None), late
        deadline_s = self._deadline_s
        slack_s = None if deadline_s is None else expected.slack_s(deadline_s)
        return replace(progress, left_s=expected.duration_s, slack_s=slack_s), late

    def _forecast(
        self, now_s: float, position: Position, left: int, s_per_operation: float
    ) -> Forecast | None:
        standing = position.standing
        to_come = [(wave.name, wave.targets) for wave in position.waves[standing.wave + 1 :]]
        # a selection may have added operations to the current wave, or may do so later
        of_current = max(0, left - sum(targets for _, targets in to_come))
        over_at = standing.over_at
        name = position.waves[standing.wave].name if position.waves else ""
        work = Work.of(
            self._rules,
            [(name, of_current), *to_come],
            s_per_operation=s_per_operation,
            over_for_s=None if over_at is None else now_s - over_at,
            gone=position.gone,
        )
        return work.forecast(now_s)

    def _late(self, now_s: float, least: Forecast | None, expected: Forecast | None) -> str:
        """Say once that the deadline will be missed, as soon as that is sure enough."""
        deadline_s = self._deadline_s
        if deadline_s is None or self._told:
            return ""
        if expected is not None and expected.slack_s(deadline_s) >= 0:
            self._late_since_s = None
            return ""
        if self._late_since_s is None:
            self._late_since_s = now_s
        is_sure = least is None or least.slack_s(deadline_s) < 0
        if not is_sure and now_s - self._late_since_s < SURE_AFTER_S:
            return ""
        self._told = True
        if expected is None:
            why = "will be missed: the window is not open for long enough"
        elif deadline_s <= now_s:
            why = f"has passed, and about {duration(expected.duration_s)} are left"
        else:
            why = f"will be missed by about {duration(-expected.slack_s(deadline_s))}"
        return f"The deadline, {moment(deadline_s)}, {why}. The run goes on as before."
