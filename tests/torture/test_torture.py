"""A short torture run: a few seeds that contain everything that can end a process."""

from __future__ import annotations

from pathlib import Path

import preload
import pytest
from scenarios import KINDS, Scenario, scenario_of
from torture import carry_out

SHORT = ((130, "renew"), (33, "revoke"), (146, "revoke_selected"), (142, "inactivate"))
"""Seeds, each limited to one kind of job."""


@pytest.mark.system
@pytest.mark.parametrize(("seed", "kind"), SHORT)
def test_runs_of_a_few_seeds_keep_all_promises(seed: int, kind: str, tmp_path: Path) -> None:
    scenario = scenario_of(seed, [kind])
    folder = tmp_path / "scenario"
    folder.mkdir()
    report = carry_out(scenario, folder, preload.built("shifted_clock", tmp_path))
    assert report.violations == [], scenario


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_makes_the_same_scenario(kind: str) -> None:
    def all_of(scenario: Scenario) -> dict[str, object]:
        return vars(scenario)

    assert all(
        all_of(scenario_of(seed, [kind])) == all_of(scenario_of(seed, [kind])) for seed in range(20)
    )


def test_different_seeds_make_different_scenarios() -> None:
    assert len({str(scenario_of(seed)) for seed in range(100)}) > 95
