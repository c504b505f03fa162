"""Where the CPU goes: a run and the bare loop, sampled by py-spy, µs for each operation by part.

A sample belongs to the first part below whose mark is in one of its frames (`ANYWHERE`), or else in
its innermost one (`INNERMOST`). How much all of it takes is measured without the sampler, which
slows what it watches.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import cost, work
from benchmarks.nginx import MissingError
from benchmarks.processes import measure
from benchmarks.results import Row, Settings

SAMPLES_PER_SECOND = 200
LIMIT_S = 300.0

ANYWHERE = {
    "imports": ("importlib",),
    "checkpoint thread": ("CheckpointWriter._write ",),
    "plan": ("bulkcert/plan.py",),
    "report": ("bulkcert/report.py",),
}
INNERMOST = {
    "aiohttp": ("aiohttp/", "yarl/", "multidict/", "propcache/"),
    "requests, signatures, answers": ("providers/enos/", "providers/bodies.py", "urllib/"),
    "pacing": ("bulkcert/ratelimit.py", "aiolimiter/", "asyncio/locks.py"),
    "sending and time-outs": ("providers/transport.py",),
    "dispatch, retry, guard": ("bulkcert/dispatch.py", "bulkcert/retry.py", "bulkcert/guard.py"),
    "the bare loop itself": ("benchmarks/floor.py",),
    "event loop": ("asyncio/", "selectors.py", "weakref"),
}
REST = "others"


def run(settings: Settings) -> Iterator[Row]:
    """Sample both.

    Raises:
        MissingError: py-spy is not installed.
    """
    sampler = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which(
        "py-spy"
    )
    if sampler is None:
        raise MissingError("the program py-spy is not installed")
    n = 50_000 if settings.full else 10_000
    with cost.enos_scene(n) as scene:
        programs = {
            "bulkcert": [
                *(*work.BULKCERT, "run", scene.job, "--yes", "--no-progress"),
                *("--run-dir", scene.folder / "{}"),
            ],
            "bare loop": [
                *(sys.executable, "-m", "benchmarks.floor"),
                *(scene.targets, scene.endpoint, str(cost.IN_FLIGHT)),
            ],
        }
        for label, program in programs.items():
            yield _sampled(label, program, n, sampler, scene.folder)


def _sampled(label: str, program: list[str | Path], n: int, sampler: str, folder: Path) -> Row:
    def carried_out(way: str, before: list[str | Path]) -> float:
        command = [*before, *(str(part).format(way) for part in program)]
        return measure(command, env=work.environment(), cwd=folder, limit_s=LIMIT_S).cpu_s

    samples = folder / "samples"
    how = ["record", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--output", samples]
    carried_out("sampled", [sampler, *how, "--"])
    cpu_us = carried_out("alone", []) / n * 1e6
    parts: Counter[str] = Counter()
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        parts[_part_of(stack)] += int(count)
    all_samples = parts.total()
    return Row(
        label,
        f"{label}, EnOS revoke, {cost.IN_FLIGHT} in flight: µs of CPU for each operation, by part",
        n,
        {
            "all": cpu_us,
            **{part: parts[part] / all_samples * cpu_us for part in (*ANYWHERE, *INNERMOST, REST)},
        },
    )


def _part_of(stack: str) -> str:
    frames = [re.sub(r":\d+\)$", ")", frame) + " " for frame in stack.split(";")]
    for part, marks in ANYWHERE.items():
        if any(mark in frame for frame in frames for mark in marks):
            return part
    for part, marks in INNERMOST.items():
        if any(mark in frames[-1] for mark in marks):
            return part
    return REST
