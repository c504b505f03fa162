"""The axes of numbers on a page: linear ones from zero, and logarithmic ones for latencies. Pure.

In: the largest value (and the smallest). Out: a scale from value to height in percent, with labels
at round values. A linear axis never begins above zero: bars would lie about proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)
_MOST_TICKS = 4
_FEW_DECADES = 2
"""On a logarithmic axis, up to this many powers of ten have labels at 2 and 5 as well."""


@dataclass(frozen=True, slots=True)
class ValueScale:
    """An axis of numbers.

    Attributes:
        low, high: its ends; on a linear axis, `low` is 0.
        ticks: the values with a label, ascending.
        logarithmic: it is one.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def y(self, value: float) -> float:
        """How high a value is, from 0 at the bottom to 100; what is outside is at the end."""
        if self.logarithmic:
            if value <= self.low:
                return 0.0
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return 100.0 * min(max(share, 0.0), 1.0)


def linear(most: float, *, whole: bool = True) -> ValueScale:
    """An axis from zero to a round value at or above the largest one.

    Args:
        most: the largest value.
        whole: there are no values between whole numbers.
    """
    most = max(most, 1.0 if whole else 1e-9)
    magnitude = 10.0 ** math.floor(math.log10(most / _MOST_TICKS))
    step = next(m * magnitude for m in _STEPS if m * magnitude * _MOST_TICKS >= most * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    steps = math.ceil(most / step - 1e-9)
    return ValueScale(0.0, steps * step, tuple(number * step for number in range(steps + 1)))


def logarithmic(least: float, most: float) -> ValueScale:
    """An axis between round values that contain both, with a factor of at least 10 between them."""
    first = math.floor(math.log10(max(least, 1e-9)) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max(most, 1e-9)) - 1e-9))
    factors = (1, 2, 5) if last - first <= _FEW_DECADES else (1,)
    ticks = [factor * 10.0**power for power in range(first, last) for factor in factors]
    return ValueScale(10.0**first, 10.0**last, (*ticks, 10.0**last), logarithmic=True)
