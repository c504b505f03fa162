"""When a run will be over, and when it must begin to be over in time. Pure.

In: how many operations each wave has left, the rate, and what `[rollout]` and `[window]` say. Out:
the expected end with the parts of the duration, and the latest start for a deadline. Not counted is
what nobody can know: how long people take to say go, holds and pauses, retries, and a provider that
throttles. Must never decide anything: a deadline raises no rate and skips no rule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from bulkcert.rules import Rules
from bulkcert.rules.window import Window


class Part(NamedTuple):
    """One wave, or what is left of it.

    Attributes:
        wait_s: seconds before it begins, since the wave before was over or since the start.
        sending_s: seconds of sending.
    """

    wait_s: float
    sending_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When a run that begins, or goes on, at some time will be over.

    Attributes:
        start_s: that time; Unix seconds, like all times here.
        end_s: when it will be over.
        sending_s: seconds of sending.
        waiting_s: seconds of waiting between waves.
        closed_s: seconds of waiting for the window to open.
        goes: how often somebody must say go, which takes time that is not counted.
    """

    start_s: float
    end_s: float
    sending_s: float
    waiting_s: float
    closed_s: float
    goes: int

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the end: the sum of its three parts."""
        return self.end_s - self.start_s

    @property
    def costs_most(self) -> tuple[str, float]:
        """What takes most of the duration, as a phrase, and its seconds."""
        parts = (
            ("sending", self.sending_s),
            ("waits between waves", self.waiting_s),
            ("the closed window", self.closed_s),
        )
        return max(parts, key=lambda part: part[1])

    def slack_s(self, deadline_s: float) -> float:
        """Seconds left between the end and a deadline; negative if it will be missed."""
        return deadline_s - self.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is still to be done.

    Attributes:
        parts: the waves that have something left, in order.
        goes: how often somebody must say go on the way.
        window: when operations may be claimed; None for always.
    """

    parts: tuple[Part, ...]
    goes: int = 0
    window: Window | None = None

    @classmethod
    def of(
        cls,
        rules: Rules,
        waves: Sequence[tuple[str, int]],
        *,
        s_per_operation: float,
        over_for_s: float | None = None,
        gone: Collection[str] = (),
    ) -> Self:
        """Return the work of a run.

        Args:
            rules: the rules of the job.
            waves: name and number of operations left, for the current wave and all that follow.
                For a run without waves, one with any name.
            s_per_operation: seconds that each operation adds to the time of sending: its requests
                divided by the rate.
            over_for_s: for how many seconds the current wave has been over; None if it is not.
            gone: names of the waves after which somebody has said go already.
        """
        rollout, names = rules.rollout, [name for name, _ in waves]
        between_s = rollout.between_s if rollout else 0.0
        parts = []
        for number, (_, operations) in enumerate(waves):
            wait_s = between_s if number else 0.0
            if number == 1 and over_for_s is not None:
                wait_s = max(0.0, between_s - over_for_s)
            if operations:
                parts.append(Part(wait_s, operations * s_per_operation))
        asked = [n for n in names[:-1] if rollout and rollout.confirms(n, names) and n not in gone]
        return cls(parts=tuple(parts), goes=len(asked), window=rules.window)

    def forecast(self, start_s: float) -> Forecast | None:
        """Say when it will be over if it begins at this time.

        None if the window is not open for long enough in the year that follows.
        """
        at_s, waiting_s, sending_s = start_s, 0.0, 0.0
        for part in self.parts:
            at_s += part.wait_s
            end_s = at_s + part.sending_s
            if self.window is not None and part.sending_s:
                opened = self.window.when_open_for(at_s, part.sending_s)
                if opened is None:
                    return None
                end_s = opened
            at_s = end_s
            waiting_s += part.wait_s
            sending_s += part.sending_s
        return Forecast(
            start_s=start_s,
            end_s=at_s,
            sending_s=sending_s,
            waiting_s=waiting_s,
            closed_s=max(0.0, at_s - start_s - waiting_s - sending_s),
            goes=self.goes,
        )

    def latest_start(self, deadline_s: float) -> float | None:
        """The last Unix time, in whole seconds, at which it can begin and be over in time.

        None if the window is not open for long enough in the year before.
        """
        at_s = deadline_s
        for part in reversed(self.parts):
            begin_s: float | None = at_s - part.sending_s
            if self.window is not None and part.sending_s:
                begin_s = self.window.since_open_for(at_s, part.sending_s)
            if begin_s is None:
                return None
            at_s = begin_s - part.wait_s
        return float(math.floor(at_s))
