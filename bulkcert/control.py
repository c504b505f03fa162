"""How people steer a run: what was asked for, by whom and why; and what is in force after all that.

In: the entries of the log in the run's store, in order. Out: the control state. Pure. The log is
only ever appended to, so everybody who reads it sees the same state, after any crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple


class Verb(StrEnum):
    """What can be asked of a run."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    RATE = "rate"
    GO = "go"


class ControlEntry(NamedTuple):
    """One thing that somebody asked of a run.

    Attributes:
        id: its number in the log, from 1.
        at: when, as Unix time in seconds.
        who: the user and the machine, such as "ann@ops1".
        why: the reason that was given; may be empty.
        verb: what was asked.
        value: for `RATE`, requests per second, or "max"; for `GO`, the name of a wave.
    """

    id: int
    at: float
    who: str
    why: str
    verb: Verb
    value: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """What is in force.

    Attributes:
        paused: what pauses the run; None if nothing does.
        rate: what limits the rate; None if only the plan's ceiling does.
        goes: for each wave that may be followed by the next, who said so.
        stop: the last stop; it only concerns processes that were running then.
        last_id: the number of the last entry; 0 if there is none.
    """

    paused: ControlEntry | None = None
    rate: ControlEntry | None = None
    goes: dict[str, ControlEntry] = field(default_factory=dict)
    stop: ControlEntry | None = None
    last_id: int = 0

    @property
    def requests_per_second(self) -> float | None:
        """The rate that somebody has set, or None."""
        return float(self.rate.value) if self.rate else None


def control_after(entries: Iterable[ControlEntry], before: Control = Control()) -> Control:
    """Return what is in force after these entries, in order."""
    control = before
    for entry in entries:
        control = replace(control, last_id=entry.id)
        match entry.verb:
            case Verb.PAUSE:
                control = replace(control, paused=entry)
            case Verb.RESUME:
                control = replace(control, paused=None)
            case Verb.STOP:
                control = replace(control, stop=entry)
            case Verb.RATE:
                control = replace(control, rate=None if entry.value == "max" else entry)
            case Verb.GO:
                control = replace(control, goes={**control.goes, entry.value: entry})
    return control
