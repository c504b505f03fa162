"""The waves of a run: how many targets belong to each. Pure.

In: the number of targets, and what `[rollout]` says. Out: the waves, in the order in which they
run. They are cumulative: "10%" means that a tenth of all targets is done when it is over. Must
never leave a target out, and never make an earlier wave larger than what was written.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fractions import Fraction

CANARY, REST = "canary", "rest"
"""Names of the first wave, if there is a canary, and of what follows the last one written."""

RETRY = "retry"
"""What the names of waves begin with that retry what failed."""

ALL = "all"
"""What `confirm` calls every wave."""

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is when a wave is over.

    Attributes:
        name: as it is written in the job, or `CANARY`.
        share: the share of all targets; None if `targets` says how many.
        targets: the number of targets; None if `share` says it.
    """

    name: str
    share: Fraction | None = None
    targets: int | None = None

    def of(self, total: int) -> int:
        """The number of targets, out of `total`: rounded down, but at least one."""
        if self.share is None:
            assert self.targets is not None
            return min(self.targets, total)
        return max(1, math.floor(self.share * total))


class OrderKey(NamedTuple):
    """A column of the target file that targets are ordered by."""

    column: str
    descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """In which order the targets are done, and in which waves.

    Attributes:
        order: the columns that decide, the most important first; then the order of the file.
        canary: number of targets in the first wave; 0 for no canary.
        spread_by: the column over whose values the canary is spread; empty for none.
        sizes: how far each wave goes, the canary first.
        between_s: least seconds between two waves, from the last settled operation.
        confirm: names of the waves after which the run waits for a person.
    """

    order: tuple[OrderKey, ...] = ()
    canary: int = 0
    spread_by: str = ""
    sizes: tuple[Size, ...] = ()
    between_s: float = 0.0
    confirm: frozenset[str] = frozenset()

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the target file that are needed, each with the key that names it."""
        order = dict.fromkeys((key.column for key in self.order), "rollout.order")
        return ({self.spread_by: "rollout.spread_by"} if self.spread_by else {}) | order

    def confirms(self, wave: str, waves: Collection[str]) -> bool:
        """Whether a person must say go after a wave.

        Where a wave that people must confirm was dropped, they confirm the one before, which is as
        large.

        Args:
            wave: its name.
            waves: the names of all waves that there are, dropped ones left out.
        """
        if ALL in self.confirm:
            return True
        kept = ""
        for size in self.sizes:
            kept = size.name if size.name in waves else kept
            if kept == wave and size.name in self.confirm:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave of a run.

    Attributes:
        name: see `Size`; `REST` for the targets after the last size.
        begin: number of targets in the waves before.
        end: number of targets up to the end of this one.
    """

    name: str
    begin: int
    end: int

    @property
    def targets(self) -> int:
        """Number of targets in this wave."""
        return self.end - self.begin


def order_key(text: str) -> OrderKey:
    """Read a column to order by; a "-" in front of it means descending."""
    return OrderKey(text.removeprefix("-").strip(), text.startswith("-"))


def size(value: object) -> Size:
    """Read a size such as "10%" or 500.

    Raises:
        ValueError: it is neither; the reason completes "rollout.waves ...".
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"must be at least 1, not {value}")
        return Size(str(value), targets=value)
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'must be a share such as "10%" or a number of targets, not {value!r}')
    from fractions import Fraction  # slow to import, and most jobs have no such share

    share = Fraction(match[1]) / 100
    if not 0 < share <= 1:
        raise ValueError(f'must be above 0% and at most 100%, not "{value}"')
    return Size(str(value).strip(), share)


def fault(sizes: Sequence[Size]) -> str:
    """Say what is wrong with sizes as they are written; empty if nothing is.

    Shares and numbers can be compared only once the number of targets is known.
    """
    for kind in ("share", "targets"):
        written = [each for each in sizes if getattr(each, kind) is not None]
        for before, after in itertools.pairwise(written):
            if getattr(after, kind) <= getattr(before, kind):
                return f"must grow, but {after.name} follows {before.name}"
    return ""


def waves(total: int, sizes: Sequence[Size]) -> tuple[list[Wave], list[str]]:
    """Divide targets into waves.

    Args:
        total: how many targets there are; at least one.
        sizes: what is written, the canary first.

    Returns:
        The waves, and a note for each size that is no larger than the one before and is dropped.
    """
    divided: list[Wave] = []
    notes = []
    done = 0
    for each in sizes:
        end = each.of(total)
        if end <= done:
            notes.append(f"The wave {each.name} is dropped: {divided[-1].name} is as large.")
            continue
        divided.append(Wave(each.name, done, end))
        done = end
    if done < total:
        divided.append(Wave(REST, done, total))
    return divided, notes
