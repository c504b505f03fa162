"""Where the CPU goes: µs per operation by part of the program, for a run and for the baseline.

py-spy samples the stacks. A sample counts for the first part in `ANYWHERE` that marks any of its
frames, or else for the first in `INNERMOST` that marks its innermost frame. The total is measured
without the sampler, which slows down what it watches, with both programs in alternation.
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

from benchmarks import workload
from benchmarks.alternating import Rounds
from benchmarks.cost import Scenario, baseline_command, enos_scenario
from benchmarks.processes import MissingError, Usage, measure
from benchmarks.results import Row, Settings

SAMPLES_PER_SECOND = 200
LIMIT_S = 300.0

ANYWHERE: dict[str, tuple[str, ...]] = {
    "imports": ("importlib",),
    "store's writer thread": ("StoreWriter._write ",),
    "plan": ("bulkcert/plan.py",),
    "report": ("bulkcert/report/",),
}
INNERMOST: dict[str, tuple[str, ...]] = {
    "aiohttp": ("aiohttp/", "yarl/", "multidict/", "propcache/"),
    "TLS": ("asyncio/sslproto.py", "ssl.py"),
    "requests, signatures, responses": (
        "bulkcert/providers/enos/",
        "bulkcert/providers/base.py",
        "bulkcert/providers/bounds.py",
        "bulkcert/providers/call.py",
        "bulkcert/providers/clock.py",
        "bulkcert/providers/decoding.py",
        "bulkcert/providers/freshness.py",
        "bulkcert/providers/masking.py",
        "bulkcert/providers/wire.py",
        "urllib/",
    ),
    "pacing": ("bulkcert/ratelimit.py", "bulkcert/slots.py", "aiolimiter/", "asyncio/locks.py"),
    "sending, connections, time-outs": ("bulkcert/providers/",),
    "dispatch, lifecycle, circuit breaker": (
        "bulkcert/dispatch.py",
        "bulkcert/history.py",
        "bulkcert/ready_slots.py",
        "bulkcert/taskqueue.py",
        "bulkcert/lifecycle.py",
        "bulkcert/circuit_breaker.py",
    ),
    "the baseline's own code": ("benchmarks/baseline.py",),
    "event loop": ("asyncio/", "selectors.py", "weakref"),
}
REST = "the rest"


def run(settings: Settings) -> Iterator[Row]:
    """Measure both programs in alternation, then sample each once.

    Raises:
        MissingError: py-spy or nginx is not installed.
    """
    beside_python = str(Path(sys.executable).parent)
    sampler = shutil.which("py-spy", path=beside_python) or shutil.which("py-spy")
    if sampler is None:
        raise MissingError("py-spy is not installed")
    n, rounds = (50_000, 5) if settings.full else (10_000, 3)
    with enos_scenario(n, tls=True) as scenario:
        commands = {"bulkcert": _bulkcert, "baseline": baseline_command}

        def run_program(label: str, *before: str | Path) -> Usage:
            command = [*before, *commands[label](scenario)]
            # a plan is carried out once, so each run is by another user
            env = {
                **workload.environment(),
                "XDG_STATE_HOME": tempfile.mkdtemp(dir=scenario.folder),
            }
            return measure(command, env=env, cwd=scenario.folder, limit_s=LIMIT_S)

        measured = Rounds({label: partial(run_program, label) for label in commands}, rounds)
        for label in commands:
            samples = scenario.folder / "samples"
            options = ["record", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND)]
            run_program(label, sampler, *options, "--output", samples, "--")
            parts = count_parts(samples.read_text())
            cpu_us = measured.cpu_s(label) / n * 1e6
            shares = {
                part: parts[part] / parts.total() * cpu_us for part in (*ANYWHERE, *INNERMOST, REST)
            }
            yield Row(label, n, {**shares, "total": cpu_us, "rounds": rounds})


def count_parts(samples: str) -> Counter[str]:
    """Count the samples of each part.

    Args:
        samples: py-spy's raw format; each line is a stack, outermost frame first, and a count.
    """
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


def _bulkcert(scenario: Scenario) -> list[str | Path]:
    run_dir = Path(tempfile.mkdtemp(dir=scenario.folder))
    return workload.run_command(scenario.job, run_dir)
