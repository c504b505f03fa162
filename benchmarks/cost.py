"""CPU per operation without a ceiling, compared with a bare aiohttp loop.

Both sides revoke the same certificates through nginx with fixed responses. The baseline
(`baseline.py`) signs, posts and parses, and keeps no state. CPU and elapsed time cover each process
from start to exit.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks import nginx, workload
from benchmarks.alternating import Rounds
from benchmarks.processes import ProgramError, Usage, measure
from benchmarks.results import Row, Settings
from bulkcert.jobfile import load_job
from bulkcert.run import Run

IN_FLIGHT = 64
LIMIT_S = 300.0

_numbers = itertools.count()


def run(settings: Settings) -> Iterator[Row]:
    """Measure `bulkcert run` and the baseline in alternation."""
    n, rounds = (50_000, 5) if settings.full else (5_000, 3)
    with enos_scenario(n) as (folder, targets, job, endpoint):
        measured = Rounds(
            {
                "bulkcert": lambda: bulkcert_run(folder, job, n),
                "baseline": lambda: module_run(
                    "baseline", targets, endpoint, IN_FLIGHT, expect_done=n
                ),
            },
            rounds,
        )
    yield Row(
        f"EnOS revoke, {IN_FLIGHT} in flight",
        n,
        {
            "bulkcert, µs CPU per operation": measured.cpu_s("bulkcert") / n * 1e6,
            "baseline, µs CPU per operation": measured.cpu_s("baseline") / n * 1e6,
            "CPU, bulkcert ÷ baseline": measured.cpu_ratio("bulkcert", "baseline"),
            "range of that ratio": measured.cpu_ratio_range("bulkcert", "baseline"),
            "bulkcert, operations per second of CPU": n / measured.cpu_s("bulkcert"),
            "bulkcert, operations/s": n / measured.elapsed_s("bulkcert"),
            "baseline, operations/s": n / measured.elapsed_s("baseline"),
            "rounds": rounds,
        },
    )


class Scenario(NamedTuple):
    """A job with its targets in a scratch folder, and the endpoint of its server."""

    folder: Path
    targets: Path
    job: Path
    endpoint: str


@contextmanager
def enos_scenario(n: int) -> Iterator[Scenario]:
    """Set up a job that revokes `n` certificates, served by nginx for the length of the block.

    Raises:
        MissingError: nginx is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with nginx.serving(folder) as endpoint:
            targets = workload.enos_targets(folder / "enos.csv", n)
            job = workload.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)
            yield Scenario(folder, targets, job, endpoint)


def bulkcert_run(
    folder: Path,
    job: Path,
    n: int,
    *,
    program: Sequence[str | Path] = workload.BULKCERT,
    env: Mapping[str, str] | None = None,
    sending_only: bool = False,
    planned: bool = False,
    options: Sequence[str] = (),
) -> Usage:
    """Run a job to its end in a fresh run directory and check that every operation succeeded.

    Args:
        folder: where to make the run directory.
        job: the job file.
        n: the number of operations that must succeed.
        program: what to run instead of this checkout's `bulkcert`.
        env: its environment; by default `workload.environment()`.
        sending_only: leave start-up and planning out of the elapsed time.
        planned: plan it beforehand, in this process, so that planning is not measured.
        options: of `bulkcert run`, besides those that every run has.

    Raises:
        ProgramError: the run failed, or not every operation succeeded.
    """
    run_dir = folder / f"run-{next(_numbers)}"
    if planned:
        with Run(load_job(job), run_dir):
            pass
    # a plan is carried out once, so each run is by another user
    state = {"XDG_STATE_HOME": str(folder / f"state-of-{run_dir.name}")}
    usage = measure(
        [*workload.run_command(job, run_dir, program), *options],
        env={**(env or workload.environment()), **state},
        cwd=folder,
        limit_s=LIMIT_S,
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    shutil.rmtree(run_dir)
    if summary["succeeded"] != n:
        raise ProgramError(f"{summary['succeeded']} of {n} operations succeeded")
    return replace(usage, elapsed_s=summary["elapsed_seconds"]) if sending_only else usage


def module_run(module: str, *arguments: str | Path | int, expect_done: int) -> Usage:
    """Run a module of this package and check that every call succeeded.

    The last line of its output is JSON: the number of calls that succeeded, or an object with that
    number (`done`) and the module's own measurement (`cpu_s`, `elapsed_s`), which then counts.

    Raises:
        ProgramError: it failed, or not every call succeeded.
    """
    usage = measure(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        env=workload.environment(),
        cwd=Path.cwd(),
        limit_s=LIMIT_S,
    )
    result = json.loads(usage.output.strip().splitlines()[-1])
    if isinstance(result, dict):
        usage = replace(usage, elapsed_s=result["elapsed_s"], cpu_s=result["cpu_s"])
        result = result["done"]
    if result != expect_done:
        raise ProgramError(f"{module}: {result} of {expect_done} calls succeeded")
    return usage
