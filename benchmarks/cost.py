"""CPU per operation without a ceiling, compared with a bare aiohttp loop.

Both sides revoke the same certificates through nginx with fixed responses, with TLS and without.
The baseline (`baseline.py`) signs, posts and parses, and keeps no state. CPU covers each process
from start to exit. Each round has a long and a short run of both programs; the short one is
subtracted, so that starting, and what else does not grow with the number of operations, drops out.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
SHORT = 1_000
"""Operations of the run that is subtracted. By then all connections are open."""

_numbers = itertools.count()


def run(settings: Settings) -> Iterator[Row]:
    """Measure `bulkcert run` and the baseline in alternation."""
    n, rounds = (20_000, 7) if settings.full else (5_000, 3)
    for tls in (True, False):
        with enos_scenario(n, tls=tls) as long, enos_scenario(SHORT, tls=tls) as short:
            programs = {
                f"{name} {scenario.n}": partial(program, scenario)
                for scenario in (long, short)
                for name, program in (("bulkcert", _bulkcert), ("baseline", _baseline))
            }
            measured = Rounds(programs, rounds)
        yield _row(f"EnOS revoke, {'https' if tls else 'http'}", n, measured, rounds)


def _row(label: str, n: int, measured: Rounds, rounds: int) -> Row:
    def grows_by_s(program: str) -> list[float]:
        """CPU seconds per operation in each round."""
        return [
            (usage[f"{program} {n}"].cpu_s - usage[f"{program} {SHORT}"].cpu_s) / (n - SHORT)
            for usage in measured.usages
        ]

    bulkcert, baseline = grows_by_s("bulkcert"), grows_by_s("baseline")
    ratios = [ours / theirs for ours, theirs in zip(bulkcert, baseline, strict=True)]
    whole = measured.cpu_ratio(f"bulkcert {n}", f"baseline {n}")
    short_s = {name: measured.cpu_s(f"{name} {SHORT}") for name in ("bulkcert", "baseline")}
    return Row(
        label,
        n,
        {
            "bulkcert, µs CPU per operation": statistics.median(bulkcert) * 1e6,
            "baseline, µs CPU per operation": statistics.median(baseline) * 1e6,
            "CPU, bulkcert ÷ baseline": statistics.median(ratios),
            "range of that ratio": f"{min(ratios):.2f} to {max(ratios):.2f}",
            "that ratio, with the start": whole,
            "bulkcert, ms CPU to start": 1e3 * (short_s["bulkcert"] - SHORT * min(bulkcert)),
            "baseline, ms CPU to start": 1e3 * (short_s["baseline"] - SHORT * min(baseline)),
            "bulkcert, operations/s": n / measured.elapsed_s(f"bulkcert {n}"),
            "baseline, operations/s": n / measured.elapsed_s(f"baseline {n}"),
            "rounds": rounds,
        },
    )


class Scenario(NamedTuple):
    """A job with its targets in a scratch folder, and the endpoint of its server.

    Attributes:
        n: number of targets.
        folder, targets, job, endpoint: what the name says.
        ca_file: the certificate of the server; None without TLS.
    """

    n: int
    folder: Path
    targets: Path
    job: Path
    endpoint: str
    ca_file: Path | None


@contextmanager
def enos_scenario(n: int, *, tls: bool = False) -> Iterator[Scenario]:
    """Set up a job that revokes `n` certificates, served by nginx for the length of the block.

    Raises:
        MissingError: nginx is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        certificate = nginx.self_signed(folder) if tls else None
        ca_file = certificate[0] if certificate else None
        with nginx.serving(folder, tls=certificate) as endpoint:
            targets = workload.enos_targets(folder / "enos.csv", n)
            job = workload.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT, ca_file=ca_file)
            yield Scenario(n, folder, targets, job, endpoint, ca_file)


def baseline_command(scenario: Scenario) -> list[str | Path]:
    """Return the command of the baseline."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.baseline"]
    command += [scenario.targets, scenario.endpoint, str(IN_FLIGHT)]
    return command if scenario.ca_file is None else [*command, scenario.ca_file]


def _bulkcert(scenario: Scenario) -> Usage:
    return bulkcert_run(scenario.folder, scenario.job, scenario.n)


def _baseline(scenario: Scenario) -> Usage:
    return _checked(baseline_command(scenario), "the baseline", scenario.n)


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
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return _checked(command, module, expect_done)


def _checked(command: Sequence[str | Path], name: str, expect_done: int) -> Usage:
    usage = measure(command, env=workload.environment(), cwd=Path.cwd(), limit_s=LIMIT_S)
    result = json.loads(usage.output.strip().splitlines()[-1])
    if isinstance(result, dict):
        usage = replace(usage, elapsed_s=result["elapsed_s"], cpu_s=result["cpu_s"])
        result = result["done"]
    if result != expect_done:
        raise ProgramError(f"{name}: {result} of {expect_done} calls succeeded")
    return usage
