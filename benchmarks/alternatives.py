"""CPU and throughput compared with what one would use instead of `bulkcert`.

    SDK           ApsaraMQ's official one, from threads and as coroutines
    GNU parallel  with curl and a job log: one process for each request, unsigned

The server is nginx with fixed responses. For the SDK, CPU covers the calls alone, without the start
of its program, which is in its favour; for the others it covers the process from start to exit.
Against the SDK, throughput on both sides is taken while requests are sent and recorded.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import nginx, workload
from benchmarks.alternating import Rounds
from benchmarks.cost import IN_FLIGHT, LIMIT_S, bulkcert_run, module_run
from benchmarks.processes import MissingError, ProgramError, Usage, measure
from benchmarks.results import Row, Settings

WORKERS = 16
PARALLEL_CALLS = 300

_numbers = itertools.count()


def run(settings: Settings) -> Iterator[Row]:
    """Measure each alternative and `bulkcert run` in alternation."""
    n, rounds = (5_000, 5) if settings.full else (2_000, 3)
    with tempfile.TemporaryDirectory(prefix="bulkcert-bench-") as name:
        folder = Path(name)
        with nginx.serving(folder) as endpoint:
            for part in (_sdk, _parallel):
                try:
                    yield from part(folder, endpoint, n, rounds, full=settings.full)
                except MissingError as error:
                    print(f"  skipped: {error}", flush=True)


def _sdk(folder: Path, endpoint: str, n: int, rounds: int, *, full: bool) -> Iterator[Row]:
    if importlib.util.find_spec("alibabacloud_onsmqtt20200420") is None:
        raise MissingError("the package alibabacloud_onsmqtt20200420 is not installed")
    certificate, key = nginx.self_signed(folder)
    with nginx.serving(folder, tls=(certificate, key)) as secure:
        for url, ca_file in ((endpoint, None), (secure, certificate)):
            calls = 500 if full and ca_file is None else 100
            targets = workload.apsaramq_targets(folder / "sdk.csv", calls)
            for style, label in (("threads", f"{WORKERS} threads"), ("async", "coroutines")):
                arguments: list[str | Path | int]
                arguments = [style, targets, url, WORKERS, *([ca_file] if ca_file else [])]

                def sdk(arguments: list[str | Path | int] = arguments, calls: int = calls) -> Usage:
                    return module_run("sdk", *arguments, expect_done=calls)

                label = f"SDK, {label}, {url.partition(':')[0]}"
                yield _compare(label, sdk, calls, folder, url, n, rounds, ca_file)


def _parallel(folder: Path, endpoint: str, n: int, rounds: int, *, full: bool) -> Iterator[Row]:
    for program in ("parallel", "curl"):
        if shutil.which(program) is None:
            raise MissingError(f"{program} is not installed")
    serials = folder / "serials.txt"
    serials.write_text("".join(f"{number:032x}\n" for number in range(PARALLEL_CALLS)))
    url = f"{endpoint}/?Action=InactivateDeviceCertificate&CaSn=00f26900ba87c3ef&DeviceSn={{}}"

    def parallel() -> Usage:
        job_log = folder / f"job-log-{next(_numbers)}"
        usage = measure(
            [
                # --plain: ignore the user's own configuration
                *("parallel", "--plain", "--will-cite", "-j", str(WORKERS)),
                *("--joblog", job_log, "-a", serials),
                *("curl", "-sS", "-o", "/dev/null", "-X", "POST", f"'{url}'"),
            ],
            env=workload.environment() | {"HOME": str(folder)},
            cwd=folder,
            limit_s=LIMIT_S,
        )
        exit_codes = [line.split("\t")[6] for line in job_log.read_text().splitlines()[1:]]
        if exit_codes.count("0") != PARALLEL_CALLS:
            raise ProgramError(f"{exit_codes.count('0')} of {PARALLEL_CALLS} calls succeeded")
        return usage

    yield _compare(
        "GNU parallel and curl",
        parallel,
        PARALLEL_CALLS,
        folder,
        endpoint,
        n,
        rounds,
        sending_only=False,
    )


def _compare(
    label: str,
    other: Callable[[], Usage],
    calls: int,
    folder: Path,
    endpoint: str,
    n: int,
    rounds: int,
    ca_file: Path | None = None,
    *,
    sending_only: bool = True,
) -> Row:
    targets = workload.apsaramq_targets(folder / "apsaramq.csv", n)
    job = workload.apsaramq_job(folder, targets, endpoint, in_flight=IN_FLIGHT, ca_file=ca_file)

    def per_operation(usage: Usage, operations: int) -> Usage:
        return replace(
            usage, cpu_s=usage.cpu_s / operations, elapsed_s=usage.elapsed_s / operations
        )

    measured = Rounds(
        {
            "bulkcert": lambda: per_operation(
                bulkcert_run(folder, job, n, sending_only=sending_only), n
            ),
            "other": lambda: per_operation(other(), calls),
        },
        rounds,
    )
    return Row(
        label,
        n,
        {
            "calls of the other": calls,
            "bulkcert, µs CPU per operation": measured.cpu_s("bulkcert") * 1e6,
            "other, µs CPU per operation": measured.cpu_s("other") * 1e6,
            "CPU, other ÷ bulkcert": measured.cpu_ratio("other", "bulkcert"),
            "bulkcert, operations/s": 1 / measured.elapsed_s("bulkcert"),
            "other, operations/s": 1 / measured.elapsed_s("other"),
            "throughput, bulkcert ÷ other": measured.elapsed_ratio("other", "bulkcert"),
            "rounds": rounds,
        },
    )
