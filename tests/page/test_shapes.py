"""Series of values as paths: each is where its value is, and what is empty is not drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from bulkcert.report.page.shapes import band, bars, steps
from bulkcert.report.page.timescale import Stretch, TimeScale

SCALE = TimeScale.of(10, [Stretch(0, 3)])
WITH_BREAK = TimeScale.of(10, [Stretch(0, 1), Stretch(50, 51)])  # 3 % wide


def y(value: float) -> float:
    """On a plot 100 units high, for values up to 10."""
    return 100 - 10 * value


def corners(path: str) -> Iterator[tuple[float, float]]:
    """The points through which a path goes."""
    x = y = 0.0
    for command, numbers in re.findall(r"([MLHVZ])([-\d. ]*)", path):
        values = [float(number) for number in numbers.split()]
        match command, values:
            case (("M" | "L"), [x, y]):
                pass
            case "H", [x]:
                pass
            case "V", [y]:
                pass
            case "Z", []:
                continue
            case _:
                raise AssertionError(f"{command}{numbers} is not a command")
        yield x, y


def test_bars_stand_on_zero_and_leave_out_what_is_empty() -> None:
    assert bars(SCALE, [1, 0, 2, 3], y) == "M0 100V90H250V100ZM500 100V80H750V70H1000V100Z"
    assert bars(SCALE, [0, 0, 0, 0], y) == ""


def test_lines_are_interrupted_where_there_is_no_value() -> None:
    assert steps(SCALE, [1, None, 2, 2], y) == "M0 90H250M500 80H750H1000"
    assert steps(SCALE, [None] * 4, y) == ""


def test_nothing_is_drawn_across_a_break() -> None:
    assert bars(WITH_BREAK, [1, 1, 1, 1], y).count("M") == 2
    assert steps(WITH_BREAK, [1, 1, 1, 1], y) == "M0 90H242.5H485M515 90H757.5H1000"


def test_a_sum_stays_what_it_was_through_a_break() -> None:
    path = band(WITH_BREAK, [0] * 4, [2, 4, 4, 10], y)
    points = list(corners(path))
    assert points[:6] == [
        *((0, 100), (242.5, 80), (485, 60), (515, 60), (757.5, 60), (1000, 0)),
    ]
    assert points[6:] == [(x, 100) for x, _ in reversed(points[:6])]
    assert path.endswith("Z")


def test_an_outcome_that_no_operation_has_is_not_drawn() -> None:
    assert band(SCALE, [1, 2, 3, 4], [1, 2, 3, 4], y) == ""


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), min_size=4, max_size=4))
def test_all_points_are_on_the_canvas(values: list[float | None]) -> None:
    numbers = [value or 0.0 for value in values]
    sums = [sum(numbers[: n + 1]) / 4 for n in range(4)]
    for path in (
        bars(WITH_BREAK, numbers, y),
        steps(WITH_BREAK, values, y),
        band(WITH_BREAK, [0.0] * 4, sums, y),
    ):
        assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in corners(path))
