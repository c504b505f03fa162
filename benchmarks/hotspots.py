"""Where the CPU goes: a run and the bare loop, sampled by py-spy, µs for each operation by part.

A sample belongs to the first part below whose mark is in one of its frames (`ANYWHERE`), or else in
its innermost one (`INNERMOST`). How much all of it takes is measured without the sampler, which
slows what it watches, and side by side.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import cost, work
from benchmarks.nginx import MissingError
from benchmarks.pairs import Rounds
from benchmarks.processes import Usage, measure
from benchmarks.results import Row, Settings

SAMPLES_PER_SECOND = 200
LIMIT_S = 300.0

ANYWHERE = {
    "imports": ("importlib",),
    "checkpoint thread": ("StoreWriter._write ",),
    "plan": ("bulkcert/plan.py",),
    "report": ("bulkcert/report.py",),
}
INNERMOST = {
    "aiohttp": ("aiohttp/", "yarl/", "multidict/", "propcache/"),
    "requests, signatures, answers": ("providers/enos/", "providers/bodies.py", "urllib/"),
    "pacing": ("bulkcert/ratelimit.py", "aiolimiter/", "asyncio/locks.py"),
    "sending and time-outs": ("providers/transport.py",),
    "dispatch, retry, guard": (
        "bulkcert/dispatch.py",
        "bulkcert/retry.py",
        "bulkcert/circuit_breaker.py",
    ),
    "the bare loop itself": ("benchmarks/floor.py",),
    "event loop": ("asyncio/", "selectors.py", "weakref"),
}
REST = "others"


def run(settings: Settings) -> Iterator[Row]:
    """Measure both side by side, then sample both.

    Raises:
        MissingError: py-spy is not installed.
    """
    sampler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which(
        "py-spy"
    )
    if sampler is None:
        raise MissingError("the program py-spy is not installed")
    n, rounds = (50_000, 5) if settings.full else (10_000, 3)
    with cost.enos_scene(n) as scene:
        floor = [*(sys.executable, "-m", "benchmarks.floor"), scene.targets, scene.endpoint]
        programs = {
            "bulkcert": lambda: _bulkcert(scene),
            "bare loop": lambda: [*floor, str(cost.IN_FLIGHT)],
        }

        def carry_out(label: str, *before: str | Path) -> Usage:
            command = [*before, *programs[label]()]
            return measure(command, env=work.environment(), cwd=scene.folder, limit_s=LIMIT_S)

        measured = Rounds({label: partial(carry_out, label) for label in programs}, rounds)
        for label in programs:
            samples = scene.folder / "samples"
            how = ["record", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND)]
            carry_out(label, sampler, *how, "--output", samples, "--")
            parts = _parts(samples.read_text())
            cpu_us = measured.cpu_s(label) / n * 1e6
            yield Row(
                label,
                f"{label}, EnOS revoke, {cost.IN_FLIGHT} in flight: µs of CPU for each operation",
                n,
                {
                    "all": cpu_us,
                    **{
                        part: parts[part] / parts.total() * cpu_us
                        for part in (*ANYWHERE, *INNERMOST, REST)
                    },
                    "rounds": rounds,
                },
            )


def _bulkcert(scene: cost.Scene) -> list[str | Path]:
    run_dir = Path(tempfile.mkdtemp(dir=scene.folder))
    return [*work.BULKCERT, "run", scene.job, "--yes", "--no-progress", "--run-dir", run_dir]


def _parts(samples: str) -> Counter[str]:
    """How many samples there are of each part, out of py-spy's lines: frames, and a count."""
    parts: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        parts[_part_of(stack)] += int(count)
    return parts


def _part_of(stack: str) -> str:
    frames = [re.sub(r":\d+\)$", ")", frame) + " " for frame in stack.split(";")]
    for part, marks in ANYWHERE.items():
        if any(mark in frame for frame in frames for mark in marks):
            return part
    for part, marks in INNERMOST.items():
        if any(mark in frames[-1] for mark in marks):
            return part
    return REST
