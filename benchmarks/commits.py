"""How many durable commits the disk completes, and how many operations fit in them.

Claims operations from a planned store in a loop, with one durable commit (`synchronous=FULL`) for
each claim: of a single operation, as in a program that commits for every request, and of 250.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import bulkcert
from benchmarks import workload
from benchmarks.results import Row, Settings
from bulkcert.store.sqlite import SqliteStore


def run(settings: Settings) -> Iterator[Row]:
    """Measure single and batched commits."""
    commits = 500 if settings.full else 200
    for batch in (1, 250):
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            path = plan_store(Path(name), commits * batch)
            durations_s = []
            with closing(SqliteStore(path)) as store:
                for _ in range(commits):
                    started_at = time.monotonic()
                    with store.transaction():
                        claimed = store.claim(batch)
                    durations_s.append(time.monotonic() - started_at)
                    assert len(claimed) == batch
        yield Row(
            f"{batch} operation{'s' if batch > 1 else ''} per commit",
            commits * batch,
            {
                "commits/s": commits / sum(durations_s),
                "operations/s": commits * batch / sum(durations_s),
                "ms per commit, median": statistics.median(durations_s) * 1000,
                "ms per commit, slowest": max(durations_s) * 1000,
            },
        )


def plan_store(folder: Path, n: int) -> Path:
    """Plan `n` revocations and return the path of their checkpoint."""
    targets = workload.enos_targets(folder / "targets.csv", n)
    job = workload.enos_job(folder, targets, "http://127.0.0.1:9")
    with bulkcert.Run(bulkcert.load_job(job), folder / "run"):
        return folder / "run" / "checkpoint.sqlite3"
