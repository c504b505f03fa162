"""What the acceptance tests share: a simulator on a good day, and scenes beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Scene, SimulatorProcess

_numbers = itertools.count(1)

SceneMaker = Callable[..., Scene]


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """A simulator without faults, for all tests that need no particular one."""
    folder = tmp_path_factory.mktemp("simulator")
    with SimulatorProcess(folder / "ledger.jsonl", latency=0.002) as process:
        yield process


@pytest.fixture
def make_scene(tmp_path: Path, simulator: SimulatorProcess) -> SceneMaker:
    """Make a scene beside the shared simulator, or beside another, with devices of its own."""

    def make(targets: int = 60, beside: SimulatorProcess | None = None) -> Scene:
        folder = tmp_path / f"scene{next(_numbers)}"
        folder.mkdir()
        return Scene(folder, beside or simulator, targets=targets, prefix=f"S{next(_numbers)}-")

    return make


@pytest.fixture
def scene(make_scene: SceneMaker) -> Scene:
    """A scene with sixty devices."""
    return make_scene()
