"""What people decide is in the store and in its event log: what, when, who and why."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import manifest

from bulkcert import decisions
from bulkcert.amendment import Amendment
from bulkcert.approval.files import SignedFile
from bulkcert.approval.ssh_keygen import Signer
from bulkcert.approval.verdict import Approved, Verdict
from bulkcert.control import ControlEntry, Verb, who
from bulkcert.event_log import EventType, RunEvent
from bulkcert.model import State, Target
from bulkcert.plan_hash import Difference, PlanHash
from bulkcert.rules.abort import Settled
from bulkcert.store.base import Abort, StoredApproval, pending_abort
from bulkcert.store.manifest import Amended
from bulkcert.store.sqlite import SqlitePlan, SqliteReader, SqliteStore

NOW_S = 1_800_000_000.0
BEFORE = manifest(amendments=(Amended(at=1.0, who="ann@ops1", before="0" * 64, changes=("x",)),))
LIMITS = Difference("limits", "requests_per_second", 400.0, 490.0)
ABORT = Abort("7c01be", 1000.0, "failed", "2 of 4 failed")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with three operations; one of them is in flight, and nobody has counted it."""
    path = tmp_path / "checkpoint.sqlite3"
    plan = SqlitePlan(path)
    for line in (2, 3, 4):
        plan.add(Target(line, {"assetId": f"A{line}"}), line)
    plan.finish(BEFORE)
    with contextlib.closing(SqliteStore(path)) as store, store.transaction():
        assert len(store.claim(1)) == 1
        store.add_settled([(1, Settled(State.FAILED, 500, 0))])
        store.add_abort(ABORT)
    monkeypatch.setattr(time, "time", lambda: NOW_S)
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[SqliteStore]:
    """The store, in a transaction."""
    with contextlib.closing(SqliteStore(path)) as store, store.transaction():
        yield store


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """The same."""
    with opened(path) as store:
        yield store


def only_event(store: SqliteStore) -> RunEvent:
    [event] = store.events()
    return event


def test_a_control_is_recorded_as_it_was_asked(store: SqliteStore) -> None:
    entry = decisions.record_control(store, Verb.RATE, "5", "flood", at=9.5, asked_by="bob@ops2")
    assert entry == ControlEntry(1, 9.5, "bob@ops2", "flood", Verb.RATE, "5")
    assert store.controls() == [entry]
    event = only_event(store)
    assert (event.at, event.type) == (9.5, EventType.CONTROL)
    assert event.data == {
        "change": "asked",
        "number": 1,
        "verb": "rate",
        "value": "5",
        "who": "bob@ops2",
        "why": "flood",
    }


@pytest.mark.parametrize("forget", [True, False])
def test_an_override_says_who_and_why_and_may_forget(store: SqliteStore, forget: bool) -> None:
    if forget:  # as is usual
        decisions.record_override(store, ABORT.id, "known fault")
    else:
        decisions.record_override(store, ABORT.id, "known fault", forget=False)
    assert store.aborts() == [ABORT._replace(overridden_at=NOW_S, who=who(), why="known fault")]
    assert len(list(store.settled(None))) == (0 if forget else 1)
    event = only_event(store)
    assert (event.at, event.type) == (NOW_S, EventType.OVERRIDE)
    assert event.data == {"abort": ABORT.id, "who": who(), "why": "known fault"}


def test_an_amendment_changes_the_plan_and_keeps_what_it_was(path: Path) -> None:
    plan = PlanHash(BEFORE.plan.contents | {"limits": {"requests_per_second": 490.0}})
    cap = Difference("protect", "max_operations", None, 5)
    with opened(path) as store:
        decisions.record_amendment(store, BEFORE, Amendment((LIMITS, cap), plan), None)
        event = only_event(store)
        assert store.standing().begun == 1
        assert pending_abort(store.aborts()) == ABORT  # it was not handed over
    changes = [str(LIMITS), str(cap)]
    assert (event.at, event.type, event.plan) == (NOW_S, EventType.AMENDMENT, plan.hash)
    assert event.data == {"who": who(), "changes": changes, "before": BEFORE.plan.hash}
    with contextlib.closing(SqliteReader(path)) as reader:
        after = reader.manifest()
    amended = Amended(at=NOW_S, who=who(), before=BEFORE.plan.hash, changes=tuple(changes))
    assert after.plan.hash == plan.hash
    assert after.amendments == (*BEFORE.amendments, amended)
    assert after.run_id == BEFORE.run_id


def test_an_amendment_of_the_rule_that_stopped_the_run_lifts_its_abort_and_forgets_nothing(
    store: SqliteStore,
) -> None:
    rule = Difference("abort", "failed", "1 of 4", "3 of 4")
    decisions.record_amendment(store, BEFORE, Amendment((LIMITS, rule), BEFORE.plan), ABORT)
    why = f"{LIMITS}; {rule}"
    assert store.aborts() == [ABORT._replace(overridden_at=NOW_S, who=who(), why=why)]
    assert len(list(store.settled(None))) == 1
    assert [event.type for event in store.events()] == [EventType.AMENDMENT, EventType.OVERRIDE]


def test_an_amendment_of_something_else_lifts_no_abort(store: SqliteStore) -> None:
    decisions.record_amendment(store, BEFORE, Amendment((LIMITS,), BEFORE.plan), ABORT)
    assert store.aborts() == [ABORT]
    assert only_event(store).type is EventType.AMENDMENT


@pytest.mark.parametrize("abort", ["", ABORT.id])
def test_each_approval_is_kept_with_all_that_is_needed_to_judge_it_again(
    path: Path, abort: str
) -> None:
    approved = tuple(
        Approved(
            Signer(name, f"SHA256:{name}", frozenset({name})),
            2_000_000_000 + number,
            SignedFile("file", 5.0, b"statement of " + name.encode(), b"signature"),
        )
        for number, name in enumerate(["ann", "bob"])
    )
    with opened(path) as store:
        decisions.record_approvals(store, Verdict(2, approved, (), 0, (), abort, b"signers"))
        events = store.events()
    with contextlib.closing(SqliteReader(path)) as reader:
        kept = reader.approvals()
    assert kept == [
        StoredApproval(
            at=NOW_S,
            abort=abort,
            who=name,
            key=f"SHA256:{name}",
            expires_at=2_000_000_000 + number,
            statement=b"statement of " + name.encode(),
            signature=b"signature",
            signers=b"signers",
        )
        for number, name in enumerate(["ann", "bob"])
    ]
    assert [(event.at, event.type) for event in events] == [(NOW_S, EventType.APPROVAL)] * 2
    assert events[1].data == {
        "who": "bob",
        "key": "SHA256:bob",
        "expires_at": "2033-05-18T03:33:21.000Z",
        "statement": hashlib.sha256(b"statement of bob").hexdigest(),
        "abort": abort,
    }
