"""What may change within a run that has begun, and what it takes.

In: how the job differs from the plan of the run. Out: what may not change, what `run --amend`
changes, and what needs nothing. Lowering a limit needs nothing. Waves are fixed when planning, and
fewer people can't decide about what more had to approve. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bulkcert.plan_hash import LIMITS, RULES, Difference, PlanHash
from bulkcert.rules import MAX_OPERATIONS

_WHEN_PLANNING = frozenset({"order", "canary", "spread_by", "sizes"})
"""The keys of `[rollout]` that decide about the waves."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the job of a run has changed.

    Attributes:
        fixed: what may not change within a run.
        amending: what may change with `--amend`.
        lowered: limits that were lowered.
    """

    fixed: tuple[Difference, ...] = ()
    amending: tuple[Difference, ...] = ()
    lowered: tuple[Difference, ...] = ()

    @classmethod
    def sorted(cls, differences: Iterable[Difference]) -> Changes:
        """Sort the differences between the plan of a run and its job."""
        every = tuple(differences)
        fixed = tuple(filter(_is_fixed, every))
        lowered = tuple(filter(_is_lowered, every))
        return cls(fixed, tuple(each for each in every if each not in fixed + lowered), lowered)


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change of the limits and rules of a run.

    Attributes:
        differences: what changes.
        plan: what identifies the plan from then on.
    """

    differences: tuple[Difference, ...]
    plan: PlanHash

    def lifts(self, rule: str) -> bool:
        """Whether it changes the rule that has stopped the run, so that the run may go on.

        Args:
            rule: see `bulkcert.store.base.Abort`.
        """
        if rule == MAX_OPERATIONS:
            return self._raises("protect", MAX_OPERATIONS)
        section = "check" if rule == "check" else "abort"
        return any(each.section == section for each in self.differences)

    def _raises(self, section: str, key: str) -> bool:
        """Whether it raises or removes a number that limits the run."""
        found = (each for each in self.differences if each[:2] == (section, key))
        return any(
            each.before is not None and (each.now is None or each.now > each.before)
            for each in found
        )


def _is_fixed(difference: Difference) -> bool:
    section, key, before, now = difference
    if section == "rollout":
        return key in _WHEN_PLANNING
    if (section, key) == ("approval", "required"):
        return (now or 0) < (before or 0)
    return section not in (LIMITS, *RULES)


def _is_lowered(difference: Difference) -> bool:
    section, _, before, now = difference
    return section == LIMITS and now is not None and (before is None or now < before)
