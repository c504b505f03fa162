"""When a run stops itself: too many failures. Pure.

In: each settled operation that was attempted at least once, in the order in which it became
durable. Out: the rule that trips, with its figures. The last ones settled decide, not all of them:
after 900,000 good ones, a share of all would let 45,000 fail in a row.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from bulkcert.model import State

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%\s*of\s*([\d_,]+)")

LONGEST_WINDOW = 1_000_000

_BAD = frozenset({State.FAILED, State.FLAWED, State.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Limit:
    """How many may be bad.

    Attributes:
        most: this many are tolerated; one more trips the rule.
        among: among the last so many that were settled, or as many as there are; None for all of
            the run.
        written: as in the job.
    """

    most: int
    among: int | None
    written: str


def limit(value: object) -> Limit:
    """Read a limit such as "2% of 500" or 3.

    Raises:
        ValueError: it is neither; the reason completes "abort.failed ...".
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"must be at least 0, not {value}")
        return Limit(value, None, str(value))
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'must be a share such as "2% of 500" or a number, not {value!r}')
    share, among = Fraction(match[1]) / 100, int(re.sub("[_,]", "", match[2]) or 0)
    if not 1 <= among <= LONGEST_WINDOW:
        raise ValueError(f"must look at 1 to {LONGEST_WINDOW:,} operations, not {among:,}")
    if share >= 1:
        raise ValueError(f'would never stop the run: "{value}"')
    return Limit(int(share * among), among, str(value).strip())


class Settled(NamedTuple):
    """What a rule must know of a settled operation.

    Attributes:
        state: its final state.
        code: the code of its last response.
        wave: its wave, from 0.
    """

    state: State
    code: int | str | None
    wave: int

    @property
    def bad(self) -> bool:
        """Whether it failed or is unknown."""
        return self.state in _BAD


@dataclass(frozen=True, slots=True)
class Tripped:
    """A rule that has tripped.

    Attributes:
        rule: its key in `[abort]`.
        limit: what was tolerated.
        bad: how many were bad.
        among: of how many that were looked at.
    """

    rule: str
    limit: Limit
    bad: int
    among: int

    def __str__(self) -> str:
        what = {"failed": "failed", "unknown": "are unknown", "canary": "failed or are unknown"}
        bad = what.get(self.rule, f"ended with the code {self.rule}")
        of = f"of the last {self.among:,} settled" if self.limit.among else f"of {self.among:,}"
        share = f" ({self.limit.written})" if self.limit.among else ""
        return f"{self.bad:,} {of} {bad}: abort.{self.rule} tolerates {self.limit.most:,}{share}"


@dataclass(slots=True)
class _Window:
    """The last settled operations, and how many of them were bad."""

    limit: Limit
    bad: int = 0
    seen: int = 0
    last: deque[bool] = field(default_factory=deque)

    def add(self, bad: bool) -> bool:
        """Look at one more; return whether there are too many now."""
        self.bad += bad
        self.seen += 1
        if self.limit.among is not None:
            self.last.append(bad)
            if len(self.last) > self.limit.among:
                self.bad -= self.last.popleft()
        return self.bad > self.limit.most

    @property
    def among(self) -> int:
        return self.seen if self.limit.among is None else len(self.last)


class AbortRules:
    """Judges every settled operation.

    Args:
        limits: by rule: `failed`, `unknown`, `canary`, or a code of the provider.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._windows = {rule: _Window(limit) for rule, limit in limits.items()}

    @property
    def longest(self) -> int | None:
        """How many of the last settled operations must be known after a restart; None for all."""
        spans = [window.limit.among for window in self._windows.values()]
        return None if None in spans else max((span or 0 for span in spans), default=0)

    def judge(self, settled: Settled) -> Sequence[Tripped]:
        """Look at one more; return the rules that have tripped, or none."""
        tripped, bad = [], settled.bad
        for rule, window in self._windows.items():
            if rule == "canary" and settled.wave != 0:
                continue
            if window.add(bad and _is_bad(rule, settled)):
                tripped.append(Tripped(rule, window.limit, window.bad, window.among))
        return tripped


def _is_bad(rule: str, settled: Settled) -> bool:
    """Whether a rule counts a bad operation."""
    match rule:
        case "failed":
            return settled.state is not State.UNKNOWN
        case "unknown":
            return settled.state is State.UNKNOWN
        case "canary":
            return True
        case _:
            return str(settled.code) == rule
