"""Who has approved a plan, whether that is enough, and what is missing.

In: what is to be approved, and the approvals beside the job. Out: the people whose approvals count,
or an error that says what is missing and what has changed. An approval counts if its signature is
good, its signer is in the signers file and not revoked, every line of it that matters is true of
the plan, and it has not expired. One person counts once, however many keys and files there are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bulkcert.approval import files, statement
from bulkcert.approval.files import SignedFile
from bulkcert.approval.signers import Signers, read_signers
from bulkcert.approval.ssh_keygen import Signer, Verifier
from bulkcert.approval.statement import Statement, Subject, as_utc
from bulkcert.errors import ApprovalError
from bulkcert.fingerprints import compared, unpacked
from bulkcert.plan_hash import TARGETS, PlanHash, differences, grouped
from bulkcert.quantities import count
from bulkcert.rules import Approval
from bulkcert.values import printable, shown

_SHOWN = 5
"""How many of the approvals that do not count are explained, and how many people are named."""

_CLOCKS_DIFFER_S = 300
"""An approval from so far in the future is a fault of a clock, or of somebody's intentions."""


@dataclass(frozen=True, slots=True)
class Approved:
    """One approval that counts.

    Attributes:
        signer: who approved.
        expires_s: until when it counts, as Unix time.
        file: the statement and its signature.
    """

    signer: Signer
    expires_s: int
    file: SignedFile = field(repr=False)

    def __str__(self) -> str:
        return f"{self.signer.name}, {self.signer.fingerprint}, until {as_utc(self.expires_s)}"


@dataclass(frozen=True, slots=True)
class Refused:
    """One approval that does not count, and why, in a phrase."""

    file: str
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who has approved a plan.

    Attributes:
        required: how many people must.
        approved: one approval of each person, those that count longest first.
        refused: the newest approvals that do not count.
        not_judged: how many older ones there are.
        waiting_for: who may approve and has not: one name for each person.
        abort: what it is about: going on after the abort of this id; empty for the plan.
        signers: the content of the signers file.
    """

    required: int
    approved: tuple[Approved, ...]
    refused: tuple[Refused, ...]
    not_judged: int
    waiting_for: tuple[str, ...]
    abort: str = ""
    signers: bytes = field(default=b"", repr=False)

    @property
    def missing(self) -> int:
        """How many more people must approve."""
        return max(0, self.required - len(self.approved))

    @property
    def until_s(self) -> int:
        """Until when enough approvals count; only if none is missing."""
        return self.approved[self.required - 1].expires_s


def signers_of(rule: Approval) -> Signers:
    """Read who may approve.

    Raises:
        ApprovalError: the file can't be used, or does not name enough people.
    """
    assert rule.signers is not None  # the job file requires it
    signers = read_signers(rule.signers)
    if len(signers.people) < rule.required:
        people = count(len(signers.people), "person", "people")
        raise ApprovalError(
            f"[approval] required is {rule.required}, but {rule.signers} names only {people}.",
            "Keys with a name in common are one person, and so are names with a key in common.",
        )
    return signers


def require(subject: Subject, now_s: float) -> Verdict:
    """Return who has approved a plan of a job with `[approval]`.

    Raises:
        ApprovalError: not enough people have, or that can't be found out.
    """
    verdict = judge(subject, now_s)
    if not verdict.missing:
        return verdict
    plan = f"Plan {grouped(subject.plan.hash[:16])} …"
    what = f"Going on after abort {subject.abort}" if subject.abort else plan
    people = count(verdict.required, "person", "people")
    have = f"{len(verdict.approved)} of them {'has' if len(verdict.approved) == 1 else 'have'}"
    lines = [f"{what} needs the approval of {people}; {have} approved it."]
    lines += [f"  approved: {approved}" for approved in verdict.approved]
    lines += [f"  not counted: {refused.file}: {refused.why}" for refused in verdict.refused]
    if verdict.not_judged:
        lines.append(f"  not counted: {count(verdict.not_judged, 'older approval')}")
    raise ApprovalError("\n".join(map(printable, lines)), how_to_go_on(subject, verdict))


def how_to_go_on(subject: Subject, verdict: Verdict) -> str:
    """Say who can still approve, and how."""
    names, more = verdict.waiting_for[:_SHOWN], len(verdict.waiting_for) - _SHOWN
    who = ", ".join(map(printable, names)) + (f" and {more:,} more" if more > 0 else "")
    command = approve_command(subject.job.file, subject.skipped, subject.abort)
    number = "" if verdict.missing == len(verdict.waiting_for) else f"{verdict.missing} of "
    return f"{number}{who} must approve it: `{command}`"


def approve_command(job_file: Path | None, skipped: Iterable[str], abort: str = "") -> str:
    """The command with which somebody approves a plan, or going on after an abort.

    Args:
        job_file: the job; None if its file is not known.
        skipped: the options with which rows are left out.
        abort: the id of the abort; empty for none.
    """
    options = [*skipped, *(["--override", abort] if abort else [])]
    return shlex.join(["bulkcert", "approve", str(job_file or "JOB"), *options, "--key", "FILE"])


def judge(subject: Subject, now_s: float) -> Verdict:
    """Judge all approvals of a job with `[approval]`.

    Raises:
        ApprovalError: they can't be judged.
    """
    rule = subject.job.rules.needed_approval
    assert rule is not None
    found = files.read_all(files.folder_of(subject.job))
    signers = signers_of(rule)
    wanted = Statement.about(subject, now_s, rule.valid_s)
    approved: dict[frozenset[str], Approved] = {}
    refused: list[Refused] = []
    not_judged = 0
    with Verifier(signers, rule.revoked) as verifier:
        for file in found:
            stated, fault = _stated(file, wanted, subject, now_s)
            if fault and len(refused) >= _SHOWN:  # hundreds of earlier runs may have left theirs
                not_judged += 1
                continue
            signer = file.fault or verifier.signer(file.statement, file.signature)
            if isinstance(signer, str):
                refused.append(Refused(file.name, signer))
            elif stated is None or fault:
                refused.append(Refused(file.name, f"by {signer.name}, but {fault}"))
            else:
                one = Approved(signer, _expires_s(stated, rule), file)
                known = approved.get(signer.person, one)
                approved[signer.person] = max(one, known, key=lambda each: each.expires_s)
    return Verdict(
        rule.required,
        tuple(sorted(approved.values(), key=lambda one: -one.expires_s)),
        tuple(refused[:_SHOWN]),
        not_judged + len(refused[_SHOWN:]),
        tuple(sorted(min(person) for person in signers.people if person not in approved)),
        subject.abort,
        signers.content,
    )


def _stated(
    file: SignedFile, wanted: Statement, subject: Subject, now_s: float
) -> tuple[Statement | None, str]:
    """What a file says, and why that does not count for this plan; empty if it does."""
    if file.fault:
        return None, file.fault
    try:
        stated = statement.parse(file.statement.decode())
    except UnicodeDecodeError:
        return None, "it is not UTF-8"
    except ValueError as error:
        return None, f"it {error}"
    rule = subject.job.rules.needed_approval
    assert rule is not None
    return stated, _mismatch(stated, wanted, subject) or _out_of_time(stated, rule, now_s)


def _mismatch(stated: Statement, wanted: Statement, subject: Subject) -> str:
    """Why a statement is about something else; empty if it is not."""
    then, now = stated.facts, wanted.facts
    different = stated.differences(wanted)
    if "Plan" in different:
        return f"for another plan: {_changes(stated.plan, wanted.plan, subject)}"
    if "Run" in different:
        return f"for run {then.get('Run')}, and this is run {now['Run']}"
    if "Overrides abort" in different:
        abort = then.get("Overrides abort")
        return f"only for going on after abort {abort}" if abort else "without naming the abort"
    contradictions = (
        f"{key} {shown(then.get(key, ''))}, not {shown(now.get(key, ''))}" for key in different
    )
    return f"it says {'; '.join(contradictions)}" if different else ""


def _changes(then: PlanHash, now: PlanHash, subject: Subject) -> str:
    """What has changed since somebody approved, in words."""
    try:
        changes = [
            (each.section == TARGETS and _changed_targets(then, subject)) or str(each)
            for each in differences(then, now)
        ]
    except (TypeError, ValueError):  # a signer can sign anything
        return "its sections are not those of a plan"
    if (more := len(changes) - _SHOWN) > 0:
        changes[_SHOWN:] = [f"and {count(more, 'more change')}"]
    return f"{'; '.join(changes)}; all else is equal"


def _changed_targets(then: PlanHash, subject: Subject) -> str:
    """How many targets have changed since somebody approved; empty if that is not known."""
    before = files.fingerprints(files.folder_of(subject.job), then.hash)
    if before is None or subject.fingerprints is None:
        return ""
    return f"targets: {compared(unpacked(before), unpacked(subject.fingerprints()))}"


def _expires_s(stated: Statement, rule: Approval) -> int:
    """Until when an approval counts: as long as its signer wanted, and the job permits."""
    return min(stated.expires_s, int(stated.approved_s + rule.valid_s))


def _out_of_time(stated: Statement, rule: Approval, now_s: float) -> str:
    if stated.approved_s > now_s + _CLOCKS_DIFFER_S:
        return f"it is from the future, {as_utc(stated.approved_s)}: compare the clocks"
    expires_s = _expires_s(stated, rule)
    return f"it expired at {as_utc(expires_s)}" if expires_s <= now_s else ""
