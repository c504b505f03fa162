"""What the life cycle records and counts. Which event leads where: test_states_document.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.lifecycle import (
    NOW,
    AttemptEnded,
    AttemptWithdrawn,
    Claimed,
    Delay,
    Finish,
    Forbidden,
    Lifecycle,
    LookUp,
    LookupEnded,
    Release,
    RetryDue,
    RetryLater,
    Send,
    Transition,
)
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Change,
    LookupKind,
    LookupResult,
    Material,
    MaterialKind,
    Operation,
    State,
    StepRules,
)

SETTLING_S = 30.0

IDEMPOTENT = StepRules(changes=True, idempotent=True)
ONCE = StepRules(changes=True)
READING = StepRules(changes=False)
LOOKUP = StepRules(changes=False, needs_lookup=True)
LOOKUP_FIRST = StepRules(changes=True, idempotent=True, needs_lookup=True)
ONCE_AFTER_LOOKUP = StepRules(changes=True, needs_lookup=True)

DOUBT = AttemptResult(AttemptKind.IN_DOUBT, 99500, "internal error", "r-1")
DISPUTE = AttemptResult(AttemptKind.DISPUTED, 99400, "not now", "r-2", {"refusal": "x"})
REFUSAL = AttemptResult(AttemptKind.REFUSED, 99403, "no permission", "r-3")


TARGET: dict[str, Any] = {"line": 2, "fields": {"assetId": "A"}}


def attempted(**known: Any) -> Operation:
    """An operation in flight with its first attempt counted."""
    return Operation(**{"id": 1, "attempts": 1, **TARGET} | known)


def rules(*steps: StepRules, max_attempts: int = 3) -> Lifecycle:
    return Lifecycle(steps or (IDEMPOTENT,), max_attempts, SETTLING_S)


def after(
    result: AttemptResult | LookupResult, operation: Operation, lifecycle: Lifecycle | None = None
) -> Transition:
    """Let the operation's attempt or look-up end at second 5."""
    event = (
        AttemptEnded(result, 5.0) if isinstance(result, AttemptResult) else LookupEnded(result, 5.0)
    )
    return (lifecycle or rules()).advance(operation, event)


# ---- what another host has left


@pytest.mark.parametrize("step", [IDEMPOTENT, ONCE])
def test_what_another_host_has_left_is_looked_up_after_a_wait(step: StepRules) -> None:
    lifecycle = Lifecycle((step,), 3, SETTLING_S, takeover_wait_s=33.0)
    left = attempted(in_doubt=True, sent_at=0.0)  # however long ago it was sent
    assert lifecycle.advance(left, Claimed()).effect == LookUp(Delay(33.0, 33.0))
    assert lifecycle.advance(attempted(), Claimed()).effect == Send()


def absent_again_and_again(step: StepRules, *, late: bool) -> Transition:
    """Let look-ups show that nothing was done, until something else is to be done."""
    operation = attempted(in_doubt=True, late=late)
    transition = after(LookupResult(LookupKind.ABSENT), operation, rules(step))
    while isinstance(transition.effect, LookUp):
        transition = after(LookupResult(LookupKind.ABSENT), transition.operation, rules(step))
    return transition


@pytest.mark.parametrize(
    ("step", "late", "repeated"),
    [(ONCE, True, False), (ONCE, False, True), (IDEMPOTENT, True, True)],
)
def test_what_may_still_arrive_is_not_repeated_unless_that_does_no_harm(
    step: StepRules, late: bool, repeated: bool
) -> None:
    transition = absent_again_and_again(step, late=late)
    if repeated:
        assert transition.effect == RetryLater(NOW)
    else:
        assert transition.operation.state is State.UNKNOWN


def test_what_may_still_arrive_is_done_if_a_look_up_shows_it() -> None:
    operation = attempted(in_doubt=True, late=True)
    transition = after(LookupResult(LookupKind.HOLDS), operation, rules(ONCE))
    assert transition.operation.state in (State.SUCCEEDED, State.ALREADY_DONE)


# ---- what is recorded


def test_a_settled_operation_is_recorded_with_all_that_is_known() -> None:
    done = AttemptResult(AttemptKind.DONE, 0, "OK", "r-9", {"certSN": "7"}, {"PageNo": 2})
    operation = attempted(attempts=2, step=1, step_data={"known": [1]})
    transition = after(done, operation, rules(LOOKUP, IDEMPOTENT))
    assert transition.change == Change(
        operation_id=1,
        expected=State.IN_FLIGHT,
        state=State.SUCCEEDED,
        attempts=2,
        step=1,
        step_data={"known": [1]},
        code=0,
        message="OK",
        request_id="r-9",
        result={"certSN": "7"},
        finished_at=5.0,
        next_page={"PageNo": 2},
        **TARGET,
    )
    assert transition.operation.state is State.SUCCEEDED
    assert transition.effect == Finish()


def test_what_waits_for_a_retry_is_recorded_with_its_error_and_without_a_result() -> None:
    operation = attempted(last_error=DISPUTE)
    throttled = AttemptResult(AttemptKind.THROTTLED, 429, "slow down", "r-4")
    transition = after(throttled, operation)
    assert transition.change == Change(
        *(1, State.IN_FLIGHT, State.PLANNED, 0),
        code=99400,
        message="not now",
        request_id="r-2",
        **TARGET,
    )
    assert transition.effect == RetryLater(NOW)


def test_a_failure_reports_the_refusal_and_what_was_seen() -> None:
    seen = LookupResult(LookupKind.ABSENT, 0, "the certificate is still valid", "r-8", {"of": 1})
    change = after(seen, attempted(last_error=DISPUTE)).change
    assert change is not None
    assert (change.state, change.code, change.request_id) == (State.FAILED, 99400, "r-2")
    assert change.message == "not now; looked up: the certificate is still valid"
    assert change.result == {"refusal": "x"}
    assert change.finished_at == 5.0
    silent = after(seen, attempted(last_error=DISPUTE._replace(message=""))).change
    assert silent is not None
    assert silent.message == "looked up: the certificate is still valid"


def test_a_failure_without_an_error_reports_what_was_seen() -> None:
    seen = LookupResult(LookupKind.UNCLEAR, 11404, "list was refused", "r-8")
    change = after(seen, attempted(attempts=3)).change
    assert change is not None
    assert (change.code, change.message, change.request_id) == (11404, "list was refused", "r-8")


def test_a_look_up_has_no_next_page() -> None:
    change = after(LookupResult(LookupKind.HOLDS), attempted()).change
    assert change is not None
    assert change.next_page is None


# ---- what is counted


def test_an_intended_attempt_is_counted_and_in_flight() -> None:
    waiting = attempted(state=State.PLANNED, attempts=1, last_error=DOUBT)
    operation, change, effect = rules().advance(waiting, RetryDue())
    assert (operation.attempts, operation.state) == (2, State.IN_FLIGHT)
    assert change == Change(
        *(1, State.PLANNED, State.IN_FLIGHT, 2),
        code=99500,
        message="internal error",
        request_id="r-1",
        **TARGET,
    )
    assert effect == Send()


def test_an_attempt_that_was_not_made_is_not_counted() -> None:
    operation, change, effect = rules().advance(attempted(attempts=2), AttemptWithdrawn())
    assert (operation.attempts, operation.state) == (1, State.PLANNED)
    assert change == Change(1, State.IN_FLIGHT, State.PLANNED, 1, **TARGET)
    assert effect == Release()


FORBIDDEN = Forbidden("on line 3 of never.csv", 5.0)


@pytest.mark.parametrize(
    ("operation", "attempts"),
    [
        (attempted(attempts=2), 1),  # the claim has counted one
        (attempted(attempts=2, state=State.PLANNED), 2),  # it waits for a retry or a look-up
    ],
)
def test_a_forbidden_attempt_is_not_counted(operation: Operation, attempts: int) -> None:
    after, change, effect = rules().advance(operation, FORBIDDEN)
    assert change == Change(
        *(1, operation.state, State.FAILED, attempts),
        code="PROTECTED",
        message="on line 3 of never.csv",
        finished_at=5.0,
        **TARGET,
    )
    assert (after.attempts, after.state, effect) == (attempts, State.FAILED, Finish())


def test_what_is_forbidden_in_doubt_is_unknown_and_keeps_its_attempts() -> None:
    in_doubt = attempted(attempts=2, in_doubt=True, last_error=DOUBT)
    after, change, _ = rules().advance(in_doubt, FORBIDDEN)
    assert change is not None
    assert (change.state, change.code, change.attempts) == (State.UNKNOWN, "PROTECTED", 2)
    assert after.attempts == 2


@pytest.mark.parametrize("kind", [AttemptKind.NOT_SENT, AttemptKind.THROTTLED])
def test_what_was_not_executed_is_not_an_attempt(kind: AttemptKind) -> None:
    operation, change, _ = after(AttemptResult(kind), attempted(attempts=2))
    assert operation.attempts == 1
    assert change is not None
    assert change.attempts == 1
    assert not operation.in_doubt
    assert operation.last_error is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(kind, 3 if kind is AttemptKind.NOT_SENT else 0) for kind in AttemptKind],
)
def test_only_requests_that_could_not_be_sent_in_a_row_count(
    kind: AttemptKind, expected: int
) -> None:
    operation, _, effect = after(AttemptResult(kind), attempted(not_sent_in_a_row=2))
    if effect != Finish():
        assert operation.not_sent_in_a_row == expected


@pytest.mark.parametrize(
    ("kind", "not_sent", "failed"),
    [
        (LookupKind.NOT_SENT, 2, 1),
        (LookupKind.THROTTLED, 0, 1),
        (LookupKind.FAILED, 0, 2),
        (LookupKind.ABSENT, 0, 0),
    ],
)
def test_failed_look_ups_in_a_row_count_and_those_that_were_not_sent(
    kind: LookupKind, not_sent: int, failed: int
) -> None:
    operation, change, _ = after(
        LookupResult(kind), attempted(in_doubt=True, not_sent_in_a_row=1, failed_lookups=1)
    )
    assert (operation.not_sent_in_a_row, operation.failed_lookups) == (not_sent, failed)
    assert change is None
    assert operation.in_doubt


@pytest.mark.parametrize("result", [DOUBT, DISPUTE])
def test_what_is_looked_up_remembers_the_error(result: AttemptResult) -> None:
    operation, change, _ = after(result, attempted(not_sent_in_a_row=2), rules(ONCE))
    assert operation.last_error == result
    assert operation.not_sent_in_a_row == 0
    assert operation.in_doubt == (result is DOUBT)
    assert change is None


def test_reading_is_never_in_doubt() -> None:
    operation, change, effect = after(DOUBT, attempted(), rules(READING))
    assert not operation.in_doubt
    assert change is not None
    assert (change.state, effect) == (State.PLANNED, RetryLater(Delay(0.0, 0.3)))
    claimed, change, effect = rules(READING).advance(attempted(in_doubt=True), Claimed())
    assert (claimed.in_doubt, claimed.attempts, change, effect) == (False, 1, None, Send())


def test_a_provider_out_of_reach_is_tried_again_however_often() -> None:
    unreachable = AttemptResult(AttemptKind.NOT_SENT, message="connection refused")
    _, change, effect = after(unreachable, attempted(not_sent_in_a_row=99))
    assert change is not None
    assert (change.state, effect) == (State.PLANNED, RetryLater(Delay(0.0, 30.0)))


# ---- how long it waits


@pytest.mark.parametrize(
    ("tries", "longest_s"), [(1, 0.3), (2, 0.6), (3, 1.2), (7, 19.2), (8, 30.0), (10_000, 30.0)]
)
def test_back_off_doubles_up_to_half_a_minute(tries: int, longest_s: float) -> None:
    lifecycle = rules(max_attempts=10_001)
    transition = after(DOUBT, attempted(attempts=tries), lifecycle)
    assert transition.effect == RetryLater(Delay(0.0, pytest.approx(longest_s)))  # type: ignore[arg-type]


def test_back_off_counts_the_attempts_of_this_step_alone() -> None:
    operation = attempted(attempts=6, attempts_before_step=5)
    assert after(DOUBT, operation).effect == RetryLater(Delay(0.0, 0.3))


def test_what_is_not_idempotent_is_looked_up_three_times_before_it_is_repeated() -> None:
    """Soon, when it has settled, and when all others had their turn."""
    lifecycle = rules(ONCE)
    operation, _, first = after(DOUBT, attempted(), lifecycle)
    operation, _, second = after(LookupResult(LookupKind.ABSENT), operation, lifecycle)
    operation, _, third = after(LookupResult(LookupKind.ABSENT), operation, lifecycle)
    repetition = after(LookupResult(LookupKind.ABSENT), operation, lifecycle).effect
    assert first == LookUp(Delay(2.0, 2.0))
    assert second == LookUp(Delay(SETTLING_S, SETTLING_S))
    assert third == LookUp(NOW, at_end=True)
    assert repetition == RetryLater(NOW)


def test_each_attempt_in_doubt_is_looked_up_as_often() -> None:
    operation, _, effect = after(DOUBT, attempted(negative_lookups=3, attempts=2), rules(ONCE))
    assert (operation.negative_lookups, effect) == (0, LookUp(Delay(2.0, 2.0)))


def test_what_an_earlier_process_left_in_flight_is_looked_up_likewise() -> None:
    in_flight = attempted(in_doubt=True)
    assert rules(ONCE).advance(in_flight, Claimed()).effect == LookUp(Delay(2.0, 2.0))
    assert rules(IDEMPOTENT).advance(in_flight, Claimed()).effect == LookUp(NOW)


def test_an_attempt_that_a_dead_process_intended_does_not_use_up_the_only_one() -> None:
    lifecycle = rules(ONCE, max_attempts=1)
    operation = lifecycle.advance(attempted(in_doubt=True), Claimed()).operation
    for _ in range(2):
        operation = after(LookupResult(LookupKind.ABSENT), operation, lifecycle).operation
    assert after(LookupResult(LookupKind.ABSENT), operation, lifecycle).effect == RetryLater(NOW)


# ---- an attempt that succeeded after one in doubt

DONE = AttemptResult(AttemptKind.DONE, 0, "OK", "r-9", {"certSN": "8"})


def test_a_repetition_that_succeeded_is_looked_up_once_more() -> None:
    operation, change, effect = after(DONE, attempted(in_doubt=True), rules(ONCE))
    assert (operation.done, change) == (DONE, None)
    assert effect == LookUp(Delay(SETTLING_S, SETTLING_S))


def test_the_last_look_up_completes_the_result() -> None:
    both = {"certSN": "8", "surplus": ["7"]}
    found = LookupResult(LookupKind.HOLDS, 0, "7 is surplus", "r-10", both)
    operation, change, _ = after(found, attempted(in_doubt=True, done=DONE), rules(ONCE))
    assert change is not None
    assert (operation.state, change.result, change.message) == (
        State.SUCCEEDED,
        both,
        "7 is surplus",
    )


@pytest.mark.parametrize(
    "kind", [LookupKind.UNCLEAR, LookupKind.REFUSED, LookupKind.FLAWED, LookupKind.FAILED]
)
def test_what_succeeded_stays_a_success_if_the_last_look_up_does_not_help(kind: LookupKind) -> None:
    operation = attempted(in_doubt=True, done=DONE, failed_lookups=2, negative_lookups=1)
    change = after(LookupResult(kind, 99500, "no idea"), operation, rules(ONCE)).change
    assert change is not None
    assert (change.state, change.result, change.request_id) == (State.SUCCEEDED, DONE.result, "r-9")
    assert change.message == "OK; whether an earlier attempt was executed too is unknown: no idea"


def test_the_last_look_up_is_repeated_when_it_fails() -> None:
    operation = attempted(in_doubt=True, done=DONE)
    failed = LookupResult(LookupKind.FAILED, 99500, "no idea")
    assert isinstance(after(failed, operation, rules(ONCE)).effect, LookUp)


def test_the_next_step_follows_the_last_look_up() -> None:
    lifecycle = rules(ONCE, IDEMPOTENT)
    operation = attempted(in_doubt=True, done=DONE)
    found = LookupResult(LookupKind.HOLDS, 0, "found", result={"certSN": "8"})
    begun, change, _ = after(found, operation, lifecycle)
    assert (begun.step, begun.done, begun.in_doubt) == (1, None, False)
    assert change is not None
    assert change.step_data == {"certSN": "8"}


def test_what_an_earlier_process_sent_last_counts_until_this_one_sends() -> None:
    lifecycle = rules(ONCE)
    operation = lifecycle.advance(attempted(in_doubt=True, sent_at=5.0), Claimed()).operation
    assert operation.sent_at == 5.0
    assert lifecycle.advance(operation, RetryDue()).operation.sent_at is None


# ---- what a look-up records for the attempt


def test_what_a_look_up_recorded_is_durable_before_the_attempt_leaves() -> None:
    lifecycle = rules(ONCE_AFTER_LOOKUP)
    absent = LookupResult(LookupKind.ABSENT, 0, "not yet", result={"known": [1]})
    operation = attempted(state=State.PLANNED, attempts=0)
    operation, _, effect = after(absent, operation, lifecycle)
    assert (operation.step_data, effect) == ({"known": [1]}, RetryLater(NOW))
    intended = lifecycle.advance(operation, RetryDue())
    assert intended.effect == Send()
    assert intended.change is not None
    assert (intended.change.state, intended.change.step_data) == (State.IN_FLIGHT, {"known": [1]})


def test_a_look_up_that_records_nothing_keeps_the_data() -> None:
    operation = attempted(in_doubt=True, step_data={"known": [1]})
    after_it = after(LookupResult(LookupKind.ABSENT), operation, rules(ONCE_AFTER_LOOKUP)).operation
    assert after_it.step_data == {"known": [1]}


@pytest.mark.parametrize(("in_doubt", "state"), [(True, State.UNKNOWN), (False, State.FAILED)])
def test_what_a_step_builds_on_is_awaited_for_a_while(in_doubt: bool, state: State) -> None:
    lifecycle = rules(LOOKUP_FIRST)
    not_yet = LookupResult(LookupKind.NOT_YET, 0, "the new one is not listed")
    operation = attempted(in_doubt=in_doubt)
    for _ in range(2):
        operation, change, effect = after(not_yet, operation, lifecycle)
        assert change is None
        assert effect == LookUp(Delay(SETTLING_S, SETTLING_S), at_end=True)
    change = after(not_yet, operation, lifecycle).change
    assert change is not None
    assert (change.state, change.message) == (state, not_yet.message)


# ---- steps


@pytest.mark.parametrize(
    ("second", "effect"), [(IDEMPOTENT, RetryLater(NOW)), (LOOKUP_FIRST, LookUp(NOW))]
)
def test_the_next_step_begins_anew_with_what_the_one_before_yielded(
    second: StepRules, effect: Any
) -> None:
    operation = attempted(
        attempts=2, in_doubt=True, last_error=DOUBT, failed_lookups=1, not_sent_in_a_row=0
    )
    found = LookupResult(LookupKind.HOLDS, 0, "found", result={"certSN": "8"})
    begun, change, next_effect = after(found, operation, rules(ONCE, second))
    assert change == Change(
        *(1, State.IN_FLIGHT, State.PLANNED, 2),
        step=1,
        step_data={"certSN": "8"},
        **TARGET,
    )
    assert begun == Operation(
        *(1, 2, {"assetId": "A"}, State.PLANNED),
        step=1,
        step_data={"certSN": "8"},
        attempts=2,
        attempts_before_step=2,
    )
    assert next_effect == effect


def test_the_next_step_forgets_the_troubles_of_the_one_before() -> None:
    done = AttemptResult(AttemptKind.DONE, 0, "OK")
    operation = attempted(
        in_doubt=True, last_error=DOUBT, failed_lookups=2, not_sent_in_a_row=1, negative_lookups=2
    )
    begun, _, _ = after(done, operation, rules(IDEMPOTENT, IDEMPOTENT))
    assert (begun.failed_lookups, begun.not_sent_in_a_row, begun.negative_lookups) == (0, 0, 0)
    assert (begun.in_doubt, begun.last_error) == (False, None)


# ---- material


KEY = Material(1, 1, MaterialKind.KEY, "A+1", b"sealed")
CSR = Material(1, 1, MaterialKind.CSR, "A+1", b"the request")
CERTIFICATE = Material(1, 1, MaterialKind.CERTIFICATE, "A+1.8", b"the certificate")


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_key_is_durable_before_an_attempt_leaves_and_recorded_once(in_doubt: bool) -> None:
    """The request stays the same, however often the attempt is repeated."""
    lifecycle = rules(ONCE_AFTER_LOOKUP)
    state = State.IN_FLIGHT if in_doubt else State.PLANNED
    operation = attempted(attempts=0, in_doubt=in_doubt, state=state, negative_lookups=2)
    absent = LookupResult(LookupKind.ABSENT, 0, "not yet", result={}, material=(KEY, CSR))
    operation, looked, effect = after(absent, operation, lifecycle)
    assert effect == RetryLater(NOW)
    operation, intended, effect = lifecycle.advance(operation, RetryDue())
    assert effect == Send()
    recorded = [*(looked.material if looked else ()), *(intended.material if intended else ())]
    assert (recorded, operation.csr) == ([KEY, CSR], "the request")
    operation, thrown_back, _ = after(AttemptResult(AttemptKind.THROTTLED), operation, lifecycle)
    operation, again, _ = lifecycle.advance(operation, RetryDue())
    assert again is not None
    assert (thrown_back or again).material == again.material == ()
    assert operation.csr == "the request"


@pytest.mark.parametrize("steps", [(ONCE_AFTER_LOOKUP,), (ONCE_AFTER_LOOKUP, IDEMPOTENT)])
@pytest.mark.parametrize(
    "result",
    [
        AttemptResult(AttemptKind.DONE, 0, "OK", material=(CERTIFICATE,)),
        AttemptResult(AttemptKind.FLAWED, 0, "OK", material=(CERTIFICATE,)),
        LookupResult(LookupKind.HOLDS, 0, "OK", material=(CERTIFICATE,)),
        LookupResult(LookupKind.FLAWED, 0, "OK", material=(CERTIFICATE,)),
    ],
)
def test_a_certificate_is_durable_with_the_outcome(
    result: AttemptResult | LookupResult, steps: tuple[StepRules, ...]
) -> None:
    operation = attempted(csr="the request", in_doubt=isinstance(result, LookupResult))
    operation, change, _ = after(result, operation, rules(*steps))
    assert change is not None
    assert (change.material, operation.material) == ((CERTIFICATE,), ())


@pytest.mark.parametrize("kind", [LookupKind.HOLDS, LookupKind.UNCLEAR])
def test_a_certificate_outlives_the_look_up_about_an_earlier_attempt(kind: LookupKind) -> None:
    done = AttemptResult(AttemptKind.DONE, 0, "OK", material=(CERTIFICATE,))
    operation, change, _ = after(
        done, attempted(attempts=2, in_doubt=True), rules(ONCE_AFTER_LOOKUP)
    )
    assert change is None
    looked_up = LookupResult(kind, 0, "no other one", result={"certSN": "8"})
    operation = operation._replace(negative_lookups=2)
    change = after(looked_up, operation, rules(ONCE_AFTER_LOOKUP)).change
    assert change is not None
    assert change.material == (CERTIFICATE,)


def test_a_step_that_only_looks_up_must_lead_to_another_one() -> None:
    with pytest.raises(ValueError, match="must lead to another one"):
        rules(ONCE, LOOKUP)


def test_a_step_that_only_looks_up_is_never_in_doubt() -> None:
    claimed, _, effect = rules(LOOKUP, ONCE).advance(attempted(in_doubt=True), Claimed())
    assert (claimed.in_doubt, effect) == (False, LookUp(NOW))


def test_a_step_that_begins_with_a_look_up_has_not_attempted_anything_when_claimed() -> None:
    lifecycle = rules(ONCE, LOOKUP_FIRST)
    planned = attempted(state=State.PLANNED, step=1, attempts=2)
    operation, change, effect = lifecycle.advance(planned, Claimed())
    assert (operation.attempts, operation.attempts_before_step) == (2, 2)
    assert (operation.in_doubt, change, effect) == (False, None, LookUp(NOW))


def test_a_step_that_begins_with_a_look_up_may_be_in_doubt_when_claimed() -> None:
    """Its attempt may have left before the process died, so failed look-ups are not a failure."""
    lifecycle = rules(ONCE, LOOKUP_FIRST)
    operation, _, effect = lifecycle.advance(
        attempted(step=1, attempts=3, in_doubt=True), Claimed()
    )
    assert (operation.attempts, operation.attempts_before_step) == (3, 3)
    assert (operation.in_doubt, effect) == (True, LookUp(NOW))
    turned_away = LookupResult(LookupKind.NOT_SENT, 401)
    for _ in range(3):
        operation, change, _ = after(turned_away, operation, lifecycle)
    assert change is not None
    assert change.state is State.UNKNOWN


def test_a_target_fans_out_into_an_operation_for_each_certificate() -> None:
    selected = [{"assetId": "A", "certSn": 1}, {"assetId": "A", "certSn": 2}]
    found = LookupResult(LookupKind.SELECTED, 0, selected=selected)
    operation = attempted(attempts=0, failed_lookups=1)
    first, change, effect = after(found, operation, rules(LOOKUP, ONCE))
    assert change == Change(
        *(1, State.IN_FLIGHT, State.PLANNED, 0),
        step=1,
        fan_out=selected,
        line=2,
        fields=selected[0],
    )
    assert first == Operation(1, 2, selected[0], State.PLANNED, step=1)
    assert effect == RetryLater(NOW)


def test_a_selection_without_matches_is_already_done() -> None:
    nothing = LookupResult(LookupKind.NOTHING_LEFT, 0, "none of them matches [select]")
    change = after(nothing, attempted(), rules(LOOKUP, ONCE)).change
    assert change is not None
    assert (change.state, change.message) == (State.ALREADY_DONE, nothing.message)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((ONCE, IDEMPOTENT), State.SUCCEEDED),
        ((LOOKUP, IDEMPOTENT), State.ALREADY_DONE),
        ((READING, IDEMPOTENT), State.ALREADY_DONE),
    ],
)
def test_what_holds_after_a_step_that_changed_something_is_a_success_of_ours(
    steps: tuple[StepRules, ...], state: State
) -> None:
    change = after(LookupResult(LookupKind.HOLDS), attempted(step=1), rules(*steps)).change
    assert change is not None
    assert change.state is state


@given(
    results=st.lists(st.tuples(st.sampled_from(AttemptKind), st.sampled_from(LookupKind))),
    idempotent=st.booleans(),
    resumed=st.booleans(),
)
def test_no_number_of_attempts_exceeds_the_limit(
    results: list[tuple[AttemptKind, LookupKind]], idempotent: bool, resumed: bool
) -> None:
    """Follow an operation through any results, as the dispatcher would."""
    lifecycle = rules(StepRules(changes=True, idempotent=idempotent))
    operation, _, effect = lifecycle.advance(attempted(in_doubt=resumed), Claimed())
    limit = 3 + resumed  # whether the attempt of the earlier process left is not known
    for to_attempt, to_lookup in results:
        if effect == Finish():
            return
        if isinstance(effect, RetryLater):
            operation, _, effect = lifecycle.advance(operation, RetryDue())
        assert operation.attempts <= limit
        if isinstance(effect, LookUp):
            kind = LookupKind.ABSENT if to_lookup is LookupKind.SELECTED else to_lookup
            operation, _, effect = after(LookupResult(kind), operation, lifecycle)
        else:
            operation, _, effect = after(AttemptResult(to_attempt), operation, lifecycle)


# ---- a provider that asks to wait


def test_an_attempt_that_does_not_count_leaves_all_others() -> None:
    """It may have been executed, so it is in doubt; but it uses up nothing."""
    busy = AttemptResult(AttemptKind.IN_DOUBT, 503, "maintenance", counts=False)
    lifecycle = rules(max_attempts=1)
    operation = attempted()
    for number in range(1, 5):
        operation, change, effect = after(busy, operation, lifecycle)
        assert isinstance(effect, RetryLater)
        assert (operation.in_doubt, operation.attempts, change) == (True, number, None)
        operation, _, _ = lifecycle.advance(operation, RetryDue())
    counted = AttemptResult(AttemptKind.IN_DOUBT, 502, "an HTML page")
    assert isinstance(after(counted, operation, lifecycle).effect, LookUp)


def test_one_rejected_access_token_is_no_failure_even_with_a_single_attempt() -> None:
    rejected = AttemptResult(AttemptKind.NOT_SENT, 401, "not accepted")
    lifecycle = rules(max_attempts=1)
    operation, _, effect = after(rejected, attempted(), lifecycle)
    assert isinstance(effect, RetryLater)
    operation, _, _ = lifecycle.advance(operation, RetryDue())
    assert isinstance(after(rejected, operation, lifecycle).effect, Finish)


@pytest.mark.parametrize(("steps", "repeats"), [((IDEMPOTENT,), True), ((ONCE,), False)])
def test_a_page_from_something_in_front_is_looked_up_and_perhaps_repeated(
    steps: tuple[StepRules, ...], repeats: bool
) -> None:
    page = AttemptResult(AttemptKind.DISPUTED, 403, "an HTML page", account_wide=True)
    absent = LookupResult(LookupKind.ABSENT, 0, "still valid")
    lifecycle = rules(*steps, max_attempts=2)
    operation, _, effect = after(page, attempted(), lifecycle)
    assert isinstance(effect, LookUp)
    operation, _, effect = after(absent, operation, lifecycle)
    assert isinstance(effect, RetryLater if repeats else Finish)
    if repeats:
        operation, _, _ = lifecycle.advance(operation, RetryDue())
        operation, _, _ = after(page, operation, lifecycle)
        operation, _, effect = after(absent, operation, lifecycle)
        assert isinstance(effect, Finish)
    assert operation.state is State.FAILED
