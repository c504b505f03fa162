"""How much the disk lets through: durable commits of the checkpoint, and rows in them.

Claims from a planned checkpoint in a loop, one durable commit (`synchronous=FULL`) for each: of one
operation, as a program would that commits for each request, and of 250 at once.
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
            took_s = []
            with closing(SqliteStore(path)) as checkpoint:
                for _ in range(commits):
                    began_at = time.monotonic()
                    with checkpoint.transaction():
                        claimed = checkpoint.claim(batch)
                    took_s.append(time.monotonic() - began_at)
                    assert len(claimed) == batch
        yield Row(
            f"{batch}",
            f"durable commits of {batch:,} operation{'s' if batch > 1 else ''} each",
            commits * batch,
            {
                "commits/s": commits / sum(took_s),
                "operations/s": commits * batch / sum(took_s),
                "ms a commit, median": statistics.median(took_s) * 1000,
                "ms, slowest": max(took_s) * 1000,
            },
        )


def _plan(path: Path, n: int) -> None:
    plan = SqlitePlan(path)
    for number in range(n):
        fields: dict[str, str | int] = {"assetId": f"A{number:08x}", "certSn": 1_000_000 + number}
        plan.add(Target(number + 2, fields), number)
    plan.finish({})
