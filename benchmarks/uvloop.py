"""What uvloop would save: a run on its event loop, compared with asyncio's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from benchmarks.alternating import Rounds
from benchmarks.cost import IN_FLIGHT, bulkcert_run, enos_scenario
from benchmarks.processes import MissingError
from benchmarks.results import Row, Settings

ON_UVLOOP = [sys.executable, "-m", "benchmarks.with_uvloop"]


def run(settings: Settings) -> Iterator[Row]:
    """Run the same job on both event loops in alternation.

    Raises:
        MissingError: uvloop or nginx is not installed.
    """
    if importlib.util.find_spec("uvloop") is None:
        raise MissingError("the package uvloop is not installed")
    n, rounds = (10_000, 5) if settings.full else (5_000, 3)
    with enos_scenario(n) as scenario:
        folder, job = scenario.folder, scenario.job
        measured = Rounds(
            {
                "asyncio": lambda: bulkcert_run(folder, job, n),
                "uvloop": lambda: bulkcert_run(folder, job, n, program=ON_UVLOOP),
            },
            rounds,
        )
    yield Row(
        f"EnOS revoke, {IN_FLIGHT} in flight",
        n,
        {
            "uvloop, µs CPU per operation": measured.cpu_s("uvloop") / n * 1e6,
            "asyncio, µs CPU per operation": measured.cpu_s("asyncio") / n * 1e6,
            "CPU, uvloop ÷ asyncio": measured.cpu_ratio("uvloop", "asyncio"),
            "range of that ratio": measured.cpu_ratio_range("uvloop", "asyncio"),
            "uvloop, operations/s": n / measured.elapsed_s("uvloop"),
            "asyncio, operations/s": n / measured.elapsed_s("asyncio"),
            "rounds": rounds,
        },
    )
