"""The one clock of the simulator: Unix time in microseconds that never jumps.

In: nothing. Out: integers, so that comparisons and differences are exact. After it is created it
must never follow the system's wall clock: an adjustment during a run would reorder the ledger.
"""

from __future__ import annotations

import time

SECOND_US = 1_000_000
DAY_S = 86_400


class Clock:
    """A monotonic clock plus a fixed offset to Unix time, measured once."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_us(self) -> int:
        """Unix time in microseconds."""
        return (time.monotonic_ns() + self._offset_ns) // 1000
