"""What `run` shows before it continues a run: where the waves are, and which abort it overrides.

The run itself does not begin: the plan that `--plan` names is another one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from campaign_run import TARGETS, settle, store_of
from click.testing import CliRunner
from job_folder import devices, toml, write_csv

from bulkcert import load_job
from bulkcert.cli import main
from bulkcert.preparation import prepare
from bulkcert.rules.gate import Standing
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Abort


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run of two waves, in the middle of the second one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ENOS_APP_KEY", "key")
    monkeypatch.setenv("ENOS_APP_SECRET", "secret")
    write_csv(tmp_path / "targets.csv", devices(TARGETS))
    document = {"provider": "enos", "action": "revoke", "targets": "targets.csv"}
    connection = {"endpoint": "https://example.com", "org_id": "o1"}
    job_file = tmp_path / "job.toml"
    job_file.write_text(
        toml(
            document | {"connection": connection, "rollout": {"canary": 2}, "abort": {"canary": 0}}
        )
    )
    with RunDirectory(tmp_path / "runs" / "job") as entered:
        prepare(load_job(job_file), entered)
    settle(entered, 1, 3)
    with store_of(entered) as store:
        store.set_standing(Standing(wave=1))
    return entered


def screen(*options: str) -> list[str]:
    """The lines that the command shows."""
    ended = CliRunner().invoke(main, ["run", "job.toml", "--plan", "0", *options])
    assert ended.exit_code == 2, ended.output
    assert "The plan is not the one that --plan names" in ended.stderr
    return [re.sub(r"^2[-\dT:.]+Z ", "", line) for line in ended.stderr.splitlines()]


def test_the_waves_show_how_far_it_is(directory: RunDirectory) -> None:
    lines = screen()
    at = lines.index("  waves          canary  2  done       2 succeeded")
    assert lines[at + 1] == "                 rest    4  under way  1 succeeded, 3 pending"


def test_an_override_is_announced_with_the_abort_and_the_reason(directory: RunDirectory) -> None:
    with store_of(directory) as store:
        store.add_abort(Abort("2aa1bd", 1e9, "failed", "11 of the last 500 failed"))
    override = ("--override", "2aa1bd", "--why", "they are on loan")
    lines = screen(*override)
    at = lines.index("  overriding     abort 2aa1bd: 11 of the last 500 failed")
    assert lines[at + 1] == "  because        they are on loan"
    event = json.loads(screen(*override, "--log-format", "json")[0])
    assert (event["overriding"], event["why"]) == ("2aa1bd", "they are on loan")
