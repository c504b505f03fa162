"""Whatever an attempt or a look-up says, it can be recorded, read and reported."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Operation,
    StepRules,
)
from bulkcert.providers.base import change, lookup, reading
from bulkcert.providers.bounds import bounded

GOOD = AttemptResult(AttemptKind.REFUSED, 99400, "no such certificate", "r-1", {"a": 1})


def test_an_ordinary_result_is_not_touched() -> None:
    assert bounded(GOOD) is GOOD
    for code in (None, 0, -(2**63), 2**63 - 1, "Throttling.User"):
        result = GOOD._replace(code=code)
        assert bounded(result) is result


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (2**63, str(2**63)),
        (10**30, "1" + "0" * 30),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (1e30, "1e+30"),
        (True, "True"),
        ("x" * 101, "x" * 100),
        ("a\nb\0c", "a bc"),
        ("\ud800", None),
        ("", None),
        ([0], None),
        ({"code": 0}, None),
    ],
)
def test_any_other_code_becomes_a_short_text(code: Any, kept: str | None) -> None:
    assert bounded(GOOD._replace(code=code)).code == kept


def test_texts_are_cut_and_printable() -> None:
    looked_up = LookupResult(LookupKind.ABSENT, 0, "x\r\n" * 10_000, "r\x1b[31m" * 100, None)
    result = bounded(looked_up)
    assert (result.kind, result.code) == (LookupKind.ABSENT, 0)
    assert result.message.startswith("x x x")
    assert len(result.message) <= 2000
    assert result.request_id
    assert len(result.request_id) <= 100
    assert (result.message + result.request_id).isprintable()


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "L"])),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
)


@given(code=anything, message=st.one_of(st.text(), anything), request_id=anything)
@example(2**63, "\ud800", "\0")
def test_any_result_can_be_stored_and_reported(code: Any, message: Any, request_id: Any) -> None:
    result = bounded(AttemptResult(AttemptKind.IN_DOUBT, code, message, request_id))
    values = (result.code, result.message, result.request_id)
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute("SELECT ?, ?, ?", values).fetchone() == values
    assert tuple(orjson.loads(orjson.dumps(values))) == values


async def test_every_kind_of_step_returns_bounded_results() -> None:
    operation = Operation(1, 1, {})

    async def attempt(*_: Any) -> AttemptResult:
        return GOOD._replace(code=2**63)

    async def look_up(*_: Any) -> LookupResult:
        return LookupResult(LookupKind.HOLDS, 2**63)

    for step in (reading(attempt), lookup(look_up), change(attempt, look_up, idempotent=True)):
        if step.rules != StepRules(changes=False, needs_lookup=True):
            assert (await step.attempt(operation, lambda _: None)).code == str(2**63)
        if step.rules.changes or step.rules.needs_lookup:
            assert (await step.look_up(operation, lambda _: None)).code == str(2**63)
