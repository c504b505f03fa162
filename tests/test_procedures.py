"""docs/incident.md and docs/drill.md: the job files on them can be planned as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from code_blocks import job_files
from job_folder import write_csv

from bulkcert.cli import main

ROOT = Path(__file__).parents[1]
JOBS = {
    name: text
    for page in ("incident.md", "drill.md")
    for name, text in job_files(ROOT / "docs" / page).items()
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an incident, with the files that the jobs name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    pumps = [f"pump-{number:04}" for number in range(300)]
    write_csv(tmp_path / "devices.csv", [(pump,) for pump in pumps], "assetId")
    write_csv(
        tmp_path / "affected.csv",
        [(pump, 1000 + number, "2027-08-17T14:36:13Z") for number, pump in enumerate(pumps)],
        "assetId,certSn,expires",
    )
    write_csv(tmp_path / "never-touch.csv", [("ward-*", "Dr. Chen")], "assetId,owner")
    (tmp_path / "approvers").write_bytes((ROOT / "jobs/approvers").read_bytes())
    for name in ("fleet-ok.sh", "to-chat.sh"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_pages_have_job_files() -> None:
    assert {"list.toml", "revoke.toml"} <= set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_can_be_planned(folder: Path, name: str) -> None:
    (folder / name).write_text(JOBS[name])
    ended = CliRunner().invoke(main, ["plan", name])
    assert ended.exit_code == 0, ended.output


def test_the_job_becomes_a_rotation_as_the_page_says(folder: Path) -> None:
    revoke = 'action = "revoke"'
    assert revoke in JOBS["revoke.toml"]
    keys = '\n[keys]\ngenerate = "ecdsa-p256"\n'
    (folder / "rotate.toml").write_text(
        JOBS["revoke.toml"].replace(revoke, 'action = "rotate"') + keys
    )
    ended = CliRunner().invoke(main, ["plan", "rotate.toml"])
    assert ended.exit_code == 0, ended.output
