"""What `bulkcert` needs of the operating system and of SQLite, and what it says without."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bulkcert.cli import main
from bulkcert.store.sqlite import MINIMUM_SQLITE

JOB = Path(__file__).parents[1] / "jobs" / "renew.toml"

WINDOWS = """
import sys
import click, click._compat, click.testing

sys.platform = "win32"
sys.modules["fcntl"] = sys.modules["resource"] = None  # importing them fails
from bulkcert.cli import main

main()
"""


@pytest.mark.system
@pytest.mark.parametrize("words", [["run", "job.toml"], ["plan", "-h"], ["simulate"]])
def test_windows_gets_a_clear_message(words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    problem, next_step = done.stderr.splitlines()
    assert problem == "Error: bulkcert does not run on Windows."
    assert "Linux" in next_step
    assert "macOS" in next_step


def test_the_oldest_supported_sqlite_is_the_first_with_update_from() -> None:
    assert MINIMUM_SQLITE == (3, 33, 0)


@pytest.mark.parametrize(
    ("command", "options"), [("plan", []), ("run", ["--yes"])], ids=["plan", "run"]
)
def test_an_sqlite_that_is_too_old_is_named_before_anything_is_planned(
    command: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 3))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.32.3")
    ended = _invoke(command, *options, folder=tmp_path, monkeypatch=monkeypatch)
    assert ended.exit_code == 2
    assert "Error: The SQLite library of this Python is 3.32.3" in ended.stderr
    assert "needs 3.33.0 or newer" in ended.stderr
    assert not list(tmp_path.rglob("checkpoint*"))


def test_a_run_directory_is_not_read_with_an_sqlite_that_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.sqlite3").touch()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 3))
    ended = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert ended.exit_code == 2
    assert "The SQLite library of this Python" in ended.stderr


def test_an_sqlite_of_the_oldest_supported_version_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", MINIMUM_SQLITE)
    assert _invoke("plan", folder=tmp_path, monkeypatch=monkeypatch).exit_code == 0


def test_an_sqlite_without_json_functions_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def without_json(*arguments: Any, **options: Any) -> sqlite3.Connection:
        def authorize(action: int, _: str | None, function: str | None, *more: object) -> int:
            denied = action == sqlite3.SQLITE_FUNCTION and str(function).startswith("json")
            return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

        db = connect(*arguments, **options)
        db.set_authorizer(authorize)
        return db

    monkeypatch.setattr(sqlite3, "connect", without_json)
    ended = _invoke("plan", folder=tmp_path, monkeypatch=monkeypatch)
    assert ended.exit_code == 2
    assert "without the JSON functions" in ended.stderr


def _invoke(command: str, *options: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call a command with a good job, in an empty folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENOS_APP_KEY", "key")
    monkeypatch.setenv("ENOS_APP_SECRET", "secret")
    return CliRunner().invoke(main, [command, str(JOB), *options])
