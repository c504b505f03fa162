"""Judge a figure of `benchmarks.instructions` by another one, or by a recorded one.

In: figures, in instructions per operation, and what they depend on besides the code. Out: whether
they agree, in words. Pure, but for asking which versions this process has.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sqlite3
import ssl
import statistics
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

TOLERANCE = 0.03
"""A figure may differ by this much; the measure itself varies by 1 %."""

ROUNDS = 3
"""How often a figure is measured that is recorded, or is out of bounds."""

_PACKAGES = ("aiohttp", "multidict", "orjson", "yarl")
"""What else the loop of a run spends its instructions in."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a figure depends on besides the code of this checkout.

    Attributes:
        python: implementation and minor version, processor architecture, and whether the
            interpreter was built with optimization by profile. With another one, a figure says
            nothing about a change.
        versions: of the interpreter and of the libraries that a run spends its time in; a
            difference may come from there.
    """

    python: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls) -> Self:
        """Return those of this process."""
        optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        minor = ".".join(platform.python_version_tuple()[:2])
        return cls(
            f"{platform.python_implementation()} {minor}, {platform.machine()},"
            f" {'with' if optimized else 'without'} PGO",
            {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
                "sqlite": sqlite3.sqlite_version,
                "openssl": ssl.OPENSSL_VERSION.split()[1],
            },
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison has shown.

    Attributes:
        within: whether the figure is within the bounds; None if the two can't be compared.
        text: what to say about it.
    """

    within: bool | None
    text: str


def compared(figure: float, recorded: float, *, tolerance: float = TOLERANCE) -> Verdict:
    """Compare two figures, in instructions per operation."""
    change = figure / recorded - 1
    within = abs(change) <= tolerance
    side = "more" if change > 0 else "less"
    text = f"{figure:,.0f} instructions per operation, {abs(change):.1%} {side} than"
    text += f" {recorded:,.0f}; {'within' if within else 'outside of'} ±{tolerance:.0%}"
    return Verdict(within, text)


def differences(now: Conditions, then: Conditions) -> list[str]:
    """Return which versions are not the recorded ones."""
    return [
        f"{name} {version}, recorded with {then.versions.get(name, 'none')}"
        for name, version in now.versions.items()
        if version != then.versions.get(name)
    ]


def judged(figure: float, entry: Mapping[str, Any], now: Conditions) -> Verdict:
    """Compare a figure with a recorded one, if they can be compared.

    Args:
        figure: in instructions per operation.
        entry: what was recorded, see `entry_of`.
        now: the conditions under which `figure` was measured.
    """
    then = Conditions(entry["python"], entry["versions"])
    if then.python != now.python:
        return Verdict(
            None,
            f"{figure:,.0f} instructions per operation; not comparable: this is {now.python},"
            f" and {entry['instructions']:,} was recorded with {then.python}",
        )
    verdict = compared(figure, entry["instructions"])
    if verdict.within:
        return verdict
    others = "".join(f"\n    another version: {one}" for one in differences(now, then))
    return Verdict(verdict.within, verdict.text + others)


def entry_of(figures: Sequence[float], now: Conditions) -> dict[str, Any]:
    """Return what is recorded: the median of some figures, how far they lie apart, and where."""
    middle = statistics.median(figures)
    return {
        "instructions": round(middle),
        "range": f"{min(figures) / middle - 1:+.1%} to {max(figures) / middle - 1:+.1%}",
        "rounds": len(figures),
        **asdict(now),
        "machine": f"{platform.system()} {platform.release().split('-')[0]}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    }


def is_enough(measured: int, rounds: int | None, verdict: Verdict) -> bool:
    """Whether nothing needs to be measured again.

    Args:
        measured: how often it was.
        rounds: how often somebody wants it to be, if they have said so.
        verdict: by the median so far.
    """
    if rounds is not None:
        return measured >= rounds
    return measured >= ROUNDS or (measured == 1 and verdict.within is not False)
