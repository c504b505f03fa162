"""A run of the library that needs approvals: when they are asked for, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from approval_job import People
from enos_vendor import ENOS
from harness import InProcessJob, in_this_process
from job_folder import Row

import bulkcert.run
from bulkcert.approval.files import SignedFile
from bulkcert.approval.ssh_keygen import Signer
from bulkcert.approval.statement import Subject
from bulkcert.approval.verdict import Approved, Verdict
from bulkcert.errors import ApprovalError

pytestmark = pytest.mark.system

ROWS: list[Row] = [{"assetId": f"A{number}", "certSn": 1000 + number} for number in range(5)]
ALICE = Approved(Signer("alice", "SHA256:x", frozenset({"alice"})), 0, SignedFile("file", 0.0))


class Approvals:
    """What `require` finds, one answer for each time it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bool | str) -> None:
        self.answers = list(answers)
        self.subjects: list[Subject] = []
        monkeypatch.setattr(bulkcert.run, "require", self)

    def __call__(self, subject: Subject, now_s: float) -> Verdict:
        self.subjects.append(subject)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise ApprovalError(answer)
        return Verdict(1, (ALICE,), (), 0, ())


async def run(job: InProcessJob) -> str:
    """Run a job; return why it did not begin, or an empty text."""
    try:
        await job.run()
    except ApprovalError as error:
        return f"{error.problem}: exit code {error.exit_code}"
    return ""


async def test_approvals_are_asked_for_until_the_run_has_begun(
    tmp_path: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = Approvals(
        monkeypatch,
        *("nobody yet",),  # refused at once
        *(True, "expired"),  # expired when the first operation was to be claimed
        *(True, True),
    )
    (tmp_path / "approvers").write_text(people.line("alice"))
    approval = {"required": 1, "signers": "approvers"}
    async with in_this_process(tmp_path, ENOS, "revoke", ROWS, approval=approval) as job:
        assert await run(job) == "nobody yet: exit code 2"
        assert await run(job) == "expired: exit code 2"
        assert job.entries("revoke") == []
        assert await run(job) == ""
        assert job.outcomes() == ["succeeded"] * 5
        assert await run(job) == ""  # it is over: nobody is asked again
    assert approvals.answers == []
    assert {(subject.run, subject.abort) for subject in approvals.subjects} == {(1, "")}
    assert len({subject.plan.hash for subject in approvals.subjects}) == 1
