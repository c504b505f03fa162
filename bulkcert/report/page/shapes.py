"""Series of values as paths of SVG. Pure.

In: a value for each bucket of a time axis. Out: the text of a path, on a canvas that is `WIDTH`
units wide. Nothing is drawn in the breaks of the axis, but for what holds there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bulkcert.report.page.figure import WIDTH
from bulkcert.report.page.timescale import TimeScale

Height = Callable[[float], float]
"""Returns how far a value is from the top, in units."""


def bars(scale: TimeScale, values: Sequence[float], y: Height) -> str:
    """The outline of a bar for each bucket, from zero; nothing where the value is 0."""
    base = _number(y(0))
    path: list[str] = []
    for first, last in _runs(scale, [value or None for value in values]):
        path.append(f"M{_left(scale, first)} {base}")
        path += (
            f"V{_number(y(values[number]))}H{_right(scale, number)}"
            for number in range(first, last + 1)
        )
        path.append(f"V{base}Z")
    return "".join(path)


def steps(scale: TimeScale, values: Sequence[float | None], y: Height) -> str:
    """A line at the value of each bucket; it is interrupted where there is none."""
    path: list[str] = []
    for first, last in _runs(scale, values):
        for number in range(first, last + 1):
            value = values[number]
            if number > first and value == values[number - 1]:
                path.append(f"H{_right(scale, number)}")
                continue
            height = _number(y(value or 0.0))
            start = f"V{height}" if number > first else f"M{_left(scale, number)} {height}"
            path.append(f"{start}H{_right(scale, number)}")
    return "".join(path)


def band(scale: TimeScale, lower: Sequence[float], upper: Sequence[float], y: Height) -> str:
    """The area between two sums that grow over time, also through the breaks.

    Args:
        scale: the time axis.
        lower, upper: the sums at the end of each bucket.
        y: the height of a value.
    """
    if not any(upper[n] > lower[n] for n in range(len(upper))):
        return ""
    ends = [_right(scale, number) for number in range(len(upper))]
    begins = [_left(scale, number) for number in range(len(upper))]
    there = _slope(begins, ends, upper, y)
    back = list(_slope(begins, ends, lower, y))
    return f"M{'L'.join([*there, *reversed(back)])}Z"


def _slope(
    begins: Sequence[str], ends: Sequence[str], sums: Sequence[float], y: Height
) -> Iterator[str]:
    before = 0.0
    last = ""
    for begin, end, value in zip(begins, ends, sums, strict=True):
        if begin != last:  # after a break, the sum is what it was before
            yield f"{begin} {_number(y(before))}"
        yield f"{end} {_number(y(value))}"
        before, last = value, end


def _runs(scale: TimeScale, values: Sequence[float | None]) -> Iterator[tuple[int, int]]:
    """The first and the last index of values in a row that are there, without a break between."""
    at = 0
    for first, last in scale.stretches:
        begin: int | None = None
        end = at + last + 1 - first
        for number in range(at, end):
            if values[number] is None:
                if begin is not None:
                    yield begin, number - 1
                begin = None
            elif begin is None:
                begin = number
        if begin is not None:
            yield begin, end - 1
        at = end


def _left(scale: TimeScale, index: int) -> str:
    return _number(scale.lefts[index] * WIDTH / 100)


def _right(scale: TimeScale, index: int) -> str:
    return _number(scale.rights[index] * WIDTH / 100)


def _number(value: float) -> str:
    """A number with one decimal, and as short as can be."""
    return f"{value:.1f}".removesuffix(".0")
