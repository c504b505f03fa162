"""The tables of docs/states.md against the function that they describe.

Every combination of step, event and circumstances is carried out. Exactly one row of the table must
apply to it, and must say what the function does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bulkcert.lifecycle import (
    NOW,
    AttemptEnded,
    AttemptWithdrawn,
    Claimed,
    Delay,
    Effect,
    Finish,
    Forbidden,
    Lifecycle,
    LookUp,
    LookupEnded,
    LookupWithdrawn,
    OperationEvent,
    Release,
    RetryLater,
    RetryWithdrawn,
    Send,
    Transition,
)
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Operation,
    State,
    StepRules,
)
from bulkcert.timings import Timings

DOCUMENT = Path(__file__).parents[2] / "docs" / "states.md"
MAX_ATTEMPTS = 3
SETTLING_S = 1000.0
TIMINGS = Timings(first_backoff_s=1.0, longest_backoff_s=50.0)

READING = StepRules(changes=False)
LOOKUP = StepRules(changes=False, needs_lookup=True)
IDEMPOTENT = StepRules(changes=True, idempotent=True)
ONCE = StepRules(changes=True)
LOOKUP_FIRST = StepRules(changes=True, idempotent=True, needs_lookup=True)
ONCE_AFTER_LOOKUP = StepRules(changes=True, needs_lookup=True)
CHANGES = (IDEMPOTENT, ONCE, LOOKUP_FIRST, ONCE_AFTER_LOOKUP)
STEPS = (READING, LOOKUP, *CHANGES)

REFUSED = AttemptResult(AttemptKind.REFUSED, 99403, "no")
DOUBT = AttemptResult(AttemptKind.IN_DOUBT, 99500, "internal error")


@dataclass(frozen=True)
class Case:
    """One combination: the steps of the action, the operation in its current one, the event."""

    steps: tuple[StepRules, ...]
    operation: Operation
    event: OperationEvent

    @property
    def rules(self) -> StepRules:
        return self.steps[self.operation.step]

    def transition(self) -> Transition:
        lifecycle = Lifecycle(self.steps, MAX_ATTEMPTS, SETTLING_S, TIMINGS)
        return lifecycle.advance(self.operation, self.event)


def tables() -> dict[str, list[dict[str, str]]]:
    """The marked tables by name, each a list of rows by header."""
    found = {}
    text = DOCUMENT.read_text()
    for name, body in re.findall(r"<!-- table: (.*?) -->\n(.*?)<!-- /table -->", text, re.DOTALL):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.split("\n")]
        header, _, *rows = lines[:-1]
        found[name] = [dict(zip(header, row, strict=True)) for row in rows]
    return found


TABLES = tables()


# ---- what the words of the tables mean


def is_step(words: str, case: Case) -> bool:
    rules = case.rules
    return {
        "any": True,
        "reading": rules == READING,
        "look-up": rules == LOOKUP,
        "change": rules.changes,
        "idempotent": rules.changes and rules.idempotent,
        # a look-up step is never repeated by an attempt
        "not idempotent": not rules.idempotent,
        "begins with a look-up": rules.changes and rules.needs_lookup,
    }[words]


def tries(operation: Operation) -> int:
    return operation.attempts - operation.attempts_before_step


def applies(condition: str, case: Case) -> bool:
    operation, event = case.operation, case.event
    negated = re.fullmatch(r"(?:not (?!the last)|no |may not )(.*)", condition)
    if negated and condition != "not the last step":
        may = {"repeat": "may repeat", "repeat unseen": "may repeat unseen"}
        positive = may.get(negated[1], negated[1])
        return not applies(positive, case)
    result = getattr(event, "result", None)
    refused = operation.last_error is not None and operation.last_error.kind is AttemptKind.REFUSED
    more_steps = operation.step + 1 < len(case.steps)
    earlier = case.steps[: operation.step]
    is_not_sent = result is not None and result.kind in (AttemptKind.NOT_SENT, LookupKind.NOT_SENT)
    times_not_sent = operation.not_sent_in_a_row + is_not_sent
    code = None if result is None else result.code
    late = operation.late and operation.in_doubt and not case.rules.idempotent
    may_repeat = case.rules.changes and not refused and tries(operation) < MAX_ATTEMPTS
    may_repeat = may_repeat and not late
    return {
        "any": True,
        "last step": not more_steps,
        "not the last step": more_steps,
        "in doubt": operation.in_doubt,
        "touched": operation.in_doubt or operation.last_error is not None,
        "ours": operation.in_doubt or any(rules.changes for rules in earlier),
        "attempts left": tries(operation) < MAX_ATTEMPTS,
        "look-ups left": operation.failed_lookups + 1 < MAX_ATTEMPTS,
        "negative look-ups left": operation.negative_lookups + 1 < MAX_ATTEMPTS,
        "first": operation.negative_lookups == 0,
        "second": operation.negative_lookups == 1,
        "late": late,
        "settled": case.rules.idempotent or not operation.in_doubt,
        "may repeat": may_repeat,
        "may repeat unseen": may_repeat and case.rules == IDEMPOTENT,
        "turned away": code is not None and times_not_sent >= MAX_ATTEMPTS,
    }[condition]


def row_applies(row: dict[str, str], case: Case) -> bool:
    return all(applies(condition.strip(), case) for condition in row["if"].split(","))


# ---- what a transition is in the words of the tables


def next_in_words(case: Case, transition: Transition) -> str:
    """The effect, in words; the delays are checked to the second."""
    operation, change, effect = transition
    if change is not None and change.fan_out:
        return "fan out"
    if operation.step > case.operation.step:
        return "next step"
    return effect_in_words(case, transition.operation, effect)


def effect_in_words(case: Case, operation: Operation, effect: Effect) -> str:
    match effect:
        case Send():
            return "send"
        case Finish():
            return "end"
        case Release():
            return "release"
        case RetryLater(delay):
            return f"retry {delay_in_words(case, operation, delay)}"
        case LookUp(delay, at_end):
            turn = "when all others had their turn"
            if at_end and delay == NOW:
                return f"look up {turn}"
            return f"look up {delay_in_words(case, operation, delay)}" + f", {turn}" * at_end


def delay_in_words(case: Case, operation: Operation, delay: Delay) -> str:
    if delay == NOW:
        return "now"
    return {
        Delay(SETTLING_S, SETTLING_S): "after the settling time",
        Delay(2.0, 2.0): "after 2 s",
        Delay(0.0, expected_backoff_s(case, operation)): "after a back-off",
    }[delay]


def expected_backoff_s(case: Case, operation: Operation) -> float:
    """1, 2, 4, ... seconds: by the number of what went wrong in a row."""
    result = getattr(case.event, "result", None)
    if result is None:
        return 1.0
    if result.kind in (AttemptKind.NOT_SENT, LookupKind.NOT_SENT):
        times = operation.not_sent_in_a_row
    elif result.kind is LookupKind.FAILED:
        times = operation.failed_lookups
    else:
        times = tries(operation)
    return float(2 ** (times - 1))


def recorded_in_words(transition: Transition) -> str:
    return "nothing" if transition.change is None else str(transition.change.state)


# ---- all combinations


def operations() -> Iterator[Operation]:
    base = Operation(id=7, line=9, fields={"assetId": "A"}, attempts=1)
    tried = ((1, 0), (2, 4), (3, 0), (3, 4))  # attempts of this step, and before it
    doubts = ((False, False), (True, False), (True, True))  # whether also late
    for (in_doubt, late), last_error, (
        attempts,
        before,
    ), lookups, negative, not_sent in itertools.product(
        doubts, (None, REFUSED, DOUBT), tried, (0, 2), (0, 1, 2), (0, 2)
    ):
        yield base._replace(
            in_doubt=in_doubt,
            late=late,
            last_error=last_error,
            attempts=before + attempts,
            attempts_before_step=before,
            failed_lookups=lookups,
            negative_lookups=negative,
            not_sent_in_a_row=not_sent,
        )


def in_each_place(rules: StepRules) -> Iterator[tuple[tuple[StepRules, ...], int]]:
    """The step as the only one, the first, the last, and the last after one that only looks up."""
    yield (rules, IDEMPOTENT), 0
    if rules == LOOKUP:
        return  # it must lead to another one
    yield (rules,), 0
    yield (ONCE, rules), 1
    yield (LOOKUP, rules), 1


def cases(events: list[OperationEvent], steps: tuple[StepRules, ...] = STEPS) -> Iterator[Case]:
    for rules in steps:
        for action, place in in_each_place(rules):
            for operation in operations():
                if operation.in_doubt and not rules.changes:
                    continue  # reading is never in doubt
                for event in events:
                    yield Case(action, operation._replace(step=place), event)


ATTEMPTS: list[OperationEvent] = [
    AttemptEnded(AttemptResult(kind, code, "text", "r-1", {"is": "result"}), 5.0)
    for kind in AttemptKind
    for code in (None, 401)
]
SELECTED = [{"certSn": 1}, {"certSn": 2}]
LOOKUPS: list[OperationEvent] = [
    LookupEnded(LookupResult(kind, code, "text", "r-1", {"is": "result"}, SELECTED), 5.0)
    for kind in LookupKind
    for code in (None, 401)
]


def check(table: str, case: Case, rows: list[dict[str, str]]) -> None:
    assert len(rows) == 1, f"{len(rows)} rows of {table!r} apply to {case}: {rows}"
    [row] = rows
    transition = case.transition()
    assert next_in_words(case, transition) == row["next"], f"{case}: {row}"
    if "recorded" in row:
        assert recorded_in_words(transition) == row["recorded"], f"{case}: {row}"
    row["used"] = "yes"


def all_used(table: str) -> None:
    for row in TABLES[table]:
        assert row.get("used"), f"nothing ever leads to {row}"


def test_claimed() -> None:
    for rules in STEPS:
        for action, place in in_each_place(rules):
            for in_doubt in (False, True):
                operation = Operation(7, 9, {}, step=place, attempts=1, in_doubt=in_doubt)
                case = Case(action, operation, Claimed())
                found = "in flight" if in_doubt else "planned"
                rows = [
                    row
                    for row in TABLES["claimed"]
                    if row["found"] in ("any", found) and is_step(row["step"], case)
                ]
                # the more special word counts
                if rules.changes and rules.needs_lookup and not in_doubt:
                    rows = [row for row in rows if row["step"] == "begins with a look-up"]
                elif not rules.changes:
                    rows = [row for row in rows if row["step"] in ("reading", "look-up")]
                check("claimed", case, rows)
    all_used("claimed")


def test_after_an_attempt() -> None:
    for case in cases(ATTEMPTS, (READING, *CHANGES)):
        assert isinstance(case.event, AttemptEnded)
        rows = [
            row
            for row in TABLES["attempt"]
            if row["result"] == case.event.result.kind.name
            and is_attempting_step(row["step"], case)
            and row_applies(row, case)
        ]
        check("attempt", case, rows)
    all_used("attempt")


def is_attempting_step(words: str, case: Case) -> bool:
    if words == "not idempotent":
        return case.rules.changes and not case.rules.idempotent
    return is_step(words, case)


def test_after_a_look_up() -> None:
    for case in cases(LOOKUPS, (LOOKUP, *CHANGES)):
        assert isinstance(case.event, LookupEnded)
        kind = case.event.result.kind
        if kind is LookupKind.SELECTED and case.rules != LOOKUP:
            continue  # a selection leads to the step that acts on what was selected
        rows = [
            row
            for row in TABLES["look-up"]
            if row["result"] == kind.name and is_step(row["step"], case) and row_applies(row, case)
        ]
        check("look-up", case, rows)
    all_used("look-up")


def test_a_stop() -> None:
    names = {AttemptWithdrawn: "attempt", LookupWithdrawn: "look-up", RetryWithdrawn: "retry"}
    for case in cases([event() for event in names], (IDEMPOTENT, ONCE)):
        for state in (State.IN_FLIGHT, State.PLANNED):
            what = names[type(case.event)]
            if what == "attempt" and state is State.PLANNED:
                continue  # an attempt is intended before it is made
            if what == "retry" and state is State.IN_FLIGHT and not case.operation.in_doubt:
                continue  # a retry is not intended yet
            if state is State.PLANNED and case.operation.in_doubt:
                continue  # what is in doubt stays in flight
            case = replace(case, operation=case.operation._replace(state=state))
            rows = [
                row
                for row in TABLES["stop"]
                if row["not made"] == what
                and row["state"].replace(" ", "_") == state
                and row_applies(row, case)
            ]
            check("stop", case, rows)
    all_used("stop")


def test_forbidden() -> None:
    for case in cases([Forbidden("protected", 5.0)]):
        # what is in doubt is looked up, whatever has been forbidden since
        for what in ("attempt",) if case.operation.in_doubt else ("attempt", "look-up"):
            rows = [
                row
                for row in TABLES["forbidden"]
                if row["forbidden"] == what and row_applies(row, case)
            ]
            check("forbidden", case, rows)
    all_used("forbidden")


@pytest.mark.parametrize("kind", [*AttemptKind, *LookupKind])
def test_every_kind_has_a_row(kind: AttemptKind | LookupKind) -> None:
    table = "attempt" if isinstance(kind, AttemptKind) else "look-up"
    names: set[Any] = {row["result"] for row in TABLES[table]}
    assert kind.name in names
