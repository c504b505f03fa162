"""Compare programs by running them in turn, so that all of them meet the same machine.

In: a function to measure each program, by name. Out: the usage of each in every round, medians,
and ratios taken within a round. A ratio is never taken between runs that are far apart in time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from benchmarks.processes import Usage


class Rounds:
    """The usage of every program in each of several rounds.

    Attributes:
        usages: for each round, the usage of each program by name.
    """

    def __init__(self, programs: Mapping[str, Callable[[], Usage]], rounds: int) -> None:
        self.usages: list[dict[str, Usage]] = []
        names = list(programs)
        for number in range(rounds):
            # Alternate who goes first; otherwise one of them would always find warm caches.
            order = names if number % 2 == 0 else names[::-1]
            self.usages.append({name: programs[name]() for name in order})

    def cpu_s(self, name: str) -> float:
        """Return the median CPU time in seconds."""
        return statistics.median(usage[name].cpu_s for usage in self.usages)

    def elapsed_s(self, name: str) -> float:
        """Return the median elapsed time in seconds."""
        return statistics.median(usage[name].elapsed_s for usage in self.usages)

    def cpu_ratios(self, name: str, other: str) -> list[float]:
        """Return the ratio of CPU times in each round, `name` divided by `other`."""
        return [usage[name].cpu_s / usage[other].cpu_s for usage in self.usages]

    def cpu_ratio(self, name: str, other: str) -> float:
        """Return the median of the ratios of CPU times."""
        return statistics.median(self.cpu_ratios(name, other))

    def cpu_ratio_range(self, name: str, other: str) -> str:
        """Return the lowest and the highest ratio of CPU times, as text."""
        ratios = self.cpu_ratios(name, other)
        return f"{min(ratios):.2f} to {max(ratios):.2f}"

    def elapsed_ratio(self, name: str, other: str) -> float:
        """Return the median of the ratios of elapsed times."""
        return statistics.median(
            usage[name].elapsed_s / usage[other].elapsed_s for usage in self.usages
        )
