"""What uvloop brings: the run of the cost benchmark on its event loop, against asyncio's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from benchmarks import cost
from benchmarks.nginx import MissingError
from benchmarks.pairs import Rounds
from benchmarks.results import Row, Settings

ON_UVLOOP = [sys.executable, "-m", "benchmarks.with_uvloop"]


def run(settings: Settings) -> Iterator[Row]:
    """Run the same job with and without it.

    Raises:
        MissingError: it is not installed.
    """
    if importlib.util.find_spec("uvloop") is None:
        raise MissingError("the package uvloop is not installed")
    n = 10_000 if settings.full else 5_000
    rounds = 5 if settings.full else 3
    with cost.enos_scene(n) as scene:
        folder, job = scene.folder, scene.job
        measured = Rounds(
            {
                "asyncio": lambda: cost.bulkcert_run(folder, job, n),
                "uvloop": lambda: cost.bulkcert_run(folder, job, n, program=ON_UVLOOP),
            },
            rounds,
        )
    yield Row(
        "uvloop",
        f"`bulkcert run`, EnOS revoke, {cost.IN_FLIGHT} in flight, on uvloop against asyncio",
        n,
        {
            "uvloop, µs CPU per operation": measured.cpu_s("uvloop") / n * 1e6,
            "asyncio, µs": measured.cpu_s("asyncio") / n * 1e6,
            "ratio of CPU": measured.cpu_ratio("uvloop", "asyncio"),
            "from and to": measured.cpu_ratio_range("uvloop", "asyncio"),
            "uvloop, operations/s": n / measured.wall_s("uvloop"),
            "asyncio, operations/s": n / measured.wall_s("asyncio"),
            "rounds": rounds,
        },
    )
