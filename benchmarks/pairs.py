"""Compares programs side by side: one after the other, again and again, so that both meet the same
machine. In: what to measure, by name. Out: medians, and ratios taken within each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from benchmarks.processes import Usage


class Rounds:
    """What was measured: for each round, the usage of every program."""

    def __init__(self, programs: Mapping[str, Callable[[], Usage]], rounds: int) -> None:
        self._rounds: list[dict[str, Usage]] = []
        names = list(programs)
        for number in range(rounds):
            # who goes first changes, lest one of them always gets the warm caches
            order = names if number % 2 == 0 else names[::-1]
            self._rounds.append({name: programs[name]() for name in order})

    def cpu_s(self, name: str) -> float:
        """Median seconds of CPU."""
        return statistics.median(one[name].cpu_s for one in self._rounds)

    def wall_s(self, name: str) -> float:
        """Median seconds on the wall."""
        return statistics.median(one[name].wall_s for one in self._rounds)

    def cpu_ratio(self, name: str, other: str) -> float:
        """Median of the ratios of CPU, round by round."""
        return statistics.median(one[name].cpu_s / one[other].cpu_s for one in self._rounds)

    def wall_ratio(self, name: str, other: str) -> float:
        """The same of the times on the wall."""
        return statistics.median(one[name].wall_s / one[other].wall_s for one in self._rounds)

    def cpu_ratio_range(self, name: str, other: str) -> str:
        """Least and greatest of the ratios of CPU."""
        ratios = sorted(one[name].cpu_s / one[other].cpu_s for one in self._rounds)
        return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
