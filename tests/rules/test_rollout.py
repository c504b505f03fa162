"""The waves of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.rules.rollout import (
    ALL,
    CANARY,
    REST,
    OrderKey,
    Rollout,
    Size,
    Wave,
    fault,
    order_key,
    size,
    waves,
)


def divided(total: int, *written: object, canary: int = 0) -> list[tuple[str, int]]:
    sizes = [Size(CANARY, targets=canary)] * bool(canary) + [size(each) for each in written]
    return [(wave.name, wave.targets) for wave in waves(total, sizes)[0]]


def test_waves_are_cumulative_and_the_rest_follows() -> None:
    assert divided(10_000, "1%", "10%", canary=20) == [
        *((CANARY, 20), ("1%", 80), ("10%", 900), (REST, 9000))
    ]
    assert divided(10_000, 500, "50%", "100%") == [("500", 500), ("50%", 4500), ("100%", 5000)]
    assert divided(7) == [(REST, 7)]


def test_a_share_is_rounded_down_to_at_least_one() -> None:
    assert divided(199, "1%", "1.5%") == [("1%", 1), ("1.5%", 1), (REST, 197)]
    assert divided(3, "1%") == [("1%", 1), (REST, 2)]


def test_a_wave_that_is_no_larger_than_the_one_before_is_dropped_with_a_note() -> None:
    sizes = [Size(CANARY, targets=20), size("1%"), size("10%")]
    found, notes = waves(1000, sizes)
    assert found == [Wave(CANARY, 0, 20), Wave("10%", 20, 100), Wave(REST, 100, 1000)]
    assert notes == ["The wave 1% is dropped: canary is as large."]
    assert divided(10, "50%", canary=20) == [(CANARY, 10)]


def test_who_must_confirm_a_wave_that_was_dropped_confirms_the_one_before() -> None:
    sizes = (Size(CANARY, targets=20), size("1%"), size("10%"))
    rollout = Rollout(sizes=sizes, confirm=frozenset(["1%"]))
    every = [CANARY, "1%", "10%", REST]
    assert [rollout.confirms(wave, every) for wave in every] == [False, True, False, False]
    kept = [CANARY, "10%", REST]
    assert [rollout.confirms(wave, kept) for wave in kept] == [True, False, False]
    assert Rollout(sizes=sizes, confirm=frozenset([ALL])).confirms(REST, every)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (["10%", "1%"], "must grow, but 1% follows 10%"),
        (["10%", "10%"], "must grow"),
        ([500, "10%", 500], "must grow, but 500 follows 500"),
        (["1%", 100, "2%", 200], ""),
        ([], ""),
    ],
)
def test_waves_that_shrink_as_written_are_an_error(written: list[object], problem: str) -> None:
    found = fault([size(each) for each in written])
    assert problem in found
    assert bool(problem) is bool(found)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "", "10", "0%", "101%", "ten", "1e1%", None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        size(value)


@given(
    st.integers(1, 2_000_000),
    st.lists(st.one_of(st.integers(1, 10**6), st.integers(1, 100).map("{}%".format)), max_size=5),
    st.integers(0, 100),
)
def test_every_target_is_in_exactly_one_wave(
    total: int, written: list[object], canary: int
) -> None:
    sizes = [Size(CANARY, targets=canary)] * bool(canary) + [size(each) for each in written]
    found, notes = waves(total, sizes)
    ends = [wave.end for wave in found]
    assert [wave.begin for wave in found] == [0, *ends[:-1]]
    assert ends[-1] == total
    assert all(wave.targets >= 1 for wave in found)
    assert len(found) + len(notes) - (found[-1].name == REST) == len(sizes)


def test_a_column_to_order_by_is_read_with_its_direction() -> None:
    assert order_key("expires") == OrderKey("expires", descending=False)
    assert order_key("- risk") == OrderKey("risk", descending=True)


def test_the_columns_that_are_needed_come_with_their_keys() -> None:
    rollout = Rollout(order=(order_key("-risk"), order_key("site")), spread_by="model")
    assert rollout.columns == {
        "model": "rollout.spread_by",
        "risk": "rollout.order",
        "site": "rollout.order",
    }
    assert Rollout().columns == {}


def test_without_anything_said_there_is_no_canary_and_no_wait() -> None:
    rollout = Rollout()
    assert (rollout.canary, rollout.between_s) == (0, 0.0)
    assert size(1) == Size("1", targets=1)
