"""When a run stops itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.model import State
from bulkcert.rules.abort import AbortRules, Limit, Settled, Tripped, limit

GOOD = Settled(State.SUCCEEDED, 0, 1)
FAILED = Settled(State.FAILED, 99403, 1)
FLAWED = Settled(State.FLAWED, 0, 1)
UNKNOWN = Settled(State.UNKNOWN, 99500, 1)


def tripped(rules: dict[str, object], *settled: Settled) -> list[tuple[int, str]]:
    """At which operation, from 1, which rule tripped."""
    judge = AbortRules({rule: limit(value) for rule, value in rules.items()}).judge
    return [(number, trip.rule) for number, each in enumerate(settled, 1) for trip in judge(each)]


@pytest.mark.parametrize(
    ("value", "most", "among"),
    [
        ("2% of 500", 10, 500),
        ("0.5% of 1000", 5, 1000),
        ("0.5%of 1_000", 5, 1000),
        ("1% of 99", 0, 99),
        ("0% of 10", 0, 10),
        ("0% of 1", 0, 1),
        ("2% of 1_000_000", 20_000, 1_000_000),
        (3, 3, None),
        (0, 0, None),
    ],
)
def test_limits_are_read(value: object, most: int, among: int | None) -> None:
    assert limit(value) == Limit(most, among, str(value))


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        1.5,
        "2%",
        "2 of 500",
        "100% of 500",
        "2% of 0",
        "2% of _",
        "2% of 1000001",
        "",
        None,
    ],
)
def test_what_is_no_limit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"must|would never"):
        limit(value)


def test_one_more_than_is_tolerated_trips_the_rule() -> None:
    assert tripped({"failed": 2}, FAILED, GOOD, FAILED) == []
    assert tripped({"failed": 2}, FAILED, GOOD, FAILED, FLAWED) == [(4, "failed")]
    assert tripped({"failed": 0}, GOOD, UNKNOWN) == []
    assert tripped({"unknown": 0}, FAILED, UNKNOWN) == [(2, "unknown")]


def test_only_the_last_ones_settled_count() -> None:
    steady = [FAILED, *[GOOD] * 49] * 20
    assert tripped({"failed": "2% of 100"}, *steady) == []
    assert tripped({"failed": "2% of 100"}, *[GOOD] * 90_000, *[FAILED] * 3) == [(90_003, "failed")]
    assert tripped({"failed": "2% of 500"}, *[FAILED] * 11) == [(11, "failed")]


def test_the_canary_counts_failed_and_unknown_ones_of_the_first_wave() -> None:
    first = [each.__class__(each.state, each.code, 0) for each in (FAILED, UNKNOWN, FAILED)]
    assert tripped({"canary": 2}, FAILED, *first[:2], FAILED) == []
    assert tripped({"canary": 2}, FAILED, *first) == [(4, "canary")]


def test_a_code_of_the_provider_counts_only_where_it_was_the_end() -> None:
    found_done = Settled(State.ALREADY_DONE, 99403, 1)
    assert tripped({"99403": 1}, FAILED, found_done, UNKNOWN, FAILED) == [(4, "99403")]
    throttling = Settled(State.FAILED, "Throttling.User", 1)
    assert tripped({"Throttling.User": 0}, throttling) == [(1, "Throttling.User")]


def test_a_rule_that_has_tripped_says_its_figures() -> None:
    assert str(Tripped("failed", limit("2% of 500"), 11, 240)) == (
        "11 of the last 240 settled failed: abort.failed tolerates 10 (2% of 500)"
    )
    assert str(Tripped("99403", limit(3), 4, 1200)) == (
        "4 of 1,200 ended with the code 99403: abort.99403 tolerates 3"
    )


def test_the_figures_are_of_those_that_the_rule_has_looked_at() -> None:
    rules = AbortRules({rule: limit(0) for rule in ("failed", "unknown", "canary")})
    good_canary, failed_canary = GOOD._replace(wave=0), FAILED._replace(wave=0)
    settled = [good_canary, failed_canary, GOOD, UNKNOWN, FAILED]
    trips = [trip for each in settled for trip in rules.judge(each)]
    assert [(trip.rule, trip.bad, trip.among) for trip in trips] == [
        *(("failed", 1, 2), ("canary", 1, 2), ("unknown", 1, 4), ("failed", 2, 5)),
    ]


def test_three_codes_are_named() -> None:
    rules = AbortRules({"failed": limit(8)})
    codes = [1, 2, 2, 3, 3, 3, 4, 4, 4]
    *_, last = [rules.judge(FAILED._replace(code=code)) for code in codes]
    assert [trip.codes for trip in last] == [[("3", 3), ("4", 3), ("2", 2)]]


def test_the_commonest_codes_of_the_last_ones_are_named() -> None:
    lost = Settled(State.FAILED, None, 1)
    rules = AbortRules({"failed": limit("50% of 6"), "99403": limit(2)})
    early = [Settled(State.FAILED, 11404, 1)] * 3
    for each in [*early, *[GOOD] * 3, FAILED, FAILED, lost]:
        assert not rules.judge(each)
    texts = [str(tripped).partition("; mostly ")[2] for tripped in rules.judge(FAILED)]
    assert texts == ["3 x 99403, 1 x no code", ""]


def test_copied_rules_go_on_by_themselves() -> None:
    rules = AbortRules({"failed": limit("50% of 4")})
    assert not any(map(rules.judge, (FAILED, FAILED)))
    copied = rules.copy()
    assert copied.judge(FAILED)
    assert not any(map(rules.judge, (GOOD, GOOD, FAILED)))  # the first one is out
    assert copied.judge(FAILED)


def test_what_a_copy_sees_does_not_count_for_the_original() -> None:
    rules = AbortRules({"failed": limit("50% of 4")})
    rules.judge(FAILED)
    copied = rules.copy()
    for _ in range(3):
        copied.judge(FAILED._replace(code=11404))
    *_, last = [rules.judge(each) for each in (GOOD, GOOD, GOOD, FAILED, FAILED, FAILED)]
    assert [trip.codes for trip in last] == [[("99403", 3)]]


def test_how_much_must_be_remembered() -> None:
    assert AbortRules({}).longest == 0
    assert AbortRules({"failed": limit("2% of 500"), "unknown": limit("1% of 100")}).longest == 500
    assert AbortRules({"failed": limit("2% of 500"), "99403": limit(3)}).longest is None


@given(st.lists(st.sampled_from([GOOD, FAILED, UNKNOWN]), max_size=60), st.integers(1, 20))
def test_a_window_is_the_sum_over_its_last_ones(settled: list[Settled], among: int) -> None:
    most = among // 3
    rules = AbortRules({"failed": Limit(most, among, "")})
    for end, each in enumerate(settled, 1):
        last = settled[max(0, end - among) : end]
        assert bool(rules.judge(each)) is (each is FAILED and last.count(FAILED) > most)
