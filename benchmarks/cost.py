"""Cost per operation with no ceiling, against what others take for the same requests.

    bare loop     benchmarks/floor.py: signs, posts and parses, and keeps nothing
    SDK           ApsaraMQ's official one, in threads and as coroutines
    parallel      GNU parallel with curl and a joblog: one process for each request, unsigned

The server is nginx with a fixed answer. CPU is everything from the start of the process to its
end; for the SDK the calls alone, which is in its favour. Operations/s are taken likewise, but
against the SDK only while requests are sent and recorded, on both sides.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks import nginx, work
from benchmarks.nginx import MissingError
from benchmarks.pairs import Rounds
from benchmarks.processes import ProgramError, Usage, measure
from benchmarks.results import Row, Settings

IN_FLIGHT = 64
SDK_THREADS = 16
LIMIT_S = 300.0

_numbers = itertools.count()


def run(settings: Settings) -> Iterator[Row]:
    """Measure each of them side by side with `bulkcert run`."""
    rounds = 5 if settings.full else 3
    with enos_scene(n := 50_000 if settings.full else 5_000) as scene:
        yield _bare_loop(scene, n, rounds)
        n = 5_000 if settings.full else 2_000
        for part in (_sdk, _parallel):
            try:
                yield from part(scene.folder, scene.endpoint, n, rounds, full=settings.full)
            except MissingError as reason:
                print(f"  left out: {reason}", flush=True)


class Scene(NamedTuple):
    """A job with its targets in a scratch folder, and what answers to it."""

    folder: Path
    targets: Path
    job: Path
    endpoint: str


@contextmanager
def enos_scene(n: int) -> Iterator[Scene]:
    """A revocation of so many devices, answered by nginx.

    Raises:
        MissingError: nginx is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with nginx.serving(folder) as endpoint:
            targets = work.enos_targets(folder / "enos.csv", n)
            job = work.enos_job(folder, targets, endpoint, in_flight=IN_FLIGHT)
            yield Scene(folder, targets, job, endpoint)


def bulkcert_run(
    folder: Path,
    job: Path,
    n: int,
    *,
    program: list[str] | None = None,
    sending_only: bool = False,
) -> Usage:
    """Run a job to its end in a fresh run directory, and check that everything succeeded.

    Args:
        folder: for the run directory.
        job: the job file.
        n: how many operations must succeed.
        program: what to run instead of `bulkcert`.
        sending_only: take the time on the wall without start and planning.
    """
    run_dir = folder / f"run-{next(_numbers)}"
    usage = measure(
        [*(program or work.BULKCERT), "run", job, "--run-dir", run_dir, "--yes", "--no-progress"],
        env=work.environment(),
        cwd=folder,
        limit_s=LIMIT_S,
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    shutil.rmtree(run_dir)
    if summary["succeeded"] != n:
        raise ProgramError(f"only {summary['succeeded']} of {n} succeeded")
    return replace(usage, wall_s=summary["elapsed_seconds"]) if sending_only else usage


def _bare_loop(scene: Scene, n: int, rounds: int) -> Row:
    measured = Rounds(
        {
            "bulkcert": lambda: bulkcert_run(scene.folder, scene.job, n),
            "bare": lambda: _python("floor", scene.targets, scene.endpoint, IN_FLIGHT, done=n),
        },
        rounds,
    )
    return Row(
        "bare loop",
        f"`bulkcert run`, EnOS revoke, {IN_FLIGHT} in flight, against a bare aiohttp loop",
        n,
        {
            "bulkcert, µs CPU per operation": measured.cpu_s("bulkcert") / n * 1e6,
            "bulkcert, operations per second of CPU": n / measured.cpu_s("bulkcert"),
            "bare loop, µs": measured.cpu_s("bare") / n * 1e6,
            "ratio of CPU": measured.cpu_ratio("bulkcert", "bare"),
            "from and to": measured.cpu_ratio_range("bulkcert", "bare"),
            "bulkcert, operations/s": n / measured.wall_s("bulkcert"),
            "bare loop, operations/s": n / measured.wall_s("bare"),
            "rounds": rounds,
        },
    )


def _sdk(folder: Path, endpoint: str, n: int, rounds: int, *, full: bool) -> Iterator[Row]:
    if importlib.util.find_spec("alibabacloud_onsmqtt20200420") is None:
        raise MissingError("the package alibabacloud_onsmqtt20200420 is not installed")
    certificate, key = nginx.self_signed(folder)
    with nginx.serving(folder, tls=(certificate, key)) as secure:
        for url, ca_file in ((endpoint, None), (secure, certificate)):
            calls = 500 if full and ca_file is None else 100
            few = work.apsaramq_targets(folder / "few.csv", calls)
            for how, label in (
                ("threads", f"in {SDK_THREADS} threads"),
                ("async", "as coroutines"),
            ):

                def sdk(
                    how: str = how,
                    few: Path = few,
                    url: str = url,
                    calls: int = calls,
                    ca: tuple[Path, ...] = (ca_file,) if ca_file else (),
                ) -> Usage:
                    return _python("sdk", how, few, url, SDK_THREADS, *ca, done=calls)

                scheme = url.partition(":")[0]
                what = f"the SDK {label}, {scheme}"
                yield _against(
                    folder, url, n, rounds, f"SDK, {how}, {scheme}", what, sdk, calls, ca_file
                )


def _parallel(folder: Path, endpoint: str, n: int, rounds: int, *, full: bool) -> Iterator[Row]:
    for program in ("parallel", "curl"):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not installed")
    calls = 300
    arguments = folder / "serials.txt"
    arguments.write_text("".join(f"{number:032x}\n" for number in range(calls)))
    url = f"{endpoint}/?Action=InactivateDeviceCertificate&CaSn=00f26900ba87c3ef&DeviceSn={{}}"

    def parallel() -> Usage:
        log = folder / f"joblog-{next(_numbers)}"
        usage = measure(
            # --plain: whatever a user has set up for himself
            [
                *("parallel", "--plain", "--will-cite", "-j", str(SDK_THREADS)),
                *("--joblog", log, "-a", arguments),
                *("curl", "-sS", "-o", "/dev/null", "-X", "POST", f"'{url}'"),
            ],
            env=work.environment() | {"HOME": str(folder)},
            cwd=folder,
            limit_s=LIMIT_S,
        )
        ended_well = sum(line.split("\t")[6] == "0" for line in log.read_text().splitlines()[1:])
        if ended_well != calls:
            raise ProgramError(f"only {ended_well} of {calls} calls of curl went well")
        return usage

    what = f"GNU parallel with {SDK_THREADS} times curl and a joblog"
    yield _against(folder, endpoint, n, rounds, "parallel", what, parallel, calls)


def _against(
    folder: Path,
    endpoint: str,
    n: int,
    rounds: int,
    key: str,
    what: str,
    other: Callable[[], Usage],
    calls: int,
    ca_file: Path | None = None,
) -> Row:
    targets = work.apsaramq_targets(folder / "apsaramq.csv", n)
    job = work.apsaramq_job(folder, targets, endpoint, in_flight=IN_FLIGHT, ca_file=ca_file)

    def per_operation(usage: Usage, operations: int) -> Usage:
        return replace(usage, cpu_s=usage.cpu_s / operations, wall_s=usage.wall_s / operations)

    measured = Rounds(
        {
            "bulkcert": lambda: per_operation(
                bulkcert_run(folder, job, n, sending_only=key != "parallel"), n
            ),
            "other": lambda: per_operation(other(), calls),
        },
        rounds,
    )
    return Row(
        key,
        f"`bulkcert run`, ApsaraMQ inactivate, {IN_FLIGHT} in flight, against {what}"
        f" ({calls:,} calls)",
        n,
        {
            "bulkcert, operations/s": 1 / measured.wall_s("bulkcert"),
            "other, operations/s": 1 / measured.wall_s("other"),
            "throughput, times the other's": measured.wall_ratio("other", "bulkcert"),
            "bulkcert, µs CPU per operation": measured.cpu_s("bulkcert") * 1e6,
            "other, µs": measured.cpu_s("other") * 1e6,
            "other's CPU, times bulkcert's": measured.cpu_ratio("other", "bulkcert"),
            "rounds": rounds,
        },
    )


def _python(module: str, *arguments: str | Path | int, done: int) -> Usage:
    """Run a module of this package; what it prints is how many went well, or that and its usage."""
    usage = measure(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        env=work.environment(),
        cwd=Path.cwd(),
        limit_s=LIMIT_S,
    )
    said = json.loads(usage.output.strip().splitlines()[-1])
    if isinstance(said, dict):
        usage = replace(usage, wall_s=said["wall_s"], cpu_s=said["cpu_s"])
        said = said["done"]
    if said != done:
        raise ProgramError(f"{module}: only {said} of {done} went well")
    return usage
