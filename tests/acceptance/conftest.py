"""Fixtures of the acceptance tests: a simulator without faults, and jobs that use it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from enos_vendor import ENOS
from harness import JobWith, ProcessJob, as_a_process
from job_folder import Row, write_json_lines
from processes import SimulatorProcess

MOST_JOBS = 200
TARGETS = 60
_numbers = itertools.count()


def _devices(job: int | str, count: int = TARGETS) -> list[Row]:
    """The devices of one job: no two jobs share any."""
    return [{"assetId": f"{job}-{number:04}", "certSn": 1000 + number} for number in range(count)]


def _new_job(folder: Path, simulator: SimulatorProcess) -> ProcessJob:
    number = next(_numbers)
    assert number < MOST_JOBS
    job = ProcessJob(folder, ENOS, "revoke", _devices(number), simulator)
    job.write(limits={"requests_per_second": 3000})
    return job


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """A simulator without faults, shared by all tests that need no particular behaviour."""
    folder = tmp_path_factory.mktemp("simulator")
    rows = (row for number in range(MOST_JOBS) for row in _devices(number))
    fleet = write_json_lines(folder / "fleet.jsonl", rows)
    with SimulatorProcess(
        folder / "ledger.jsonl", files={"fleet": fleet}, latency=0.002
    ) as process:
        yield process


@pytest.fixture
def job(tmp_path: Path, simulator: SimulatorProcess) -> ProcessJob:
    """A job that revokes sixty devices at the shared simulator."""
    return _new_job(tmp_path, simulator)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> ProcessJob:
    """A finished job, for tests that only read it."""
    job = _new_job(tmp_path_factory.mktemp("finished"), simulator)
    job.run()
    job.later = simulator.requests
    return job


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> ProcessJob:
    """A finished job of three operations, of which the second failed.

    It names a certificate that the device does not have.
    """
    job = _new_job(tmp_path_factory.mktemp("mixed"), simulator)
    first, second = job.rows[:2]
    job.write_targets([first, first | {"certSn": 9999}, second])
    job.run()
    job.later = simulator.requests
    return job


@pytest.fixture
def job_with(tmp_path: Path) -> JobWith:
    """Set up a job and a simulator of its own."""

    def set_up(targets: int = TARGETS, **behaviour: Any) -> AbstractContextManager[ProcessJob]:
        return as_a_process(tmp_path, ENOS, "revoke", _devices("A", targets), **behaviour)

    return set_up
