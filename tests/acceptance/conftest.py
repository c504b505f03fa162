"""Fixtures of the acceptance tests: a simulator without faults, and scenes that use it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from processes import Scene, SimulatorProcess, devices, staged, write_csv

MOST_SCENES = 200
TARGETS = 60
_numbers = itertools.count()

Stage = Callable[..., AbstractContextManager[Scene]]
"""Sets up a scene with a simulator of its own; takes the arguments of `processes.staged`."""


def _prefix(number: int) -> str:
    return f"S{number}-"


def _new_scene(folder: Path, simulator: SimulatorProcess) -> Scene:
    number = next(_numbers)
    assert number < MOST_SCENES
    return Scene(folder, simulator, targets=TARGETS, prefix=_prefix(number))


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """A simulator without faults, shared by all tests that need no particular behaviour."""
    folder = tmp_path_factory.mktemp("simulator")
    rows = (row for n in range(MOST_SCENES) for row in devices(TARGETS, _prefix(n)))
    fleet = write_csv(folder / "fleet.csv", rows)
    with SimulatorProcess(
        folder / "ledger.jsonl", files={"fleet": fleet}, latency=0.002
    ) as process:
        yield process


@pytest.fixture
def scene(tmp_path: Path, simulator: SimulatorProcess) -> Scene:
    """A scene with sixty devices and the shared simulator."""
    return _new_scene(tmp_path, simulator)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> Scene:
    """A scene with a finished run, for tests that only read it."""
    scene = _new_scene(tmp_path_factory.mktemp("finished"), simulator)
    scene.run()
    scene.later = simulator.requests
    return scene


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorProcess) -> Scene:
    """A scene with a finished run of three operations; the second failed.

    It names a certificate that the device does not have.
    """
    scene = _new_scene(tmp_path_factory.mktemp("mixed"), simulator)
    scene.write_rows([(scene.device(0), 1000), (scene.device(0), 9999), (scene.device(1), 1001)])
    scene.run()
    scene.later = simulator.requests
    return scene


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Set up a scene with a simulator of its own."""
    return partial(staged, tmp_path)
