"""Every sample job is planned, and rehearsed with the first of its targets, as a user would.

What the rehearsals of ApsaraMQ's sample jobs come to is looked at in `apsaramq`.
"""

from __future__ import annotations

from pathlib import Path

import history
import pytest
from click.testing import CliRunner
from history import Circumstances
from processes import bulkcert

from bulkcert import load_job
from bulkcert.cli import main

pytestmark = pytest.mark.system

JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.toml"))
REHEARSED = [job for job in JOBS if not job.name.startswith("apsaramq-")]
TARGETS = 12


def named(job: Path) -> str:
    return job.stem


def first_targets(job: Path, folder: Path) -> Path:
    """A target file with the first rows of the job's own."""
    source = load_job(job).targets
    assert source
    lines = source.read_text().splitlines(keepends=True)
    path = folder / source.name
    path.write_text("".join(lines[: TARGETS + 1]))
    return path


@pytest.mark.parametrize("job", JOBS, ids=named)
def test_it_can_be_planned(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(main, ["plan", str(job)])
    assert ended.exit_code == 0, ended.output
    assert "requests in any second" in ended.output
    assert "other columns" not in ended.output
    assert "keeps the old key" not in ended.output
    assert "********" in ended.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("job", REHEARSED, ids=named)
def test_it_can_be_rehearsed(job: Path, tmp_path: Path) -> None:
    targets, run_dir = first_targets(job, tmp_path), tmp_path / "rehearsal"
    ended = bulkcert(
        *("run", job, "--rehearse", "--run-dir", run_dir, "--targets", targets), folder=tmp_path
    )
    assert ended.code == 0, ended.err
    assert "This was a rehearsal" in ended.err
    found = history.read(job, run_dir, run_dir / "ledger.jsonl", targets=targets)
    assert history.check(found, Circumstances()) == []
    assert found.results
    assert [result["line"] for result in found.results] == list(range(2, TARGETS + 2))
    assert {result["outcome"] for result in found.results} == {"succeeded"}
    action = found.job["action"]
    executed = sum(entry["executed"] for entry in found.ledger)
    assert executed == (0 if action == "list" else TARGETS)
    keys = list(run_dir.glob("keys/*.key.pem"))
    assert len(keys) == (TARGETS if "keys" in found.job else 0)
