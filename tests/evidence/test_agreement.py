"""Where the files of a pack contradict each other: one change at a time to a pack in which nothing
does. All that is found is compared, so a fault that hides another or brings a second one is seen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from approval_job import People
from evidence_pack import AT_S, checked, finished_run, packed

from bulkcert import event_log
from bulkcert.approval.statement import Statement
from bulkcert.event_log import Happened
from bulkcert.evidence.agreement import contradictions
from bulkcert.evidence.archive import ArchiveReader
from bulkcert.evidence.contents import ALWAYS
from bulkcert.evidence.facts import Approved, Events, Facts
from bulkcert.evidence.manifest import HEAD, MANIFEST, LastEvent, Manifest
from bulkcert.json_lines import utc
from bulkcert.model import Outcome
from bulkcert.plan_hash import PlanHash

pytestmark = pytest.mark.system


class Found:
    """A manifest and the facts of its pack; tests replace parts of both.

    Attributes:
        manifest: the manifest.
        facts: what the files say.
    """

    def __init__(self, manifest: Manifest, facts: Facts) -> None:
        self.manifest, self.facts = manifest, facts

    def says(self, **changes: Any) -> None:
        """The manifest says something else."""
        self.manifest = replace(self.manifest, **changes)

    def have(self, **changes: Any) -> None:
        """The files say something else."""
        self.facts = replace(self.facts, **changes)

    def happened(self, **changes: Any) -> None:
        """The events say something else."""
        assert self.facts.events is not None
        self.have(events=replace(self.facts.events, **changes))

    def lacks(self, *names: str) -> None:
        """The pack lacks these files."""
        files = {name: part for name, part in self.manifest.files.items() if name not in names}
        self.says(files=files)

    def summarizes(self, **changes: Any) -> None:
        """The summary says something else."""
        assert self.facts.summary is not None
        self.have(summary={**self.facts.summary, **changes})

    def contradictions(self) -> list[str]:
        return list(contradictions(self.manifest, self.facts))


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory, people: People) -> Found:
    """What is in a sound pack."""
    folder = tmp_path_factory.mktemp("agreement")
    path = packed(finished_run(folder / "run", people), people, folder / "pack.tar.gz")
    with path.open("rb") as file:
        archive = ArchiveReader(file)
        head = {}
        for _ in HEAD:
            entry = archive.next()
            assert entry is not None
            head[entry.name] = entry.content()
        manifest = Manifest.parse(head[MANIFEST])
        facts = Facts(extra_columns=manifest.extra_columns)
        while (entry := archive.next()) is not None:
            facts.read(entry)
    return Found(manifest, facts)


@pytest.fixture
def found(approved: Found) -> Found:
    """The same, without its approvals, so that no signature is checked."""
    return Found(approved.manifest, replace(approved.facts, approvals=None))


@pytest.fixture
def judged(approved: Found) -> Found:
    """The same, with its approvals."""
    return Found(approved.manifest, replace(approved.facts, signed=dict(approved.facts.signed)))


Change = Callable[[Found], object]
ZEROS = "0" * 64

AGREE: dict[str, Change] = {
    "nothing changed": lambda found: None,
    "no targets, for a reason": lambda found: (
        found.lacks("targets.jsonl"),
        found.says(left_out={"targets.jsonl": "they are not kept"}),
        found.have(targets=None, targets_sum=None),
    ),
    "no report, for a reason": lambda found: (
        found.lacks("report.html"),
        found.says(left_out={"report.html": "it is too long"}),
        found.have(report=None),
    ),
    "nobody has verified the run": lambda found: (
        found.lacks("verify.jsonl"),
        found.says(verified=None),
        found.happened(verification=None),
        found.have(verdicts=None),
    ),
    "unreadable events, and no verification": lambda found: (
        found.lacks("verify.jsonl"),
        found.have(events=None),
    ),
    "no sound plan": lambda found: found.have(plan=None, targets=ZEROS),
    "events without a beginning": lambda found: found.happened(rehearsals=set()),
    "no event": lambda found: (
        found.says(last_event=LastEvent(), verified=None),
        found.happened(last=LastEvent(), last_plan="", verification=None, outcomes=None),
        found.have(verdicts=None),
        found.lacks("verify.jsonl"),
        found.happened(runs=set()),
    ),
    "a process is at work": lambda found: found.happened(outcomes=None),
    "targets that can't be told from other columns": lambda found: found.have(targets_sum=None),
    "no results": lambda found: found.have(outcomes=None, results_sum=0, attempts=0),
    "no summary": lambda found: found.have(summary=None),
    "an unreadable verification": lambda found: found.have(verdicts=None, verification=""),
}


@pytest.mark.parametrize("change", AGREE.values(), ids=AGREE)
def test_what_is_missing_for_a_reason_contradicts_nothing(found: Found, change: Change) -> None:
    change(found)
    assert found.contradictions() == []


DIFFER: dict[str, tuple[Change, list[str]]] = {
    "a fault of a single file": (
        lambda found: found.have(faults=["x is wrong", "y is wrong"]),
        ["x is wrong", "y is wrong"],
    ),
    "another plan": (
        lambda found: found.have(plan=PlanHash(found.facts.plan.contents | {"abort": {"x": 1}})),
        ["plan.json is another plan than that of the manifest"],
    ),
    "other targets than the plan": (
        lambda found: found.have(targets=ZEROS),
        ["targets.jsonl has other targets than the plan"],
    ),
    "a plan without targets": (
        lambda found: (
            found.have(plan=PlanHash({"action": {}})),
            found.says(plan=PlanHash({"action": {}}).hash),
            found.happened(last_plan=PlanHash({"action": {}}).hash),
            found.summarizes(plan=PlanHash({"action": {}}).hash),
            found.have(report=None),
        ),
        ["targets.jsonl has other targets than the plan"],
    ),
    "a broken chain hides what follows from it": (
        lambda found: found.happened(
            fault="line 4 is rubbish",
            last=LastEvent(),
            verification=None,
            outcomes={},
            approved=[],
        ),
        ["the chain of events is broken: events.jsonl, line 4 is rubbish"],
    ),
    "a chain that was cut": (
        lambda found: found.happened(last=found.facts.events.last._replace(seq=4)),
        ["the chain ends with event 4, and event 5 was the last one"],
    ),
    "a last event of the same number": (
        lambda found: found.happened(last=found.facts.events.last._replace(hash=ZEROS)),
        ["event 5, the last one, is not the one that was signed"],
    ),
    "events of other runs": (
        lambda found: found.happened(runs={"fleet", "zoo", "ark"}),
        ["events.jsonl has events of run 'ark'", "events.jsonl has events of run 'zoo'"],
    ),
    "events that others have": (
        lambda found: found.happened(witnessed={"b", "a"}),
        [
            "no event has the hash a, which somebody has received",
            "no event has the hash b, which somebody has received",
        ],
    ),
    "another plan at the end": (
        lambda found: found.happened(last_plan=ZEROS),
        ["events.jsonl ends with another plan than that of the manifest"],
    ),
    "another verification": (
        lambda found: found.says(verified=None),
        ["events.jsonl has another verification than the manifest"],
    ),
    "a rehearsal among the processes": (
        lambda found: found.happened(rehearsals={False, True}),
        ["the manifest says that it was not a rehearsal, and events.jsonl says otherwise"],
    ),
    "not a rehearsal": (
        lambda found: (found.says(rehearsal=True), found.summarizes(rehearsal=True)),
        ["the manifest says that it was a rehearsal, and events.jsonl says otherwise"],
    ),
    "a total that is too high": (
        lambda found: (found.says(total=7), found.summarizes(total=7)),
        ["the outcomes in the manifest do not add up to its total"],
    ),
    "other outcomes at the end": (
        lambda found: found.happened(outcomes={**found.manifest.outcomes, "already_done": 2}),
        ["the last end of a process has 2 already done, and the manifest 0"],
    ),
    "an outcome that there is not": (
        lambda found: found.happened(outcomes={**found.manifest.outcomes, "\x1b" + "a" * 50: 1}),
        [rf"the last end of a process has 1 \x1b{'a' * 36}, and the manifest 0"],
    ),
    "other outcomes in the results": (
        lambda found: found.have(outcomes=Counter(succeeded=6)),
        [
            "results.jsonl has 6 succeeded, and the manifest 5",
            "results.jsonl has 0 failed, and the manifest 1",
        ],
    ),
    "results of other targets": (
        lambda found: found.have(results_sum=1),
        ["results.jsonl has other targets than targets.jsonl"],
    ),
    "other outcomes in the summary": (
        lambda found: found.summarizes(failed=0),
        ["summary.json has 0 failed, and the manifest 1"],
    ),
    "other attempts in the summary": (
        lambda found: found.summarizes(attempts=7),
        ["summary.json has 7 attempts, and results.jsonl 6"],
    ),
    **{
        f"another {name} in the summary": (
            lambda found, name=name: found.summarizes(**{name: "other"}),
            [f"summary.json has another {name.replace('_', ' ')} than the manifest"],
        )
        for name in ("plan", "rehearsal", "provider", "action", "endpoint", "total", "exit_code")
    },
    "a verification of other devices": (
        lambda found: found.have(verification=ZEROS),
        ["verify.jsonl is not what the last verification among the events has seen"],
    ),
    "a verification that is not among the events": (
        lambda found: (found.happened(verification=None), found.says(verified=None)),
        ["verify.jsonl is not what the last verification among the events has seen"],
    ),
    "another report": (
        lambda found: found.have(report=b""),
        ["report.html is about another run"],
    ),
    "a report of another plan": (
        lambda found: found.have(
            report=found.facts.report.replace(found.manifest.plan.encode(), b"0")
        ),
        ["report.html is about another plan"],
    ),
    **{
        f"{name} verified": (
            lambda found, verdicts=verdicts: found.have(verdicts=Counter(verdicts)),
            ["verify.jsonl has other counts than the verification among the events"],
        )
        for name, verdicts in {
            "fewer": {"agrees": 5},
            "some differ": {"agrees": 6, "differs": 1},
            "some are not read": {"agrees": 6, "not_read": 1},
        }.items()
    },
    **{
        f"no {name}, for a reason that does not count": (
            lambda found, name=name: (found.lacks(name), found.says(left_out={name: "why"})),
            [f"the manifest lacks {name}, and gives no reason"],
        )
        for name in ALWAYS
    },
    **{
        f"no {name}, without a reason": (
            lambda found, name=name: found.lacks(name),
            [f"the manifest lacks {name}, and gives no reason"],
        )
        for name in ("targets.jsonl", "report.html", "verify.jsonl")
    },
}


@pytest.mark.parametrize(("change", "faults"), DIFFER.values(), ids=DIFFER)
def test_a_contradiction_is_found_once(found: Found, change: Change, faults: list[str]) -> None:
    change(found)
    assert found.contradictions() == faults


# ---- approvals


def changed(found: Found, number: int, **changes: str) -> None:
    """Change what `approvals.json` and the events say of an approval."""
    assert found.facts.approvals is not None
    approvals = list(found.facts.approvals)
    approvals[number - 1] = approvals[number - 1]._replace(**changes)
    have_approvals(found, *approvals)


def have_approvals(found: Found, *approvals: Approved) -> None:
    found.have(approvals=list(approvals))
    found.happened(approved=list(approvals))
    found.says(approvals=len(approvals))


def files(found: Found, number: int, **changes: bytes | None) -> None:
    """Change the files of an approval; None removes one."""
    ends = {"statement": ".approval", "signature": ".approval.sig", "signers": ".signers"}
    contents: dict[str, bytes | None] = {**found.facts.signed[number]}
    contents |= {ends[name]: content for name, content in changes.items()}
    kept = {end: content for end, content in contents.items() if content is not None}
    found.have(signed={**found.facts.signed, number: kept})


def states(found: Found, people: People, *, plan: PlanHash | None = None, **facts: str) -> None:
    """Alice signs something else."""
    plan = plan or found.facts.plan
    assert plan is not None
    usual = {"Plan": plan.grouped, "Run": "1"}
    text = str(
        Statement(
            facts=usual | {name.replace("_", " "): value for name, value in facts.items()},
            plan=plan,
            approved_s=int(AT_S) - 60,
            expires_s=int(AT_S) + 3600,
        )
    ).encode()
    files(found, 1, statement=text, signature=people.sign("alice", text))
    changed(found, 1, statement=hashlib.sha256(text).hexdigest())


def contents_of(found: Found, number: int = 1) -> Mapping[str, bytes]:
    return found.facts.signed[number]


def test_approvals_that_count_contradict_nothing(judged: Found) -> None:
    assert judged.contradictions() == []


def test_unreadable_events_do_not_contradict_approvals(judged: Found) -> None:
    judged.have(events=None)
    assert judged.contradictions() == []
    events = Events(runs={judged.manifest.run}, last_plan=judged.manifest.plan, fault="line 1")
    judged.have(events=events)
    [fault] = judged.contradictions()
    assert fault.startswith("the chain of events is broken")


def test_approvals_are_counted_and_compared_with_the_events(judged: Found) -> None:
    judged.says(approvals=3)
    assert judged.contradictions() == [
        "approvals.json has other approvals than the manifest counts"
    ]
    judged.says(approvals=2)
    judged.happened(approved=[])
    assert judged.contradictions() == ["approvals.json has other approvals than events.jsonl"]


@pytest.mark.parametrize("kind", ["statement", "signature", "signers"])
def test_an_approval_has_three_files(judged: Found, kind: str) -> None:
    files(judged, 1, **{kind: None})
    assert judged.contradictions() == [
        "approval 1, by alice, is not complete",
        "1 person has approved, not 2",
    ]
    judged.have(signed={2: judged.facts.signed[2]})
    assert judged.contradictions()[0] == "approval 1, by alice, is not complete"


def test_without_any_approval_that_counts_nobody_has_approved(judged: Found) -> None:
    judged.have(signed={})
    assert judged.contradictions() == [
        "approval 1, by alice, is not complete",
        "approval 2, by bob, is not complete",
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"statement": ZEROS}, "has another statement"),
        ({"who": "bob"}, "is signed by alice with SHA256:"),
        ({"key": "SHA256:x"}, "is signed by alice with SHA256:"),
        ({"abort": "7c01be"}, "is for another abort"),
        ({"at": "yesterday"}, "Invalid isoformat string: 'yesterday'"),
        ({"at": utc(AT_S + 99 * 366 * 86_400)}, ""),  # keys have no end
    ],
)
def test_an_approval_is_what_it_is_said_to_be(
    judged: Found, changes: dict[str, str], fault: str
) -> None:
    changed(judged, 1, **changes)
    faults = judged.contradictions()
    if not fault:
        assert faults == []
        return
    assert faults[0].startswith(f"approval 1, by {changes.get('who', 'alice')}, {fault}")
    assert faults[1:] == ["1 person has approved, not 2"]


def test_a_key_that_has_expired_since_an_approval_was_used_does_not_matter(
    people: People, tmp_path: Path
) -> None:
    def local(at_s: float) -> str:
        return datetime.fromtimestamp(at_s, UTC).astimezone().strftime("%Y%m%d%H%M%S")

    valid = f'valid-after="{local(AT_S - 60)}",valid-before="{local(AT_S + 60)}"'
    run = finished_run(tmp_path / "run", people, options=valid)
    assert checked(packed(run, people, tmp_path / "pack.tar.gz"), people).faults == ()
    expired = f'valid-before="{local(AT_S - 60)}"'
    run = finished_run(tmp_path / "expired", people, options=expired)
    first, second = checked(packed(run, people, tmp_path / "expired.tar.gz"), people).faults
    assert first.startswith("approval 1, by alice, does not count: signed with SHA256:")
    assert second.startswith("approval 2, by bob, does not count: ")


def test_a_signature_must_be_that_of_a_signer(judged: Found) -> None:
    files(judged, 1, signature=contents_of(judged)[".approval.sig"].replace(b"A", b"B"))
    first, second = judged.contradictions()
    assert first.startswith("approval 1, by alice, does not count: ")
    assert second == "1 person has approved, not 2"


@pytest.mark.parametrize(
    ("signers", "fault"),
    [
        (b"alice ssh-ed25519 rubbish\n", "has signers that can't be used: "),
        (None, "was judged by other signers than those of its plan"),
    ],
)
def test_the_signers_must_be_those_of_the_plan(
    judged: Found, signers: bytes | None, fault: str
) -> None:
    files(judged, 1, signers=signers or contents_of(judged)[".signers"] + b"# more\n")
    first, second = judged.contradictions()
    assert first.startswith(f"approval 1, by alice, {fault}")
    assert second == "1 person has approved, not 2"


def test_a_statement_that_was_not_written_by_us_does_not_count(
    judged: Found, people: People
) -> None:
    files(judged, 1, statement=b"yes", signature=people.sign("alice", b"yes"))
    changed(judged, 1, statement=hashlib.sha256(b"yes").hexdigest())
    first, second = judged.contradictions()
    assert first.startswith("approval 1, by alice, ")
    assert second == "1 person has approved, not 2"


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"Run": "2"}, "is for run '2' of the job"),
        ({"Overrides_abort": "7c01be"}, "is for another abort"),
    ],
)
def test_a_statement_must_be_about_this_run_and_this_abort(
    judged: Found, people: People, facts: dict[str, str], fault: str
) -> None:
    states(judged, people, **facts)
    assert judged.contradictions() == [
        f"approval 1, by alice, {fault}",
        "1 person has approved, not 2",
    ]


def test_an_approval_of_a_plan_that_the_run_did_not_have(judged: Found, people: People) -> None:
    assert judged.facts.plan is not None
    states(judged, people, plan=PlanHash(judged.facts.plan.contents | {"abort": {"x": 1}}))
    assert judged.contradictions() == [
        "approval 1, by alice, is for another plan than the one that the run had then",
        "1 person has approved, not 2",
        "1 person has approved, not 2",
    ]


def test_an_approval_is_compared_with_the_plan_that_the_run_had_then(
    judged: Found, people: People
) -> None:
    assert judged.facts.plan is not None
    before = PlanHash(judged.facts.plan.contents | {"abort": {"x": 1}})
    states(judged, people, plan=before)
    judged.happened(approved_plans=[before.hash, judged.manifest.plan])
    assert judged.contradictions() == ["1 person has approved, not 2"] * 2  # of each plan
    judged.happened(approved_plans=[before.hash, before.hash])
    fault = "approval 2, by bob, is for another plan than the one that the run had then"
    assert judged.contradictions()[0] == fault


def test_one_person_does_not_count_twice(judged: Found) -> None:
    assert judged.facts.approvals is not None
    alice = judged.facts.approvals[0]
    have_approvals(judged, alice, alice)
    judged.have(signed={1: contents_of(judged), 2: contents_of(judged)})
    assert judged.contradictions() == ["1 person has approved, not 2"]


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        (lambda found: None, True),
        (lambda found: found.have(attempts=1), True),
        (lambda found: found.have(attempts=0), False),
        (lambda found: found.have(plan=None), False),
    ],
)
def test_what_was_sent_without_an_approval(judged: Found, change: Change, needed: bool) -> None:
    have_approvals(judged)
    judged.have(summary=None)
    change(judged)
    said = ["the plan needs 2 approvals, and there are none"] if needed else []
    assert judged.contradictions() == said


@pytest.mark.parametrize("section", [{}, {"approval": {"required": "two"}}])
def test_a_plan_that_does_not_ask_for_approvals_needs_none(
    judged: Found, section: dict[str, Any]
) -> None:
    assert judged.facts.plan is not None
    contents = judged.facts.plan.contents
    plan = PlanHash({name: contents[name] for name in contents if name != "approval"} | section)
    have_approvals(judged)
    judged.have(plan=plan, report=None)
    judged.says(plan=plan.hash)
    judged.happened(last_plan=plan.hash)
    judged.summarizes(plan=plan.hash)
    assert judged.contradictions() == []


def test_a_rehearsal_needs_no_approval(judged: Found) -> None:
    have_approvals(judged)
    judged.says(rehearsal=True)
    judged.summarizes(rehearsal=True)
    judged.happened(rehearsals={True})
    assert judged.contradictions() == []


def test_the_outcomes_at_the_end_are_those_of_the_last_host_that_ended() -> None:
    def process(lease: str) -> dict[str, Any]:
        return {"host": "ops1", "pid": 7, "user": "ann", "version": "1.0", "lease": lease}

    def begun(lease: str) -> Happened:
        facts: dict[str, Any] = {"total": 9, "settled": 0, "rehearsal": False, "options": []}
        return event_log.started(AT_S, process=process(lease), ceiling=1.0, **facts)

    def ended(lease: str, outcomes: Mapping[Outcome, int]) -> Happened:
        figures = {"requests": 1, "throttled": 0, "busiest_second": 1}
        return event_log.ended(AT_S, 0, "", outcomes, process=process(lease), **figures)

    def outcomes_of(*happened: Happened) -> Mapping[str, Any] | None:
        events, before = Events(), None
        for each in happened:
            before = event_log.following(before, "job", "0" * 64, each)
            events.add(before.line)
        return events.outcomes

    first, last = {Outcome.SUCCEEDED: 4}, {Outcome.SUCCEEDED: 9}
    fenced = event_log.fenced(AT_S, process("b"), by="ops1", silent_s=8.0, operations=3)
    hosts = [begun("a"), begun("b"), begun("c"), fenced]
    assert outcomes_of(*hosts, ended("a", first)) is None
    found = outcomes_of(*hosts, ended("a", first), ended("c", last))
    assert found is not None
    assert found["succeeded"] == 9
