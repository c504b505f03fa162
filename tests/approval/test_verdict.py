"""Which approvals count, judged with the real ssh-keygen."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from approval_job import People, approval_job, plan_of, ssh_keygen

from bulkcert.approval import files
from bulkcert.approval.signers import read_signers
from bulkcert.approval.ssh_keygen import Verifier
from bulkcert.approval.statement import Statement, Subject
from bulkcert.approval.verdict import (
    Verdict,
    approve_command,
    how_to_go_on,
    judge,
    require,
)
from bulkcert.errors import ApprovalError
from bulkcert.fingerprints import fingerprint
from bulkcert.jobfile import load_job
from bulkcert.plan_hash import PlanHash
from bulkcert.rules import Rules

pytestmark = pytest.mark.system

NOW_S = 1795692600
HOUR_S = 3600


class Case:
    """A job, who may approve it, and its approvals."""

    def __init__(self, folder: Path, people: People) -> None:
        self.people = people
        self.signers = folder / "approvers"
        self.may_approve(*map(people.line, ("alice", "bob", "carol")))
        self.subject = Subject(job=load_job(approval_job(folder, "approvers")), plan=plan_of(60))
        self.folder = folder / "job.approvals"

    def may_approve(self, *lines: str) -> None:
        self.signers.write_text("".join(f"{line}\n" for line in lines))

    def rule(self, **changes: object) -> None:
        approval = dataclasses.replace(self.subject.job.rules.approval, **changes)
        rules = dataclasses.replace(self.subject.job.rules, approval=approval)
        job = dataclasses.replace(self.subject.job, rules=rules)
        self.subject = dataclasses.replace(self.subject, job=job)

    def statement(self, **changes: object) -> Statement:
        """What an approver signs; the changes are those of its subject, or of its times."""
        valid_s = changes.pop("valid_s", 24 * HOUR_S)
        approved_s = changes.pop("approved_s", NOW_S - HOUR_S)
        return Statement.about(dataclasses.replace(self.subject, **changes), approved_s, valid_s)

    def approve(self, *names: str, namespace: str = "approval@bulkcert", **changes: object) -> Path:
        for name in names:
            path = self.people.approve(name, self.folder, self.statement(**changes), namespace)
        return path

    def judge(self) -> Verdict:
        return judge(self.subject, NOW_S)

    def names(self) -> list[str]:
        return sorted(one.signer.name for one in self.judge().approved)

    def why(self) -> str:
        """Why the only approval that does not count does not."""
        [refused] = self.judge().refused
        return refused.why


@pytest.fixture
def case(tmp_path: Path, people: People) -> Case:
    return Case(tmp_path, people)


def test_two_people_approve(case: Case) -> None:
    case.approve("bob")
    case.approve("alice", valid_s=8 * HOUR_S)
    verdict = require(case.subject, NOW_S)
    assert [one.signer.name for one in verdict.approved] == ["bob", "alice"]
    assert verdict.until_s == NOW_S + 7 * HOUR_S  # then only one of them counts
    assert verdict.refused == ()
    assert verdict.waiting_for == ("carol",)


def test_who_must_approve_is_named_without_a_number_if_it_is_everybody(case: Case) -> None:
    case.may_approve(*map(case.people.line, ("alice", "bob")))
    case.approve("alice")
    assert how_to_go_on(case.subject, case.judge()).startswith("bob must approve it: `bulkcert")


def test_what_is_missing_is_said_and_who_can_help(case: Case) -> None:
    case.approve("alice")
    case.approve("bob", plan=plan_of(57))
    with pytest.raises(ApprovalError) as raised:
        require(case.subject, NOW_S)
    problem = raised.value.problem.splitlines()
    assert problem[0] == (
        f"Plan {case.subject.plan.grouped[:19]} … needs the approval of 2 people;"
        " 1 of them has approved it."
    )
    assert problem[1].startswith("  approved: alice, SHA256:")
    assert problem[1].endswith(", until 2026-11-27T10:30:00Z")
    assert problem[2].endswith(
        "by bob, but for another plan: targets: 57 operations before, and 60 now; all else is equal"
    )
    job = case.subject.job.file
    assert raised.value.next_step == (
        f"1 of bob, carol must approve it: `bulkcert approve {job} --key FILE`"
    )
    assert raised.value.exit_code == 2


def test_without_approvals_nobody_has_approved(case: Case) -> None:
    with pytest.raises(ApprovalError, match="needs the approval of 2 people; 0 of them have"):
        require(case.subject, NOW_S)


def test_the_same_person_twice_counts_once(case: Case) -> None:
    case.approve("alice", "alice")
    assert case.names() == ["alice"]
    assert case.judge().missing == 1


def test_one_person_with_two_keys_counts_once(case: Case) -> None:
    case.may_approve(
        case.people.line("alice"), case.people.line("alice", key_of="dave"), case.people.line("bob")
    )
    case.approve("alice", "dave")
    assert case.judge().missing == 1


def test_one_key_under_two_names_counts_once(case: Case) -> None:
    case.may_approve(
        case.people.line("alice"),
        case.people.line("bob", key_of="alice"),
        case.people.line("carol"),
    )
    case.approve("alice", "alice")
    verdict = case.judge()
    assert verdict.missing == 1
    assert verdict.waiting_for == ("carol",)


def test_a_signers_file_with_too_few_people_is_an_error(case: Case) -> None:
    case.may_approve(case.people.line("alice"), case.people.line("bob", key_of="alice"))
    with pytest.raises(
        ApprovalError, match=f"required is 2, but {case.signers} names only 1 person"
    ) as raised:
        case.judge()
    assert raised.value.next_step.startswith("Keys with a name in common are one person")


def test_a_pattern_in_the_signers_file_is_an_error(case: Case) -> None:
    case.may_approve(case.people.line("alice"), case.people.line("*", key_of="bob"))
    case.approve("alice", "bob")
    with pytest.raises(ApprovalError, match=":2: has the pattern"):
        case.judge()


def test_an_edited_statement_does_not_count(case: Case) -> None:
    path = case.approve("alice")
    path.write_text(path.read_text().replace("Expires: 2026-11-27", "Expires: 2026-11-29"))
    assert case.why() == "edited after it was signed, or signed as something else"


def test_the_signature_of_another_statement_does_not_count(case: Case) -> None:
    path, other = case.approve("alice"), case.approve("alice", run=2)
    other.with_name(f"{other.name}.sig").replace(path.with_name(f"{path.name}.sig"))
    assert {refused.why for refused in case.judge().refused} == {
        "edited after it was signed, or signed as something else",
        "has no signature beside it",
    }


def test_another_namespace_does_not_count(case: Case) -> None:
    case.approve("alice", namespace="git")
    assert case.why() == "signed for another purpose, not for approval@bulkcert"


def test_the_key_of_nobody_in_the_signers_file_does_not_count(case: Case) -> None:
    case.approve("mallory")
    assert case.why().endswith("which is not the key of a signer")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ('valid-before="20200101"', "key has expired"),
        ('valid-after="20990101"', "key is not yet valid"),
        ('namespaces="git"', "not permitted for use in signature namespace"),
    ],
)
def test_a_key_that_is_restricted_to_something_else_does_not_count(
    case: Case, options: str, reason: str
) -> None:
    lines = map(case.people.line, ("bob", "carol"))
    case.may_approve(case.people.line("alice", options=options), *lines)
    case.approve("alice")
    assert reason in case.why()
    assert str(case.folder.parent) not in case.why()


def test_a_revoked_key_does_not_count(case: Case, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked.krl"
    ssh_keygen("-q", "-k", "-f", revoked, case.people.key("alice").with_suffix(".pub"))
    case.rule(revoked=revoked)
    case.approve("alice", "bob")
    assert case.names() == ["bob"]
    assert case.why().startswith("signed by alice with SHA256:")
    assert case.why().endswith("which is revoked")


@pytest.mark.parametrize("content", [None, b"", b"ssh-ed25519 AAAA\n", b"SSHKRL\n\0cut"])
def test_a_revocation_list_that_is_not_one_is_an_error(
    case: Case, tmp_path: Path, content: bytes | None
) -> None:
    """It would revoke nothing, and nobody would notice."""
    revoked = tmp_path / "revoked.krl"
    if content is not None:
        revoked.write_bytes(content)
    case.rule(revoked=revoked)
    with pytest.raises(ApprovalError) as raised:
        case.judge()
    assert raised.value.problem.startswith(f"The revocation list {revoked} can't be used: ")
    assert "bulkcert-" not in raised.value.problem


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n", b"x" * (1 << 17)]
)
def test_a_damaged_signature_does_not_count(case: Case, content: bytes) -> None:
    path = case.approve("alice")
    path.with_name(f"{path.name}.sig").write_bytes(content)
    assert "signature is damaged" in case.why() or "too long for an approval" in case.why()


def test_a_truncated_signature_does_not_count(case: Case) -> None:
    path = case.approve("alice")
    signature = path.with_name(f"{path.name}.sig")
    for kept in (10, 100, 250, len(signature.read_bytes()) - 40):
        signature.write_bytes(signature.read_bytes()[:kept])
        assert "signature is damaged" in case.why()


def test_an_approval_counts_until_it_expires(case: Case) -> None:
    case.approve("alice", approved_s=NOW_S - 24 * HOUR_S)
    case.approve("bob", approved_s=NOW_S - 24 * HOUR_S + 1)
    assert case.names() == ["bob"]
    assert case.why() == "by alice, but it expired at 2026-11-26T11:30:00Z"


def test_an_approver_can_shorten_the_time_but_not_extend_it(case: Case) -> None:
    case.approve("alice", approved_s=NOW_S - 2 * HOUR_S, valid_s=HOUR_S)
    case.approve("bob", approved_s=NOW_S - 25 * HOUR_S, valid_s=99 * HOUR_S)
    whys = {refused.why for refused in case.judge().refused}
    assert whys == {
        "by alice, but it expired at 2026-11-26T10:30:00Z",
        "by bob, but it expired at 2026-11-26T10:30:00Z",
    }


def test_an_approval_from_the_future_does_not_count(case: Case) -> None:
    case.approve("alice", approved_s=NOW_S + 301)
    case.approve("bob", approved_s=NOW_S + 300)
    assert case.names() == ["bob"]
    assert "from the future" in case.why()


def test_an_approval_of_another_run_does_not_count(case: Case) -> None:
    case.approve("alice", run=2)
    assert case.why() == "by alice, but for run 2, and this is run 1"


def test_an_approval_of_a_beginning_does_not_override_an_abort_nor_the_reverse(case: Case) -> None:
    case.approve("alice")
    case.approve("bob", abort="3f9a")
    case.approve("carol", abort="77aa")
    whys = [refused.why for refused in case.judge().refused]
    assert sorted(whys) == [
        "by bob, but only for going on after abort 3f9a",
        "by carol, but only for going on after abort 77aa",
    ]
    case.subject = dataclasses.replace(case.subject, abort="3f9a")
    assert case.names() == ["bob"]
    assert sorted(refused.why for refused in case.judge().refused) == [
        "by alice, but without naming the abort",
        "by carol, but only for going on after abort 77aa",
    ]
    with pytest.raises(ApprovalError, match="Going on after abort 3f9a needs the approval of 2"):
        require(case.subject, NOW_S)


def test_a_statement_that_contradicts_the_plan_does_not_count(case: Case) -> None:
    """Its hash is right, and what people have read is not."""
    text = str(case.statement()).replace("Operations: 60", "Operations: 3")
    case.people.approve("alice", case.folder, text)
    assert case.why() == "by alice, but it says Operations '3', not '60'"


def test_a_signed_text_that_is_not_a_statement_does_not_count(case: Case) -> None:
    text = str(case.statement()).replace("Run: 1\n", "Run: 1\nNote: trust me\n")
    case.people.approve("alice", case.folder, text)
    assert case.why() == "by alice, but it has an unknown line 4: 'Note: trust me'"


def test_a_signed_plan_that_is_not_one_does_not_count(case: Case) -> None:
    """Whoever signs can write what they like into the sections."""
    odd = PlanHash({"targets": {"operations": "many"}, "limits": {"in_flight": {}}})
    text = str(dataclasses.replace(case.statement(), plan=odd))
    text = text.replace(case.subject.plan.grouped, odd.grouped)
    case.people.approve("alice", case.folder, text)
    assert case.why() == "by alice, but for another plan: its sections are not those of a plan"


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("ab", "targets: 2 added, 1 gone"),
        ("", "targets: 3 added, 0 gone"),
        (None, "targets: 57 operations before, and 60 now"),
    ],
)
def test_how_many_targets_have_changed_is_said_if_it_is_known(
    case: Case, kept: str | None, words: str
) -> None:
    def fingerprints(names: str) -> bytes:
        return b"".join(sorted(map(fingerprint, names)))

    earlier = plan_of(57)
    case.approve("bob", plan=earlier)
    if kept is not None:
        files.keep_fingerprints(case.folder, earlier.hash, fingerprints(kept))
    case.subject = dataclasses.replace(case.subject, fingerprints=lambda: fingerprints("bcd"))
    assert case.why() == f"by bob, but for another plan: {words}; all else is equal"


def test_only_the_targets_are_said_in_numbers_of_targets(case: Case) -> None:
    earlier = PlanHash({**case.subject.plan.contents, "limits": {"in_flight": 5}})
    case.approve("bob", plan=earlier)
    files.keep_fingerprints(case.folder, earlier.hash, fingerprint("a"))
    assert "limits.in_flight was 5" in case.why()  # the targets of the plan are not known any more
    case.subject = dataclasses.replace(case.subject, fingerprints=lambda: fingerprint("a"))
    assert "limits.in_flight was 5" in case.why()


def test_how_many_targets_have_changed_is_not_said_if_those_of_the_plan_are_unknown(
    case: Case,
) -> None:
    earlier = plan_of(57)
    case.approve("bob", plan=earlier)
    files.keep_fingerprints(case.folder, earlier.hash, fingerprint("a"))
    assert "targets: 57 operations before, and 60 now" in case.why()


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (5, "limit_4 was 4 and is now 'not set'; all else is equal"),
        (6, "limit_4 was 4 and is now 'not set'; and 1 more change; all else is equal"),
        (9, "limit_4 was 4 and is now 'not set'; and 4 more changes; all else is equal"),
    ],
)
def test_a_long_list_of_changes_is_cut(case: Case, changes: int, end: str) -> None:
    limits = {f"limit_{number}": number for number in range(changes)}
    contents = case.subject.plan.contents
    other = PlanHash({**contents, "limits": {**contents["limits"], **limits}})
    case.approve("alice", plan=other)
    assert "limits.limit_4 was 4" in case.why()
    assert case.why().endswith(end)


def test_a_signed_file_that_is_not_text_does_not_count(case: Case) -> None:
    content = b"Bulkcert approval: \xff"
    files.keep(case.folder, "alice", content, case.people.sign("alice", content))
    assert case.why() == "by alice, but it is not UTF-8"


def test_ssh_keygen_and_this_program_must_agree_about_the_name_of_a_key(case: Case) -> None:
    """As they would not if they read the signers file in different ways."""
    read = read_signers(case.signers)
    other = case.people.line("mallory", key_of="alice").encode()
    content = b"anything"
    signature = case.people.sign("alice", content)
    with Verifier(dataclasses.replace(read, content=other)) as verifier:
        signer = verifier.signer(content, signature)
    assert str(signer).endswith("which ssh-keygen finds under another name")


def test_a_file_of_any_name_counts_if_its_signature_is_beside_it(case: Case) -> None:
    content = str(case.statement()).encode()
    case.folder.mkdir()
    (case.folder / "from mail.txt").write_bytes(content)
    (case.folder / "from mail.txt.sig").write_bytes(case.people.sign("alice", content))
    (case.folder / "README").write_text("not an approval")
    (case.folder / ".hidden.approval").write_text("nor this")
    assert case.names() == ["alice"]
    assert case.judge().refused == ()


def test_symbolic_links_are_not_followed(case: Case, tmp_path: Path) -> None:
    path = case.approve("alice")
    moved = path.rename(tmp_path / "elsewhere")
    path.symlink_to(moved)
    assert case.why() == "can't be read: it is a symbolic link, which is not followed"


def test_what_is_not_a_file_does_not_count_and_is_not_waited_for(case: Case) -> None:
    case.folder.mkdir()
    os.mkfifo(case.folder / "pipe.approval")
    (case.folder / "folder.approval").mkdir()
    whys = {refused.why for refused in case.judge().refused}
    assert whys == {"can't be read: it is not a file", "can't be read: Is a directory"}


def test_an_approval_that_can_not_be_kept_or_read_is_an_error(case: Case) -> None:
    case.folder.write_text("in the way")
    with pytest.raises(ApprovalError, match=r"can't be kept in .*: File exists"):
        case.approve("alice")
    with pytest.raises(ApprovalError, match="can't be read: Not a directory"):
        case.judge()


def test_hundreds_of_approvals_of_earlier_runs_are_counted_and_not_listed(case: Case) -> None:
    old = case.approve("alice", run=7)
    content, signature = old.read_bytes(), old.with_name(f"{old.name}.sig").read_bytes()
    for number in range(300):
        (case.folder / f"{number}.approval").write_bytes(content)
        (case.folder / f"{number}.approval.sig").write_bytes(signature)
    case.approve("alice")
    with pytest.raises(ApprovalError) as raised:
        require(case.subject, NOW_S)
    lines = raised.value.problem.splitlines()
    assert len(lines) == 8
    assert lines[-1] == "  not counted: 296 older approvals"
    case.approve("bob")
    assert case.names() == ["alice", "bob"]


def test_approvals_that_do_not_count_hide_none_that_does(case: Case) -> None:
    good = case.approve("alice")
    damaged = [case.folder / f"{number}.approval" for number in range(7)]
    for path in damaged:
        path.write_bytes(good.read_bytes())
        path.with_name(f"{path.name}.sig").write_bytes(b"x")
    for age_s, path in enumerate([*damaged, good]):  # the newest first
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    verdict = case.judge()
    assert [one.signer.name for one in verdict.approved] == ["alice"]
    assert (len(verdict.refused), verdict.not_judged) == (5, 2)


def test_more_approvals_than_are_needed_leave_none_missing(case: Case) -> None:
    case.rule(required=1)
    case.approve("alice", "bob", "carol")
    verdict = require(case.subject, NOW_S)
    assert (verdict.missing, len(verdict.approved)) == (0, 3)
    assert verdict.signers == case.signers.read_bytes()


@pytest.mark.parametrize(
    ("others", "named"),
    [(3, "p0, p1, p2"), (5, "p0, p1, p2, p3, p4"), (6, "p0, p1, p2, p3, p4 and 1 more")],
)
def test_only_a_few_of_those_who_may_still_approve_are_named(
    case: Case, others: int, named: str
) -> None:
    waiting = tuple(f"p{number}" for number in range(others))
    verdict = Verdict(2, (), (), 0, waiting)
    subject = dataclasses.replace(case.subject, abort="3f9a")
    said = how_to_go_on(subject, verdict)
    assert said.startswith(f"2 of {named} must approve it: ")
    assert " --override 3f9a --key FILE" in said
    assert approve_command(None, ()) == "bulkcert approve JOB --key FILE"


def test_a_job_without_the_rule_needs_no_approval(case: Case) -> None:
    job = case.subject.job
    assert job.rules.needed_approval is job.rules.approval
    assert dataclasses.replace(job, rules=Rules()).rules.needed_approval is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "`ssh-keygen`, which is not installed"),
        ("echo \"ssh-keygen: invalid option -- 'Y'\" >&2; exit 1", "is too old"),
        ("echo 'unknown option -- Y' >&2; exit 1", "is too old"),
        ("echo 'Unsupported operation for -Y: \"find-principals\"' >&2; exit 255", "is too old"),
    ],
)
def test_an_ssh_keygen_that_is_missing_or_too_old_is_named(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    case.approve("alice")
    programs = tmp_path / "programs"
    programs.mkdir()
    if script:
        program = programs / "ssh-keygen"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(ApprovalError) as raised:
        case.judge()
    assert reason in raised.value.problem
    assert "openssh-client" in raised.value.next_step


@pytest.mark.parametrize(
    "changes", [{"targets": None}, {"file": None}, {"file": Path("/dev/null")}]
)
def test_a_job_or_targets_from_a_pipe_have_no_approvals(
    case: Case, changes: dict[str, object]
) -> None:
    subject = dataclasses.replace(
        case.subject, job=dataclasses.replace(case.subject.job, **changes)
    )
    with pytest.raises(ApprovalError, match="can't be approved"):
        judge(subject, NOW_S)
