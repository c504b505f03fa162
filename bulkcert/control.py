"""How people steer a run: what was asked for, by whom and why; and what is in force after all that.

In: the entries of the log in the run's store, in order; and the file `PAUSE` in the run directory.
Out: the control state. It decides nothing: whoever claims operations obeys it. The log is only ever
appended to, so everybody who reads it sees the same state, after any crash.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

PAUSE_FILE = "PAUSE"
"""Name of the file that pauses a run for as long as it is in its directory."""

FULL_RATE = "max"
"""The value of a rate that is as high as the plan allows."""

MOST_TEXT = 200
"""Characters of a reason that are kept and shown."""


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
        value: for `RATE`, requests per second, or `FULL_RATE`; for `GO`, the name of a wave.
    """

    id: int
    at: float
    who: str
    why: str
    verb: Verb
    value: str = ""

    def __str__(self) -> str:
        match self.verb:
            case Verb.PAUSE:
                what = "paused"
            case Verb.RESUME:
                what = "resumed"
            case Verb.STOP:
                what = "stopped"
            case Verb.RATE:
                what = "full rate" if self.value == FULL_RATE else f"rate {self.value}/s"
            case Verb.GO:
                what = f"go after {self.value}"
        return f"{what}, by {self.who}" + (f": {self.why}" if self.why else "")


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
                control = replace(control, rate=None if entry.value == FULL_RATE else entry)
            case Verb.GO:
                control = replace(control, goes={**control.goes, entry.value: entry})
    return control


def pause_file(folder: Path) -> str | None:
    """The reason in the `PAUSE` file of a run directory; None if there is no such file.

    The reason is the first line, if there is one. Whatever has that name pauses the run: a folder,
    a dangling link, a file that can't be read.
    """
    path = folder / PAUSE_FILE
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it can't be told, so better not go on
    return _first_line(path)


def _first_line(path: Path) -> str:
    """The first line of a regular file, as far as it can be read without waiting."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = os.read(file, 4096) if stat.S_ISREG(os.fstat(file).st_mode) else b""
        finally:
            os.close(file)
    except OSError:
        return ""
    lines = content.decode("utf-8-sig", "replace").strip().splitlines()
    return lines[0][:MOST_TEXT] if lines else ""


def who() -> str:
    """Who steers: the user of this process, and the host."""
    import socket  # nobody else here needs it

    return f"{user_name()}@{socket.gethostname()}"


def user_name() -> str:
    """The user of this process."""
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # as in a container
        return f"uid {user}"
