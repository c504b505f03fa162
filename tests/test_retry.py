"""The retry rules: each row of the tables in docs/states.md, and what must hold for all answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.model import Answer, AnswerKind, Operation, State
from bulkcert.retry import (
    Again,
    Decision,
    NextStep,
    RetryPolicy,
    Settle,
    Split,
)

K = AnswerKind
TO_ATTEMPTS = [K.DONE, K.REFUSED, K.DISPUTED, K.IN_DOUBT, K.NOT_SENT, K.THROTTLED, K.FLAWED]
TO_LOOKS = [K.HOLDS, K.ABSENT, K.UNCLEAR, K.IN_DOUBT, K.NOT_SENT, K.THROTTLED, K.FLAWED]


def policy(*, idempotent: bool = True, changes: bool = True, most: int = 3) -> RetryPolicy:
    return RetryPolicy(most, changes, lambda operation: idempotent, random.Random(1))


def attempted(**known: Any) -> Operation:
    return Operation(**{"id": 1, "line": 2, "fields": {}, "attempts": 1} | known)


def outcome(decision: Decision) -> State | str:
    match decision:
        case Settle(state, _):
            return state
        case Again(look, _):
            return "look" if look else "attempt"
        case NextStep():
            return "next step"
        case Split():
            return "split"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (K.DONE, State.SUCCEEDED),
        (K.REFUSED, State.FAILED),
        (K.DISPUTED, "look"),
        (K.IN_DOUBT, "attempt"),
        (K.NOT_SENT, "attempt"),
        (K.THROTTLED, "attempt"),
        (K.FLAWED, State.FAILED),
        (K.STEP, "next step"),
    ],
)
def test_after_a_first_attempt(kind: AnswerKind, expected: State | str) -> None:
    assert outcome(policy().after_attempt(attempted(), Answer(kind))) == expected


def test_an_unrepeatable_action_in_doubt_is_looked_up_and_not_at_once() -> None:
    decision = policy(idempotent=False).after_attempt(attempted(), Answer(K.IN_DOUBT))
    assert outcome(decision) == "look"
    assert isinstance(decision, Again)
    assert decision.delay_s >= 2.0


def test_attempts_used_up_in_doubt_are_looked_up() -> None:
    assert outcome(policy().after_attempt(attempted(attempts=3), Answer(K.IN_DOUBT))) == "look"


def test_a_refusal_after_doubt_is_looked_up() -> None:
    assert outcome(policy().after_attempt(attempted(in_doubt=True), Answer(K.REFUSED))) == "look"


@pytest.mark.parametrize("kind", [K.NOT_SENT, K.THROTTLED])
def test_what_was_not_executed_is_no_attempt(kind: AnswerKind) -> None:
    operation = attempted(attempts=2)
    policy().after_attempt(operation, Answer(kind))
    assert operation.attempts == 1
    assert not operation.in_doubt


def test_a_provider_out_of_reach_is_tried_again_however_often() -> None:
    decision = policy().after_attempt(attempted(not_sent_in_a_row=99), Answer(K.NOT_SENT))
    assert outcome(decision) == "attempt"


@pytest.mark.parametrize(("known", "expected"), [({}, State.FAILED), ({"in_doubt": True}, "look")])
def test_an_operation_that_is_never_let_through_ends(
    known: dict[str, Any], expected: State | str
) -> None:
    turned_away = Answer(K.NOT_SENT, 401, "the gateway does not accept the access token")
    assert outcome(policy().after_attempt(attempted(), turned_away)) == "attempt"
    assert (
        outcome(policy().after_attempt(attempted(not_sent_in_a_row=2, **known), turned_away))
        == expected
    )


@pytest.mark.parametrize(
    ("known", "expected"), [({}, State.FAILED), ({"in_doubt": True}, State.UNKNOWN)]
)
def test_a_look_that_is_never_let_through_ends(known: dict[str, Any], expected: State) -> None:
    turned_away = Answer(K.NOT_SENT, 401, "the gateway does not accept the access token")
    assert outcome(policy().after_look(attempted(**known), turned_away)) == "look"
    assert (
        outcome(policy().after_look(attempted(not_sent_in_a_row=2, **known), turned_away))
        is expected
    )


DOUBT = Answer(K.IN_DOUBT, 99500, "internal error")
DISPUTE = Answer(K.DISPUTED, 99400, "not now")


@pytest.mark.parametrize(
    ("kind", "operation", "expected"),
    [
        (K.HOLDS, {"in_doubt": True, "last_error": DOUBT}, State.SUCCEEDED),
        (K.HOLDS, {"last_error": DISPUTE}, State.ALREADY_DONE),
        (K.HOLDS, {"progress": {"renewed": 1}}, State.SUCCEEDED),
        (K.ABSENT, {"in_doubt": True, "last_error": DOUBT}, "attempt"),
        (K.ABSENT, {"in_doubt": True, "last_error": DOUBT, "attempts": 3}, State.FAILED),
        (K.ABSENT, {"last_error": DISPUTE}, State.FAILED),
        (K.ABSENT, {"in_doubt": True, "last_error": DISPUTE}, State.FAILED),
        (K.UNCLEAR, {"in_doubt": True, "last_error": DOUBT}, "attempt"),
        (K.UNCLEAR, {"in_doubt": True, "last_error": DOUBT, "attempts": 3}, State.UNKNOWN),
        (K.UNCLEAR, {"in_doubt": True, "last_error": DISPUTE}, State.UNKNOWN),
        (K.UNCLEAR, {"last_error": DISPUTE}, State.FAILED),
        (K.IN_DOUBT, {"last_error": DISPUTE}, "look"),
        (K.IN_DOUBT, {"last_error": DISPUTE, "failed_lookups": 2}, State.UNKNOWN),
        (K.IN_DOUBT, {"in_doubt": True, "failed_lookups": 2}, "attempt"),
        (K.IN_DOUBT, {"in_doubt": True, "failed_lookups": 2, "attempts": 3}, State.UNKNOWN),
        (K.THROTTLED, {"in_doubt": True, "failed_lookups": 2}, "look"),
        (K.NOT_SENT, {"in_doubt": True, "failed_lookups": 2}, "look"),
        (K.REFUSED, {}, State.FAILED),
        (K.STEP, {}, "next step"),
    ],
)
def test_after_a_look(kind: AnswerKind, operation: dict[str, Any], expected: State | str) -> None:
    assert outcome(policy().after_look(attempted(**operation), Answer(kind))) == expected


@pytest.mark.parametrize("kind", [K.UNCLEAR, K.IN_DOUBT])
def test_an_unrepeatable_action_that_can_t_be_settled_is_unknown(kind: AnswerKind) -> None:
    operation = attempted(in_doubt=True, last_error=DOUBT, failed_lookups=2)
    decision = policy(idempotent=False).after_look(operation, Answer(kind))
    assert outcome(decision) is State.UNKNOWN


def test_a_failure_names_the_refusal_and_what_was_seen() -> None:
    seen = Answer(K.ABSENT, 0, "the certificate is still valid")
    decision = policy().after_look(attempted(last_error=DISPUTE), seen)
    assert isinstance(decision, Settle)
    assert decision.answer.code == 99400
    assert decision.answer.message == "not now; looked up: the certificate is still valid"


def test_a_selection_is_split_and_one_without_matches_is_already_done() -> None:
    assert policy().after_look(attempted(), Answer(K.SELECTED, result=[{"certSn": 1}])) == Split(
        [{"certSn": 1}]
    )
    assert (
        outcome(policy().after_look(attempted(), Answer(K.SELECTED, result=[]))) == "already_done"
    )


def test_reading_is_never_in_doubt() -> None:
    reads = policy(changes=False)
    operation = attempted()
    assert outcome(reads.after_attempt(operation, Answer(K.IN_DOUBT))) == "attempt"
    assert not operation.in_doubt
    last = attempted(attempts=3)
    assert outcome(reads.after_attempt(last, Answer(K.IN_DOUBT))) is State.FAILED


@given(attempts=st.integers(1, 10_000))
def test_backoff_is_bounded_however_many_attempts(attempts: int) -> None:
    decision = policy(most=10_001).after_attempt(attempted(attempts=attempts), Answer(K.IN_DOUBT))
    assert isinstance(decision, Again)
    assert 0 <= decision.delay_s <= 30.0


@given(
    answers=st.lists(st.tuples(st.sampled_from(TO_ATTEMPTS), st.sampled_from(TO_LOOKS))),
    idempotent=st.booleans(),
    resumed=st.booleans(),
)
def test_nothing_is_called_failed_or_repeated_blindly(
    answers: list[tuple[AnswerKind, AnswerKind]], idempotent: bool, resumed: bool
) -> None:
    """Follow an operation through any answers, as the dispatcher would."""
    rules = policy(idempotent=idempotent)
    operation = attempted(in_doubt=resumed)
    look = resumed
    for to_attempt, to_look in answers:
        kind = to_look if look else to_attempt
        decide: Callable[[Operation, Answer], Decision]
        decide = rules.after_look if look else rules.after_attempt
        decision = decide(operation, Answer(kind))
        match decision:
            case Settle(State.FAILED, _) if operation.in_doubt and kind is not K.FLAWED:
                assert look
                assert kind in (K.ABSENT, K.UNCLEAR)
                assert kind is K.ABSENT or not operation.in_doubt
            case Settle(State.ALREADY_DONE, _):
                assert not operation.in_doubt
            case Again(again_looks, _) if not idempotent and kind is K.IN_DOUBT and not look:
                assert again_looks
            case Again(False, _) if not idempotent and look:
                assert kind is K.ABSENT
        if isinstance(decision, Settle):
            return
        assert isinstance(decision, Again)
        look = decision.look
        operation.attempts += not look
        assert operation.attempts <= rules.max_attempts
