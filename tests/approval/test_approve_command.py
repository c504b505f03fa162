"""`bulkcert approve` without a terminal: what it signs, keeps, says and refuses."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from approval_job import People, approval_job
from click.testing import CliRunner, Result
from job_folder import write_csv
from processes import until

from bulkcert.approval.statement import parse
from bulkcert.cli import main

pytestmark = pytest.mark.system


class Folder:
    """A job that two of three people must approve, in a folder of its own."""

    def __init__(self, folder: Path, people: People) -> None:
        self.people = people
        self.job = approval_job(folder, "approvers")
        self.approvals = folder / "job.approvals"
        lines = map(people.line, ("alice", "bob", "carol"))
        (folder / "approvers").write_text("\n".join(lines))
        write_csv(folder / "fleet.csv", [("A1", 1), ("A2", 2), ("A3", 3)])

    def approve(self, key: Path, *options: str, **more: str) -> Result:
        words = ["approve", str(self.job), "--key", str(key), *options]
        return CliRunner().invoke(main, words, env=more)

    def kept(self) -> list[Path]:
        return sorted(self.approvals.glob("*.approval"))


@pytest.fixture
def folder(tmp_path: Path, people: People) -> Folder:
    return Folder(tmp_path, people)


def test_the_statement_that_is_shown_is_the_one_that_is_kept(
    folder: Folder, people: People
) -> None:
    ended = folder.approve(people.key("alice"), "--valid", "2h")
    assert ended.exit_code == 0, ended.output
    [path] = folder.kept()
    shown = ended.stdout.partition("\nYou sign:\n")[2]
    assert path.read_text() == shown.replace("\n  ", "\n").removeprefix("  ")
    stated = parse(path.read_text())
    assert stated.expires_s - stated.approved_s == 2 * 3600
    assert path.name.startswith("alice-20")
    assert path.with_name(f"{path.name}.sig").is_file()
    assert f"Kept in {path}." in ended.stderr


def test_the_same_person_may_approve_again_and_nothing_is_overwritten(
    folder: Folder, people: People
) -> None:
    for name in ("alice", "alice", "bob"):
        ended = folder.approve(people.key(name))
    assert len(folder.kept()) == 3
    assert "All 2 approvals are there until" in ended.stderr
    assert f"bulkcert run {folder.job}`" in ended.stderr


def test_a_key_that_would_not_count_signs_nothing_that_is_kept(
    folder: Folder, people: People, tmp_path: Path
) -> None:
    ended = folder.approve(people.key("mallory"))
    assert ended.exit_code == 2
    assert "the approval would not count: it is signed with SHA256:" in ended.stderr
    for key in (folder.job, tmp_path / "no such key"):
        ended = folder.approve(key)
        assert ended.exit_code == 2
        assert f"ssh-keygen can't sign with {key}: " in ended.stderr
    assert not folder.approvals.exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('targets = "fleet.csv"', 'targets = "-"', "Targets from standard input can't be approved"),
        ("required = 2", "required = 0", "requires no approvals"),
        ("required = 2", "required = 4", "approvers names only 3 people"),
        ('signers = "approvers"', 'signers = "anybody"', "anybody:1: has the pattern '*'"),
        ('signers = "approvers"', 'signers = "nobody"', "nobody can't be read"),
    ],
)
def test_what_can_not_be_approved_is_refused(
    folder: Folder, people: People, old: str, new: str, reason: str
) -> None:
    folder.job.with_name("anybody").write_text(people.line("*", key_of="alice"))
    document = folder.job.read_text()
    assert old in document
    folder.job.write_text(document.replace(old, new))
    ended = folder.approve(people.key("alice"))
    assert ended.exit_code == 2
    assert reason in ended.stderr
    assert not folder.approvals.exists()


def test_options_that_make_no_sense_are_refused(folder: Folder, people: People) -> None:
    for valid, reason in (("25h", "longer than [approval] valid"), ("soon", "duration such as")):
        ended = folder.approve(people.key("alice"), "--valid", valid)
        assert ended.exit_code == 2
        assert reason in " ".join(ended.stderr.split())
    ended = CliRunner().invoke(main, ["approve", str(folder.job)])
    assert ended.exit_code == 2
    assert "--key" in ended.stderr


@contextmanager
def agent(key: Path, folder: Path) -> Iterator[str]:
    """An agent that has a key; yields its socket."""
    socket = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists)
        environment = os.environ | {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True, capture_output=True)
        yield str(socket)
    finally:
        process.terminate()
        process.wait()


def test_an_agent_signs_for_a_public_key(folder: Folder, people: People, tmp_path: Path) -> None:
    public = tmp_path / "public.pub"
    public.write_text(people.public_key("alice"))
    with agent(people.key("alice"), tmp_path) as socket:
        assert folder.approve(public, SSH_AUTH_SOCK=socket).exit_code == 0
    ended = folder.approve(public, SSH_AUTH_SOCK="")
    assert ended.exit_code == 2
    assert f"ssh-keygen can't sign with {public}: " in ended.stderr
    assert len(folder.kept()) == 1
