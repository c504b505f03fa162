"""Starts a simulator on loopback for one rehearsal, with a fleet made from the job's own targets.

In: a prepared run. Out: the simulator's endpoint and credentials. The simulator is a process of its
own, so that it can use another processor. It watches its standard input, so it ends with this
process, however that ends.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from bulkcert.errors import BulkcertError, JobError
from bulkcert.job import Job
from bulkcert.providers.base import merged
from bulkcert.run import Run

FAULTS = {
    "seed": "1",
    "latency": "0.05",
    "latency-spread": "0.1",
    "error-before": "0.02",
    "error-after": "0.01",
    "cut-before": "0.002",
    "cut-after": "0.002",
    "page-before": "0.002",
    "page-after": "0.002",
}
LIMIT_SHARE = 1.1
"""The simulator's limit as a multiple of the ceiling. On a busy machine both processes pause now
and then, so requests that left evenly arrive in bursts. A rehearsal tests the job, not the machine.
"""

LEDGER = "ledger.jsonl"
"""File in the run directory with everything that the simulator received."""


def on_loopback(job: Job) -> Job:
    """Return the job with each of its source addresses replaced by a loopback address.

    Raises:
        JobError: the simulator does not stand in for the job's provider.
    """
    if not job.provider.simulated:
        raise JobError(
            f"A job for {job.provider.name} can't be rehearsed: the simulator of bulkcert does not"
            " stand in for this provider.",
            "Check the job with `bulkcert plan`, and try it with a few targets first.",
        )
    own = job.connection.source_addresses
    addresses = tuple(f"127.0.0.{number}" for number, _ in enumerate(own, start=2))
    return replace(job, connection=replace(job.connection, source_addresses=addresses))


@contextmanager
def simulator(run: Run) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a simulator for an entered run, and yield its endpoint and credentials.

    Raises:
        BulkcertError: the simulator did not start.
    """
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        fleet = Path(scratch) / "fleet.jsonl"
        _write_fleet(run, fleet)
        options = FAULTS | {
            "port": "0",
            "limit": _limit(run.job.limits.requests_per_second),
            "mq-source-limit": _limit(run.job.limits.requests_per_second_per_source_ip or 0.0),
            "fleet": str(fleet),
            "ledger": str(run.directory.path / LEDGER),
        }
        command = [sys.executable, "-m", "bulkcert", "simulate", "--stop-with-stdin"]
        for name, value in options.items():
            command += [f"--{name}", value]
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with our own arguments
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run, which still needs responses
        )
        with process:
            try:
                settings = _settings(process)
                yield settings.pop("ENDPOINT"), settings
            finally:
                with contextlib.suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.close()


def _limit(requests_per_second: float) -> str:
    return str(math.ceil(requests_per_second * LIMIT_SHARE))


def _write_fleet(run: Run, path: Path) -> None:
    with contextlib.closing(run.directory.reader()) as reader, path.open("wb") as file:
        for record in reader.records():
            fields = merged(run.job.parameters, record.fields)
            file.write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


def _settings(process: subprocess.Popen[str]) -> dict[str, str]:
    """Read the `NAME=value` lines that the simulator prints first."""
    assert process.stdout is not None
    settings: dict[str, str] = {}
    for line in process.stdout:
        name, _, value = line.strip().partition("=")
        if not value:
            break
        settings[name] = value
    if "ENDPOINT" not in settings:
        raise BulkcertError(
            "The simulator for the rehearsal did not start.",
            "Run `bulkcert simulate` to see why.",
        )
    return settings
