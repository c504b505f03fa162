"""What a new key costs for each device: the key, its synced file, and the request signed with it.

Made in a loop in one process, as each process of the run's pool does it. How many a second two
cores make bounds a renewal with new keys, whatever the ceiling allows.
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
    """Make some keys of each kind."""
    for kind, n in (("rsa-2048", 40), ("ecdsa-p256", 400)):
        if settings.full:
            n *= 4
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            keys._make(kind, f"{name}/first.key.pem", SUBJECT)  # imports are not what is measured
            cpu_s, wall_s = [], []
            for number in range(n):
                cpu_before_s, began_at = time.process_time(), time.monotonic()
                keys._make(kind, str(Path(name) / f"{number}.key.pem"), SUBJECT)
                cpu_s.append(time.process_time() - cpu_before_s)
                wall_s.append(time.monotonic() - began_at)
        # the mean, not the median: how long a prime takes to find differs by its nature
        each_s = statistics.mean(cpu_s)
        yield Row(
            kind,
            f"{kind}: key, file and signed request",
            n,
            {
                "ms CPU each, mean": each_s * 1000,
                "ms on the wall each, mean": statistics.mean(wall_s) * 1000,
                f"{CORES} cores make, per second of CPU": CORES / each_s,
                f"of a ceiling of {CEILING}/s, %": 100 * CORES / each_s / CEILING,
                "ms CPU, slowest": max(cpu_s) * 1000,
            },
        )
