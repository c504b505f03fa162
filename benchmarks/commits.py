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

from benchmarks.results import Row, Settings
from bulkcert.model import Target
from bulkcert.store.sqlite import SqlitePlan, SqliteStore


def run(settings: Settings) -> Iterator[Row]:
    """Measure single and batched commits."""
    commits = 500 if settings.full else 200
    for batch in (1, 250):
        with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
            path = Path(name) / "checkpoint.sqlite3"
            _plan(path, commits * batch)
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


def _plan(path: Path, n: int) -> None:
    plan = SqlitePlan(path)
    for number in range(n):
        fields: dict[str, str | int] = {"assetId": f"A{number:08x}", "certSn": 1_000_000 + number}
        plan.add(Target(number + 2, fields), number)
    plan.finish({})
