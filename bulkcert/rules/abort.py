"""When a run stops itself: too many failures. Pure.

In: each settled operation that was attempted at least once, in the order in which it became
durable. Out: the rule that trips, with its figures. The last ones settled decide, not all of them:
after 900,000 good ones, a share of all would let 45,000 fail in a row.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bulkcert.model import State

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%\s*of\s*(\d[\d_,]*)")

LONGEST_WINDOW = 1_000_000

_MOST_CODES = 3
"""Codes that are named when a rule has tripped."""

_ANY_CODE = frozenset({"failed", "unknown", "canary"})
"""The rules that look at all codes."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many may be bad.

    Attributes:
        most: this many are tolerated; one more trips the rule.
        among: among this many that were settled last, or as many as there are; None for all of
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
    from fractions import Fraction  # slow to import, and most jobs have no such limit

    share, among = Fraction(match[1]) / 100, int(re.sub("[_,]", "", match[2]))
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
        return self.state is not State.SUCCEEDED and self.state is not State.ALREADY_DONE


@dataclass(frozen=True, slots=True)
class Tripped:
    """A rule that has tripped.

    Attributes:
        rule: its key in `[abort]`.
        limit: what was tolerated.
        bad: how many were bad.
        among: of how many that were looked at.
        codes: the commonest codes of the bad ones, and how many had each.
    """

    rule: str
    limit: Limit
    bad: int
    among: int
    codes: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        what = {"failed": "failed", "unknown": "are unknown", "canary": "failed or are unknown"}
        bad = what.get(self.rule, f"ended with the code {self.rule}")
        of = f"of the last {self.among:,} settled" if self.limit.among else f"of {self.among:,}"
        share = f" ({self.limit.written})" if self.limit.among else ""
        named = ", ".join(f"{many:,} x {code}" for code, many in self.codes)
        return (
            f"{self.bad:,} {of} {bad}: abort.{self.rule} tolerates {self.limit.most:,}{share}"
            + (f"; mostly {named}" if named else "")
        )


@dataclass(slots=True)
class _Window:
    """The bad ones among the last settled operations; what is not bad only moves them out.

    Attributes:
        limit: how many may be bad.
        bad: how many are.
        codes: how many had each code.
        last: number and code of each bad one, where only the last ones settled count.
    """

    limit: Limit
    bad: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    last: deque[tuple[int, str]] = field(default_factory=deque)

    def add(self, number: int, code: str) -> bool:
        """Add a bad one, by its number and its code; return whether there are too many now."""
        self.bad += 1
        self.codes[code] += 1
        if self.limit.among is not None:
            self.last.append((number, code))
            while self.last[0][0] <= number - self.limit.among:
                _, old = self.last.popleft()
                self.bad -= 1
                self.codes[old] -= 1
        return self.bad > self.limit.most

    def commonest(self) -> list[tuple[str, int]]:
        return [(code, many) for code, many in self.codes.most_common(_MOST_CODES) if many]

    def copy(self) -> _Window:
        return replace(self, codes=self.codes.copy(), last=self.last.copy())


class AbortRules:
    """Judges every settled operation.

    Most operations succeed, and cost next to nothing here: only a bad one can trip a rule.

    Args:
        limits: by rule: `failed`, `unknown`, `canary`, or a code of the provider.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._windows = {rule: _Window(limit) for rule, limit in limits.items()}
        self._seen = self._seen_of_canary = 0

    @property
    def longest(self) -> int | None:
        """How many of the last settled operations must be known after a restart; None for all."""
        spans = [window.limit.among for window in self._windows.values()]
        return None if None in spans else max(filter(None, spans), default=0)

    def judge(self, settled: Settled) -> Sequence[Tripped]:
        """Look at one more; return the rules that it has tripped, or none."""
        self._seen += 1
        if settled.wave == 0:
            self._seen_of_canary += 1
        if not settled.bad:
            return ()
        tripped, code = [], _named(settled.code)
        for rule, window in self._windows.items():
            if _is_bad(rule, settled) and window.add(self._seen, code):
                codes = window.commonest() if rule in _ANY_CODE else ()
                among = self._among(rule, window.limit)
                tripped.append(Tripped(rule, window.limit, window.bad, among, codes))
        return tripped

    def _among(self, rule: str, limit: Limit) -> int:
        """How many a rule has looked at."""
        seen = self._seen_of_canary if rule == "canary" else self._seen
        return seen if limit.among is None else min(seen, limit.among)

    def copy(self) -> AbortRules:
        """The same rules, at the same point, to go on by themselves."""
        copied = AbortRules({})
        copied._windows = {rule: window.copy() for rule, window in self._windows.items()}
        copied._seen, copied._seen_of_canary = self._seen, self._seen_of_canary
        return copied


def _named(code: int | str | None) -> str:
    return "no code" if code is None else str(code)


def _is_bad(rule: str, settled: Settled) -> bool:
    """Whether a rule counts a bad operation."""
    match rule:
        case "failed":
            return settled.state is not State.UNKNOWN
        case "unknown":
            return settled.state is State.UNKNOWN
        case "canary":
            return settled.wave == 0
        case _:
            return str(settled.code) == rule
