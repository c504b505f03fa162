"""Where the files of a pack contradict each other, or the manifest.

In: the manifest, and what the files say. Out: contradictions, in sentences without a full stop. A
signature only proves that somebody vouches for these files; this is what shows a pack that was put
together from those of two runs, or an approval of something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bulkcert.approval import statement
from bulkcert.approval.signers import parse_signers
from bulkcert.approval.ssh_keygen import Verifier
from bulkcert.approval.statement import Statement
from bulkcert.errors import ApprovalError
from bulkcert.evidence import contents as names
from bulkcert.evidence.facts import Approved, Events, Facts
from bulkcert.evidence.manifest import Manifest
from bulkcert.plan_hash import TARGETS, PlanHash
from bulkcert.quantities import count
from bulkcert.values import printable, shown

_MOST_APPROVALS = 1000
"""Each of them takes some calls of ssh-keygen."""


def contradictions(manifest: Manifest, facts: Facts) -> Iterator[str]:
    """Return what does not agree. Files that are missing contradict nothing.

    Raises:
        ApprovalError: ssh-keygen is missing.
    """
    yield from facts.faults
    yield from _of_manifest(manifest, facts)
    yield from _of_plan(manifest, facts)
    if facts.events is not None:
        yield from _of_events(manifest, facts.events)
    yield from _of_results(manifest, facts)
    yield from _of_verification(facts)
    yield from _of_approvals(manifest, facts)
    if facts.report is not None:
        yield from _of_report(manifest, facts.report)


def _of_manifest(manifest: Manifest, facts: Facts) -> Iterator[str]:
    needed = [*names.ALWAYS, names.TARGETS, names.REPORT]
    if facts.events is not None and facts.events.verification is not None:
        needed.append(names.VERIFICATION)
    for name in needed:
        reason = name not in names.ALWAYS and name in manifest.left_out
        if name not in manifest.files and not reason:
            yield f"the manifest lacks {name}, and gives no reason"


def _of_plan(manifest: Manifest, facts: Facts) -> Iterator[str]:
    if facts.plan is None:
        return
    if facts.plan.hash != manifest.plan:
        yield f"{names.PLAN} is another plan than that of the manifest"
    targets = facts.plan.contents.get(TARGETS, {})
    if facts.targets is not None and facts.targets != targets.get("sha256"):
        yield f"{names.TARGETS} has other targets than the plan"


def _of_events(manifest: Manifest, events: Events) -> Iterator[str]:
    last, signed = events.last, manifest.last_event
    if events.fault:
        yield f"the chain of events is broken: {names.EVENTS}, {events.fault}"
    elif last.seq != signed.seq:
        yield f"the chain ends with event {last.seq:,}, and event {signed.seq:,} was the last one"
    elif last != signed:
        yield f"event {last.seq:,}, the last one, is not the one that was signed"
    for run in sorted(events.runs - {manifest.run}):
        yield f"{names.EVENTS} has events of run {shown(run)}"
    for witnessed in sorted(events.witnessed):
        yield f"no event has the hash {witnessed}, which somebody has received"
    if events.last_plan not in ("", manifest.plan):
        yield f"{names.EVENTS} ends with another plan than that of the manifest"
    if not events.fault and events.verification != manifest.verified:
        yield f"{names.EVENTS} has another verification than the manifest"
    if events.rehearsals - {manifest.rehearsal}:
        said = "a rehearsal" if manifest.rehearsal else "not a rehearsal"
        yield f"the manifest says that it was {said}, and {names.EVENTS} says otherwise"


def _of_results(manifest: Manifest, facts: Facts) -> Iterator[str]:
    signed, outcomes, summary = manifest.outcomes, facts.outcomes, facts.summary
    if sum(signed.values()) != manifest.total:
        yield "the outcomes in the manifest do not add up to its total"
    events = facts.events
    if events is not None and not events.fault and events.outcomes is not None:
        yield from _differing("the last end of a process", events.outcomes, "the manifest", signed)
    if outcomes is not None:
        yield from _differing(names.RESULTS, outcomes, "the manifest", signed)
        if facts.targets_sum not in (None, facts.results_sum):
            yield f"{names.RESULTS} has other targets than {names.TARGETS}"
    if summary is None:
        return
    counts = {name: summary.get(name) for name in signed}
    yield from _differing(names.SUMMARY, counts, "the manifest", signed)
    if outcomes is not None and summary.get("attempts") != facts.attempts:
        attempts = summary.get("attempts")
        yield f"{names.SUMMARY} has {attempts} attempts, and {names.RESULTS} {facts.attempts}"
    for name in ("plan", "rehearsal", "provider", "action", "endpoint", "total", "exit_code"):
        if summary.get(name) != getattr(manifest, name):
            yield f"{names.SUMMARY} has another {name.replace('_', ' ')} than the manifest"


def _differing(
    file: str, counts: Mapping[str, object], other: str, signed: Mapping[str, int]
) -> Iterator[str]:
    for outcome in dict.fromkeys([*signed, *counts]):
        here, there = counts.get(outcome, 0), signed.get(outcome, 0)
        if here != there:
            name = printable(outcome).replace("_", " ")[:40]
            yield f"{file} has {here} {name}, and {other} {there}"


def _of_verification(facts: Facts) -> Iterator[str]:
    if facts.verdicts is None or facts.events is None or facts.events.fault:
        return
    recorded = facts.events.verification
    if recorded is None or recorded.sha256 != facts.verification:
        yield f"{names.VERIFICATION} is not what the last verification among the events has seen"
        return
    counts = [facts.verdicts.get(name, 0) for name in ("agrees", "differs", "not_read")]
    if [*recorded[1:4]] != counts:
        yield f"{names.VERIFICATION} has other counts than the verification among the events"


def _of_report(manifest: Manifest, report: bytes) -> Iterator[str]:
    for name, value in (("run", manifest.run_id), ("plan", manifest.plan)):
        if f'<meta name="bulkcert-{name}" content="{value}">'.encode() not in report:
            yield f"{names.REPORT} is about another {name}"
            return


# ---- approvals


def _of_approvals(manifest: Manifest, facts: Facts) -> Iterator[str]:
    if facts.approvals is None:
        return
    if len(facts.approvals) != manifest.approvals:
        yield f"{names.APPROVALS} has other approvals than the manifest counts"
    events = facts.events
    if events is not None and not events.fault and events.approved != facts.approvals:
        yield f"{names.APPROVALS} has other approvals than {names.EVENTS}"
    plans = events.approved_plans if events is not None else ()
    people: dict[tuple[str, str], set[frozenset[str]]] = {}
    required: dict[tuple[str, str], int] = {}
    for number, approved in enumerate(facts.approvals[:_MOST_APPROVALS], 1):
        name = f"approval {number}, by {printable(approved.who)}"
        try:
            person, stated = _judged(approved, facts.signed.get(number, {}), manifest)
        except (ValueError, OverflowError) as error:  # the latter for times beyond all calendars
            yield f"{name}, {error}"
            continue
        if number <= len(plans) and plans[number - 1] != stated.plan.hash:
            yield f"{name}, is for another plan than the one that the run had then"
        about = (stated.plan.hash, approved.abort)
        people.setdefault(about, set()).add(person)
        required[about] = _required(stated.plan)
    for about, needed in required.items():
        if len(people[about]) < needed:
            yield f"{count(len(people[about]), 'person has', 'people have')} approved, not {needed}"
    needed = _required(facts.plan) if facts.plan else 0
    begun = facts.attempts > 0 and not manifest.rehearsal
    if begun and needed and not facts.approvals:
        yield f"the plan needs {count(needed, 'approval')}, and there are none"


def _judged(
    approved: Approved, files: Mapping[str, bytes], manifest: Manifest
) -> tuple[frozenset[str], Statement]:
    """Return who has approved what.

    Raises:
        ValueError: the approval does not count; the reason fits behind its name.
    """
    try:
        text, signature, content = (
            files[kind] for kind in (names.STATEMENT, names.STATEMENT_SIGNATURE, names.SIGNERS)
        )
    except KeyError:
        raise ValueError("is not complete") from None
    if _sha256(text) != approved.statement:
        raise ValueError("has another statement")
    stated = statement.parse(text.decode())
    try:
        signers = parse_signers(content, "the signers file")
    except ApprovalError as error:
        raise ValueError(f"has signers that can't be used: {error.problem}") from None
    # what counts is whether the key was valid then, as for the run itself
    used_at_s = datetime.fromisoformat(approved.at).timestamp()
    with Verifier(signers, at_s=used_at_s) as verifier:
        signer = verifier.signer(text, signature)
    if isinstance(signer, str):
        raise ValueError(f"does not count: {signer}")
    if (signer.name, signer.fingerprint) != (approved.who, approved.key):
        raise ValueError(f"is signed by {signer.name} with {signer.fingerprint}")
    facts = stated.facts
    if facts.get("Run") != str(manifest.number):
        raise ValueError(f"is for run {shown(facts.get('Run', ''))} of the job")
    if facts.get("Overrides abort", "") != approved.abort:
        raise ValueError("is for another abort")
    if _rule(stated.plan).get("signers") != f"sha256:{_sha256(content)}":
        raise ValueError("was judged by other signers than those of its plan")
    return signer.person, stated


def _rule(plan: PlanHash) -> Mapping[str, Any]:
    """The section of a plan about approvals."""
    return plan.contents.get("approval", {})


def _required(plan: PlanHash) -> int:
    """How many people must approve a plan."""
    required = _rule(plan).get("required", 0)
    return required if isinstance(required, int) else 0


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
