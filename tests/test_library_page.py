"""docs/library.md and the examples in Python: their code runs, and a strict type checker agrees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from code_blocks import awaits, python_blocks, run_block
from job_folder import toml, write_csv
from processes import SimulatorProcess

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/library.md"
EXAMPLES = [ROOT / "examples/own_progress.py"]  # notebook.py awaits at the top level
DEVICES = 5

pytestmark = pytest.mark.system


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The job of the page, for a simulator that has all devices but the last."""
    rows = [(f"A{number}", 1000 + number) for number in range(1, DEVICES + 1)]
    write_csv(tmp_path / "devices.csv", rows)
    (tmp_path / "bad.csv").write_text("assetId,certSn\nA1,one\n")
    fleet = write_csv(tmp_path / "fleet.csv", rows[:-1])
    with SimulatorProcess(tmp_path / "ledger.jsonl", files={"fleet": fleet}) as simulator:
        job: dict[str, Any] = {
            "provider": "enos",
            "action": "revoke",
            "targets": "devices.csv",
            "connection": {"endpoint": simulator.endpoint, "org_id": "o1"},
        }
        (tmp_path / "revoke.toml").write_text(toml(job))
        monkeypatch.chdir(tmp_path)
        for name, value in simulator.credentials.items():
            monkeypatch.setenv(name, value)
        yield tmp_path


def test_its_code_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in python_blocks(PAGE):
        if "with bulkcert.Run(job) " in block:
            # or there would be nothing left to do, and a plan is carried out once
            for path in ("runs", os.environ["XDG_STATE_HOME"]):
                shutil.rmtree(path, ignore_errors=True)
        run_block(block, names)
    out = capsys.readouterr().out
    assert f"{DEVICES - 1} of {DEVICES}, exit code 1" in out
    assert "line 2: certSn" in out
    assert "A5 failed: 11404" in out
    names["test_refused_devices_are_returned"]()
    assert (folder / "runs/revoke-rehearsal").exists()


@pytest.mark.slow
def test_a_strict_type_checker_accepts_it(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text("\n".join(block for block in python_blocks(PAGE) if not awaits(block)))
    cache = f"--cache-dir={ROOT}/.mypy_cache/page"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", cache, page, *EXAMPLES]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    page.write_text("import bulkcert\nbulkcert.load_job(5)\nbulkcert.nonsense\n")
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.count("error:") == 2
