"""An outside check beside a run: it goes on, waits, or ends as the command says.

The command is a script that reads what it has to say from files beside the job.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import ProcessJob
from processes import until

from bulkcert.report.summary import RESUMABLE

pytestmark = pytest.mark.system

STOPPED_BY_RULES = 4

SCRIPT = """\
#!/bin/sh
cat >> given.jsonl
env >> environment
echo $$ >> pids
cat says
[ -e hangs ] && sleep 1000
exit $(cat code)
"""


class CheckedJob:
    """A job of two waves with a check, and what its check says."""

    def __init__(self, job: ProcessJob) -> None:
        self.job = job
        self.folder: Path = job.folder
        (self.folder / "fleet-ok.sh").write_text(SCRIPT)
        (self.folder / "fleet-ok.sh").chmod(0o755)
        check = {"command": ["./fleet-ok.sh"], "every": "1s", "timeout": "60s"}
        job.write(rollout={"canary": 5}, check=check)
        self.says(0)

    def says(self, code: int, text: str = "") -> None:
        """Let the check end with a code, and print a text before."""
        (self.folder / "says").write_text(text)
        (self.folder / "code").write_text(str(code))

    @property
    def given(self) -> list[dict[str, Any]]:
        """What each check was given."""
        lines = (self.folder / "given.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def checked(job: ProcessJob) -> CheckedJob:
    return CheckedJob(job)


def test_a_check_that_agrees_is_asked_before_the_first_request_and_between_waves(
    checked: CheckedJob,
) -> None:
    assert checked.job.run().code == 0
    first, between = checked.given[:2]
    total = len(checked.job.rows)
    assert (first["wave"], first["pending"], first["requests"]) == ("canary", total, 0)
    assert (between["wave"], between["succeeded"], between["pending"]) == ("canary", 5, total - 5)
    assert "simulator-secret" not in (checked.folder / "environment").read_text()


def test_a_check_that_says_stop_ends_the_run_before_the_first_request(checked: CheckedJob) -> None:
    checked.says(10, "Köln is dark: simulator-secret")
    ended = checked.job.run()
    assert ended.code == STOPPED_BY_RULES
    assert "Köln is dark: ********" in ended.err
    assert "--override" in ended.err
    assert checked.job.entries() == []
    checked.says(0)
    assert checked.job.run().code == STOPPED_BY_RULES  # until somebody overrides it
    assert checked.job.entries() == []


def test_a_check_that_holds_the_run_lets_it_go_on_by_itself(checked: CheckedJob) -> None:
    checked.says(1, "3 sites are dark")
    with checked.job.start("--yes") as command:
        until(lambda: (checked.folder / "given.jsonl").exists() and len(checked.given) > 1)
        assert checked.job.entries() == []
        checked.says(0)
        ended = command.wait()
    assert ended.code == 0
    assert "held (check: 3 sites are dark)" in ended.err


def test_a_signal_ends_the_check_as_well(checked: CheckedJob) -> None:
    (checked.folder / "hangs").touch()
    with checked.job.start("--yes") as command:
        until(lambda: (checked.folder / "pids").exists())
        command.send(signal.SIGTERM)
        assert command.wait().code == RESUMABLE
    assert checked.job.entries() == []
    group = (checked.folder / "pids").read_text().split()[0]
    until(lambda: not _is_running(group))


def _is_running(group: str) -> bool:
    """Whether somebody is left of a process group, besides those that only wait for init."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)
    return any(
        pgid == group and not stat.startswith("Z")
        for pgid, stat in (line.split() for line in listed.stdout.splitlines())
    )
