"""A simulator on loopback for one rehearsal, with a fleet made from the job's own targets.

It runs as a process of its own, so that it has a processor of its own, and ends with this one
however that ends: it watches its standard input.
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

from bulkcert.errors import BulkcertError
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
"""Limit of the simulator as a share of the ceiling. On a busy machine both ends pause now and then,
and what left evenly arrives crowded; a rehearsal is about the job, not about that."""
LEDGER = "ledger.jsonl"


def on_loopback(job: Job) -> Job:
    """The job as it is rehearsed: sent from as many addresses, but from ones of loopback."""
    own = job.connection.source_addresses
    addresses = tuple(f"127.0.0.{number}" for number, _ in enumerate(own, start=2))
    return replace(job, connection=replace(job.connection, source_addresses=addresses))


@contextmanager
def simulator(run: Run) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a simulator for a run that is prepared; yield its endpoint and its credentials."""
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
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with words of our own
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run, which still needs its answers
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
    """Read the `NAME=value` lines that the simulator begins with."""
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
            "Try `bulkcert simulate` by hand to see why.",
        )
    return settings
