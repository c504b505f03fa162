"""`bulkcert approve`, and a run that needs it, with the installed command and real keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import subprocess
import termios
import threading
from pathlib import Path

import pytest
from approval_job import People, ssh_keygen
from click.testing import CliRunner, Result
from harness import ProcessJob
from processes import BULKCERT, LIMIT_S, Ended, until, without_credentials

from bulkcert.cli import main

pytestmark = pytest.mark.system


@pytest.fixture
def job(job: ProcessJob, people: People) -> ProcessJob:
    """A job that two of three people must approve."""
    lines = map(people.line, ("alice", "bob", "carol"))
    (job.folder / "approvers").write_text("\n".join(lines))
    job.write(approval={"required": 2, "signers": "approvers"})
    return job


def approve(job: ProcessJob, people: People, *names: str, options: tuple[str, ...] = ()) -> Result:
    """Approve without a terminal; in this process, which saves a second each time."""
    for name in names:
        words = ["approve", str(job.job_file), "--key", str(people.key(name)), *options]
        ended = CliRunner().invoke(main, words)
        assert ended.exit_code == 0, ended.output
    return ended


def approvals(job: ProcessJob) -> list[Path]:
    return sorted((job.folder / "job.approvals").glob("*.approval"))


def test_two_people_approve_and_the_run_asks_nothing(job: ProcessJob, people: People) -> None:
    ended = job.bulkcert("approve", job.job_file, "--key", people.key("alice"))
    assert ended.code == 0, ended
    assert "job: revoke on enos, which can't be undone" in ended.out
    assert "\nYou sign:\n  Bulkcert approval: 1\n  Plan: " in ended.out
    assert "Operations: 60\n" in ended.out
    assert "Approved by alice with SHA256:" in ended.err
    assert "1 of bob, carol must approve it" in ended.err
    refused = job.start().wait()
    assert refused.code == 2
    assert "needs the approval of 2 people; 1 of them has approved it" in refused.err
    assert "1 of bob, carol must approve it" in refused.err
    assert job.entries() == []
    assert "All 2 approvals are there until" in approve(job, people, "bob").stderr
    ended = job.start().wait()  # without --yes, and without a terminal
    assert ended.code == 0, ended
    assert "Approved by alice, SHA256:" in ended.err
    assert "Approved by bob, SHA256:" in ended.err
    assert job.outcome_counts() == {"succeeded": 60}


def test_yes_does_not_replace_approvals(job: ProcessJob) -> None:
    ended = job.run()
    assert ended.code == 2
    assert "needs the approval of 2 people; 0 of them have approved it" in ended.err
    assert job.entries() == []


def test_what_has_changed_since_is_said(job: ProcessJob, people: People) -> None:
    approve(job, people, "alice", "bob")
    job.write_targets(job.rows[:57])
    ended = job.start().wait()
    assert ended.code == 2
    why = "for another plan: targets: 0 added, 3 gone; all else is equal"
    assert ended.err.partition("Error: ")[2].count(why) == 2
    job.write(limits={"requests_per_second": 100})
    assert "limits.requests_per_second was 3000 and is now 100" in job.start().wait().err
    assert job.entries() == []


def test_a_plan_that_has_changed_after_a_refusal_needs_new_approvals(
    job: ProcessJob, people: People
) -> None:
    """The checkpoint of the refused plan is there, and must not pass for that of the new one."""
    assert job.start().wait().code == 2
    approve(job, people, "alice", "bob")
    job.write(limits={"requests_per_second": 2900, "in_flight": 2000})
    assert job.start().wait().code == 2
    assert job.entries() == []


def test_a_run_that_has_begun_continues_when_its_approvals_have_expired(
    job: ProcessJob, people: People
) -> None:
    approve(job, people, "alice", "bob")
    command = job.start()
    assert job.await_requests(5, command)
    command.process.kill()
    command.wait()
    for path in (job.folder / "job.approvals").iterdir():
        path.unlink()
    ended = job.start().wait()
    assert ended.code == 0, ended
    assert job.outcome_counts() == {"succeeded": 60}


def test_going_on_after_an_abort_needs_approvals_that_name_it(
    job: ProcessJob, people: People
) -> None:
    first, *others = job.rows
    job.write_targets([first | {"certSn": 9999}, *others])
    job.write(abort={"failed": 0}, limits={"in_flight": 1})
    approve(job, people, "alice", "bob")
    stopped = job.start().wait()
    assert stopped.code == 4
    [abort_id] = re.findall(r"--override (\S+) --why TEXT", stopped.err)
    assert f"approve {job.job_file} --override {abort_id} --key FILE" in stopped.err
    before = len(job.entries())
    override = ("--override", abort_id, "--why", "a known device")
    refused = job.start(*override, "--yes").wait()
    assert refused.code == 2
    assert f"Going on after abort {abort_id} needs the approval of 2 people" in refused.err
    assert refused.err.partition("Error: ")[2].count("but without naming the abort") == 2
    other = job.bulkcert(
        "approve", job.job_file, "--key", people.key("alice"), "--override", "another"
    )
    assert other.code == 2
    assert f"is {abort_id}, not another" in other.err
    options = ("--override", abort_id)
    approved = approve(job, people, "alice", "carol", options=options).stdout
    assert "The run has stopped itself: " in approved
    assert f"Overrides abort: {abort_id}" in approved
    assert len(job.entries()) == before
    ended = job.start(*override).wait()
    assert ended.code == 1, ended
    assert job.outcome_counts() == {"failed": 1, "succeeded": 59}


def test_the_next_run_of_a_job_needs_its_own_approvals(job: ProcessJob, people: People) -> None:
    approve(job, people, "alice", "bob")
    assert job.start().wait().code == 0
    refused = job.start("--new").wait()
    assert refused.code == 2
    assert refused.err.partition("Error: ")[2].count("but for run 1, and this is run 2") == 2
    approved = approve(job, people, "alice", "bob")
    assert "\n  Run: 2\n" in approved.stdout
    assert f"`bulkcert run {job.job_file} --new`" in approved.stderr
    assert job.start("--new").wait().code == 0


def test_an_amended_run_needs_approvals_of_the_new_plan(job: ProcessJob, people: People) -> None:
    job.write(rollout={"canary": 20})
    approve(job, people, "alice", "bob")
    assert job.start("--until", "canary").wait().code == 3
    job.write(limits={"in_flight": 2000})
    assert "--amend" in job.start().wait().err
    refused = job.start("--amend").wait()
    assert refused.code == 2
    changed = "limits.in_flight was 1000 and is now 2000; all else is equal"
    assert refused.err.partition("Error: ")[2].count(changed) == 2
    approve(job, people, "bob", "carol")
    ended = job.start("--amend").wait()
    assert ended.code == 0, ended
    assert job.outcome_counts() == {"succeeded": 60}


def test_signers_who_change_while_the_run_waits_are_not_who_approved(
    job: ProcessJob, people: People
) -> None:
    """Whoever replaces the file during the wait can't sign for the plan that was approved."""
    (job.folder / "may-begin.sh").write_text("#!/bin/sh\ntest -e begin\n")
    (job.folder / "may-begin.sh").chmod(0o755)
    job.write(check={"command": ["./may-begin.sh"], "every": "1s"})
    approve(job, people, "alice", "bob")
    log = job.folder / "log"
    with job.start("--log-file", log) as command:
        until(lambda: log.exists() and "Nothing is sent yet" in log.read_text())
        with (job.folder / "approvers").open("a") as file:
            file.write(f"\n{people.line('mallory')}\n")
        (job.folder / "begin").touch()
        ended = command.wait()
    assert ended.code == 2
    assert ended.err.count("the content of approval.signers has changed; all else is equal") == 2
    assert job.entries("revoke") == []


def test_a_rehearsal_needs_no_approvals(job: ProcessJob) -> None:
    assert job.bulkcert("run", job.job_file, "--rehearse").code == 0


def test_a_run_whose_targets_come_from_a_pipe_can_not_begin(job: ProcessJob) -> None:
    targets = job.target_file.read_bytes()
    job.write(targets="-")
    ended = job.bulkcert("run", job.job_file, environment=job.credentials, stdin=targets)
    assert ended.code == 2
    assert "Targets from standard input can't be approved" in ended.err
    assert job.entries() == []


def converse(job: ProcessJob, key: Path, *answers: tuple[str, str]) -> Ended:
    """Approve on a terminal, and answer each question when it is asked."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [BULKCERT, "approve", job.job_file, "--key", key],
        cwd=job.folder,
        env=without_credentials() | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # where a passphrase is asked for
    )
    os.close(theirs)
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    shown, waiting = b"", list(answers)
    with process, contextlib.suppress(OSError):  # the end of a terminal is an error
        while chunk := os.read(ours, 4096):
            shown += chunk
            if waiting and waiting[0][0].encode() in shown:
                os.write(ours, waiting.pop(0)[1].encode())
    watchdog.cancel()
    os.close(ours)
    return Ended(process.returncode, "", shown.decode())


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["n", "enter", "eof"])
def test_on_a_terminal_nothing_is_signed_without_a_yes(
    job: ProcessJob, people: People, answer: str
) -> None:
    ended = converse(job, people.key("alice"), ("Sign this? [y/N] ", answer))
    assert ended.code == 2
    assert "Nothing was signed." in ended.err
    assert approvals(job) == []


def test_ssh_keygen_asks_for_the_passphrase_on_the_terminal(
    job: ProcessJob, tmp_path: Path
) -> None:
    key = tmp_path / "locked"
    ssh_keygen("-q", "-t", "ed25519", "-N", "open sesame", "-f", key)
    with (job.folder / "approvers").open("a") as file:
        file.write(f"\ndave {' '.join(key.with_suffix('.pub').read_text().split()[:2])}\n")
    signed = ("Sign this? [y/N] ", "y\n")
    wrong = converse(job, key, signed, ("passphrase", "open says me\n"))
    assert wrong.code == 2
    assert "incorrect passphrase" in wrong.err
    right = converse(job, key, signed, ("passphrase", "open sesame\n"))
    assert right.code == 0
    assert "Approved by dave with SHA256:" in right.err
    assert "open sesame" not in right.err
