"""May the next operation be claimed? Everything that decides it, in one pure function.

In: the rules, where the campaign stands, what people ask for, what the outside check said, and the
time. Out: where the campaign stands now, and the gate: open or not, and every reason why not. The
same on every host, and on a virtual clock.

A wave is over when all of its operations are settled. Then, in this order: `[abort]`, which is
judged with each settled operation; `between`; a check that began after the wave was over; and a
`go` for each wave that `confirm` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from bulkcert.control import Control
from bulkcert.rules import Rules
from bulkcert.rules.check import CheckResult, Verdict


class ReasonKind(StrEnum):
    """Why nothing is sent, or less than could be. A closed set."""

    PAUSED = "paused"
    CLOSED = "closed"
    HELD = "held"
    WAITING = "waiting"
    HALF_OPEN = "half-open"
    THROTTLED = "throttled"


class Reason(NamedTuple):
    """One reason why nothing is sent.

    Attributes:
        kind: what kind of reason it is.
        detail: what people must know of it, as a phrase; may be empty.
    """

    kind: ReasonKind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else str(self.kind)


_OPEN_ENDED = ("paused", "held", "half-open", "waiting (go ")


def open_ended(reasons: Iterable[Reason | str]) -> bool:
    """Whether nobody can say how long a run will stand: people, a check or the provider decide."""
    return any(str(reason).startswith(_OPEN_ENDED) for reason in reasons)


NOT_CHECKED = Reason(ReasonKind.HELD, "check: not run yet")
"""At the very beginning, until the first check has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a campaign stands; durable.

    Attributes:
        wave: number of the current wave, from 0.
        over_at: when its last operation was settled, as Unix time in seconds; None if some are not.
        begun: distinct operations ever claimed; counted only where `protect.max_operations` is set.
        held_since: since when the check alone has held the run; None while it does not. Only a
            shared store keeps it, because hosts may come and go meanwhile.
        held_seen: when some host last saw that.
    """

    wave: int = 0
    over_at: float | None = None
    begun: int = 0
    held_since: float | None = None
    held_seen: float | None = None


class Gate(NamedTuple):
    """Whether operations may be claimed, and requests may leave.

    Attributes:
        wave: the number of the wave to claim from.
        reasons: why nothing may leave; empty if the gate is open.
        closes_at: when the change window closes, as Unix time in seconds; None if it does not.
        rate: requests per second that people allow; None for the job's own ceiling.
        control_id: the number of the last control that is considered here.
        abort: the id of the abort that has stopped the run; empty if there is none.
        stop: why this process should stop; empty if it should not.
        last_wave: there is no wave after this one.
        needs_new_check: the last check began before the wave was over.
        version: of all that people and rules have decided and that is considered here; only counted
            where several hosts work on the run.
    """

    wave: int = 0
    reasons: tuple[Reason, ...] = ()
    closes_at: float | None = None
    rate: float | None = None
    control_id: int = 0
    abort: str = ""
    stop: str = ""
    last_wave: bool = True
    needs_new_check: bool = False
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Whether operations may be claimed."""
        return not (self.reasons or self.abort or self.stop)


class Situation(NamedTuple):
    """What the gate depends on besides the rules and where the campaign stands.

    Attributes:
        now_s: Unix time in seconds.
        control: what people ask for.
        pause_file: the reason in the file `PAUSE`; None if there is no such file.
        check: what the last outside check said; None before the first has ended.
    """

    now_s: float
    control: Control = Control()
    pause_file: str | None = None
    check: CheckResult | None = None


def judge(
    rules: Rules, waves: Sequence[str], standing: Standing, situation: Situation
) -> tuple[Standing, Gate]:
    """Say where the campaign stands now, and whether operations may be claimed.

    Args:
        rules: the rules of the job.
        waves: the names of all waves, in order; empty if the run has no waves.
        standing: where the campaign stood before.
        situation: everything else.
    """
    if standing.over_at is not None and standing.over_at > situation.now_s:
        standing = replace(standing, over_at=situation.now_s)  # the time of day was set back
    reasons = [*_paused(situation), *_closed(rules, situation), *_held(rules, standing, situation)]
    if standing.over_at is not None and standing.wave + 1 < len(waves):
        reasons += _waiting(rules, waves, standing, situation)
        if not reasons:
            standing = replace(standing, wave=standing.wave + 1, over_at=None)
    window = rules.window
    return standing, Gate(
        wave=standing.wave,
        reasons=tuple(reasons),
        closes_at=window.next_change(situation.now_s) if window and not reasons else None,
        rate=situation.control.requests_per_second,
        control_id=situation.control.last_id,
        last_wave=standing.wave + 1 >= len(waves),
        needs_new_check=_is_stale(standing, situation),
    )


def _paused(situation: Situation) -> list[Reason]:
    reasons = []
    if entry := situation.control.paused:
        reasons.append(Reason(ReasonKind.PAUSED, f"by {entry.who}" + _because(entry.why)))
    if situation.pause_file is not None:
        reasons.append(
            Reason(ReasonKind.PAUSED, "by the file PAUSE" + _because(situation.pause_file))
        )
    return reasons


def _closed(rules: Rules, situation: Situation) -> list[Reason]:
    window = rules.window
    if window is None or window.is_open(situation.now_s):
        return []
    opens_at = window.next_change(situation.now_s)
    until = (
        ""
        if opens_at is None
        else datetime.fromtimestamp(opens_at, window.zone).strftime(" until %a %Y-%m-%d %H:%M")
    )
    return [Reason(ReasonKind.CLOSED, f"window{until}, {window.zone.key}")]


def _held(rules: Rules, standing: Standing, situation: Situation) -> list[Reason]:
    if rules.check is None:
        return []
    check = situation.check
    if check is None:
        return [NOT_CHECKED]
    if check.verdict is not Verdict.GO:
        return [Reason(ReasonKind.HELD, "check" + _because(check.reason))]
    if _is_stale(standing, situation):
        return [Reason(ReasonKind.HELD, "check: not run since the wave was over")]
    return []


def _is_stale(standing: Standing, situation: Situation) -> bool:
    """Whether the last check says nothing about the wave that is over."""
    check = situation.check
    if check is None or standing.over_at is None:
        return False
    # one from the future began before the time of day was set back
    return check.began_s < standing.over_at or check.began_s > situation.now_s


def _waiting(
    rules: Rules, waves: Sequence[str], standing: Standing, situation: Situation
) -> list[Reason]:
    rollout, wave = rules.rollout, waves[standing.wave]
    if rollout is None or standing.over_at is None:
        return []
    reasons = []
    if situation.now_s < (until_s := standing.over_at + rollout.between_s):
        until = datetime.fromtimestamp(until_s).astimezone().strftime("%H:%M:%S")
        reasons.append(Reason(ReasonKind.WAITING, f"between waves until {until}"))
    if rollout.confirms(wave, waves) and wave not in situation.control.goes:
        reasons.append(Reason(ReasonKind.WAITING, f"go {wave}"))
    return reasons


def _because(why: str) -> str:
    return f": {why}" if why else ""
