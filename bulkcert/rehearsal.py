"""Starts a simulator on loopback for one rehearsal, with a fleet made from the job's own targets.

In: a prepared run. Out: the simulator's endpoint and credentials. The simulator is a process of its
own, so that it can use another processor. It watches its standard input, so it ends with this
process, however that ends.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from bulkcert.credentials import STAND_IN_PASSWORD
from bulkcert.errors import BulkcertError, JobError, TargetsRejectedError
from bulkcert.interpreter import python_command, python_environment
from bulkcert.job import Job
from bulkcert.model import Fields, Rejection
from bulkcert.providers.base import merged
from bulkcert.run import Run
from bulkcert.targets import TargetFile

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
    "throttle": "0.001",
}
BLOCK_S = "5"
"""How long an address over its limit is blocked. The vendor may block it for longer, but a
rehearsal only has to show that the run survives it."""

SETTLING_S = 1.0
"""The longest settling time of a rehearsal: the simulator executes at once or never."""

DAY_MS = 86_400_000

LEDGER = "ledger.jsonl"
"""File in the run directory with everything that the simulator received."""


def on_loopback(job: Job) -> Job:
    """Return the job with each source address replaced by a loopback address, and without proxy.

    A condition about a public key is met by every valid certificate: the simulator can't make one
    with a key of which only the digest is known.

    Raises:
        JobError: the simulator does not stand in for the job's provider.
    """
    if not job.provider.simulated:
        raise JobError(
            f"A job for {job.provider.name} can't be rehearsed: the simulator of bulkcert does not"
            " stand in for this provider.",
            "Check the job with `bulkcert plan`, and try it with a few targets first.",
        )
    settling_s = min(job.retry.settling_seconds, SETTLING_S)
    job = replace(job, retry=replace(job.retry, settling_seconds=settling_s))
    if "public_key" in job.select:
        others = {name: value for name, value in job.select.items() if name != "public_key"}
        job = replace(job, select={"status": "valid", **others})
    own = job.connection.source_addresses
    addresses = tuple(f"127.0.0.{number}" for number, _ in enumerate(own, start=2))
    return replace(job, connection=replace(job.connection, source_addresses=addresses, proxy=""))


@contextmanager
def simulator(run: Run) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a simulator for an entered run, and yield its endpoint and credentials.

    Raises:
        BulkcertError: the simulator did not start.
    """
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as scratch:
        fleet = Path(scratch) / "fleet.jsonl"
        with contextlib.closing(run.directory.reader()) as reader:
            _write_fleet(run.job, (record.fields for record in reader.records()), fleet)
        options = simulator_options(run.job, time.time()) | {
            "port": "0",
            "fleet": str(fleet),
            "ledger": str(run.directory.path / LEDGER),
        }
        command = python_command("bulkcert", "simulate", "--stop-with-stdin")
        for name, value in options.items():
            command += [f"--{name}", value]
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with our own arguments
            command,
            env=python_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run, which still needs responses
        )
        with process:
            try:
                settings = _settings(process) | dict.fromkeys(run.job.passwords, STAND_IN_PASSWORD)
                yield settings.pop("ENDPOINT"), settings
            finally:
                with contextlib.suppress(OSError):
                    assert process.stdin is not None
                    process.stdin.close()


def simulator_options(job: Job, now_s: float) -> dict[str, str]:
    """How the simulator of a rehearsal behaves: with faults, and exactly within the job's limits.

    Args:
        job: the job.
        now_s: Unix time.
    """
    dates = certificate_dates(job.select, now_s)
    return {
        **FAULTS,
        **{name.replace("_", "-"): str(n) for name, n in dates.items()},
        "limit": _limit(job.ceiling),
        "mq-limit-scope": "all",
        "mq-source-limit": _limit(job.limits.requests_per_second_per_source_ip),
        "mq-block-for": BLOCK_S,
    }


def _limit(requests_per_second: float | None) -> str:
    """The simulator's limit for one of the job's: the same, in whole requests."""
    if requests_per_second is None:
        return "0"  # none
    return str(max(1, math.floor(requests_per_second)))


def certificate_dates(select: Mapping[str, Any], now_s: float) -> dict[str, Any]:
    """Age and life of the fleet's certificates in days, such that the job's selection finds them.

    Args:
        select: the job's conditions.
        now_s: Unix time.
    """
    now_ms = now_s * 1000
    signed_ms = now_ms - 100.5 * DAY_MS
    if (before_ms := select.get("issued_before")) is not None:
        signed_ms = min(signed_ms, before_ms - DAY_MS)
    if (after_ms := select.get("issued_after")) is not None:
        signed_ms = min(max(signed_ms, after_ms), now_ms)
    age_days = (now_ms - signed_ms) / DAY_MS
    life_days = max(730, math.ceil(age_days) + 100)  # not expired
    if (within_days := select.get("expires_within_days")) is not None:
        life_days = math.floor(age_days) + (1 if within_days else 0)  # less than a day is left
    return {"certificate_age": age_days, "certificate_life": life_days}


def write_targets_as_fleet(job: Job, path: Path) -> None:
    """Read the targets of a job as the job does, and write a fleet file with them.

    Raises:
        TargetsError: the target file is unusable, or a row is bad.
    """
    targets = TargetFile.of(job)

    def fields() -> Iterator[Fields]:
        for target in targets:
            if isinstance(target, Rejection):
                problem = "The target file has a bad row."
                next_step = "`bulkcert plan` lists all of them."
                raise TargetsRejectedError(problem, next_step, first=(target,), total=1)
            yield target.fields

    _write_fleet(job, fields(), path)


def _write_fleet(job: Job, targets: Iterable[Fields], path: Path) -> None:
    with path.open("wb") as file:
        for fields in targets:
            row = merged(job.common, fields)
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


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
