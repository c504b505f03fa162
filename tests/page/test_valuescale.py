"""The axes of numbers on a page."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.report.page.valuescale import linear, logarithmic

VALUES = st.floats(1e-3, 1e9)


@given(most=VALUES, whole=st.booleans())
def test_a_linear_axis_has_few_round_labels_and_room_for_all(most: float, whole: bool) -> None:
    scale = linear(most, whole=whole)
    assert scale.high >= most * (1 - 1e-6)
    assert 2 <= len(scale.ticks) <= 5
    assert (scale.ticks[0], scale.ticks[-1]) == (0.0, scale.high)
    assert (scale.y(0), scale.y(scale.high)) == (0.0, 100.0)
    if whole:
        assert all(tick == int(tick) for tick in scale.ticks)


@given(least=VALUES, most=VALUES)
def test_a_logarithmic_axis_has_room_for_all(least: float, most: float) -> None:
    least, most = sorted((least, most))
    scale = logarithmic(least, most)
    assert scale.low <= least * (1 + 1e-6)
    assert scale.high >= most * (1 - 1e-6)
    assert 2 <= len(scale.ticks) <= 14
    assert list(scale.ticks) == sorted(set(scale.ticks))
    heights = [scale.y(tick) for tick in scale.ticks]
    assert all(before < after for before, after in itertools.pairwise(heights))
    assert (heights[0], heights[-1]) == (0.0, pytest.approx(100.0))


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (0, (0, 1)),
        (3, (0, 1, 2, 3)),
        (500, (0, 200, 400, 600)),
        (1_000_000, (0, 500_000, 1_000_000)),
        (7, (0, 2, 4, 6, 8)),
    ],
)
def test_labels_of_linear_axes(most: float, ticks: tuple[int, ...]) -> None:
    assert linear(most).ticks == ticks


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [
        (12, 80, (10, 20, 50, 100)),
        (20, 400, (10, 20, 50, 100, 200, 500, 1000)),
        (1, 30_000, (1, 10, 100, 1000, 10_000, 100_000)),
        (100, 100, (100, 200, 500, 1000)),
    ],
)
def test_labels_of_logarithmic_axes(least: float, most: float, ticks: tuple[int, ...]) -> None:
    assert logarithmic(least, most).ticks == pytest.approx(ticks)


def test_what_is_outside_is_at_the_end() -> None:
    assert (linear(10).y(11), linear(10).y(-1)) == (100.0, 0.0)
    scale = logarithmic(10, 100)
    assert (scale.y(0), scale.y(5), scale.y(1e6)) == (0.0, 0.0, 100.0)
