"""What a new key for each device costs: the key, its synced file, and the request signed with it.

Measured in a loop in one process, as each process of the run's pool makes them. The number of keys
that two cores make in a second bounds a renewal with new keys, whatever the ceiling is.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import Row, Settings
from bulkcert import keys

CORES = 2
CEILING = 500
SUBJECT = {"C": "CN", "O": "EnOS", "CN": "pump-7"}


def run(settings: Settings) -> Iterator[Row]:
    """Make a number of keys of each kind."""
    for kind, n in (("rsa-2048", 40), ("ecdsa-p256", 400)):
        if settings.full:
            n *= 4
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            keys._make(kind, f"{name}/first.key.pem", SUBJECT)  # the first one also pays imports
            cpu_s, elapsed_s = [], []
            for number in range(n):
                cpu_before_s, started_at = time.process_time(), time.monotonic()
                keys._make(kind, str(Path(name) / f"{number}.key.pem"), SUBJECT)
                cpu_s.append(time.process_time() - cpu_before_s)
                elapsed_s.append(time.monotonic() - started_at)
        # The mean, not the median: the time to find a prime varies by nature.
        mean_s = statistics.mean(cpu_s)
        yield Row(
            kind,
            n,
            {
                "ms CPU per key, mean": mean_s * 1000,
                "ms CPU per key, slowest": max(cpu_s) * 1000,
                "ms elapsed per key, mean": statistics.mean(elapsed_s) * 1000,
                f"keys/s, {CORES} cores": CORES / mean_s,
                f"% of {CEILING}/s, {CORES} cores": 100 * CORES / mean_s / CEILING,
            },
        )
