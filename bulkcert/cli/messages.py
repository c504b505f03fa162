"""Messages for people: which are shown, and what they look like on a terminal, in a log, as JSON.

In: messages with a level. Out: text. Pure, so nothing in here writes to a stream or a file; see
`bulkcert.cli.console` for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from bulkcert.cli.format import wrapped
from bulkcert.values import printable


class Level(IntEnum):
    """How much a message matters. `RESULT` is what a command was called for."""

    DETAIL = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    RESULT = 50


_NAMES = {Level.DETAIL: "debug", Level.WARNING: "warning", Level.ERROR: "error"}

_PREFIXES = {Level.WARNING: "Warning: ", Level.ERROR: "Error: "}

_COLOURS = {Level.WARNING: "yellow", Level.ERROR: "red"}

_CODES = {"red": "31", "yellow": "33"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message.

    Attributes:
        level: how much it matters.
        text: what it says, in one line.
        before, after: the lines that people see before and after `text`; programs find what is in
            them in `fields`.
        fields: the same for programs; values as JSON has them.
        at: when, as Unix time in seconds.
    """

    level: Level
    text: str
    at: float
    before: str | None = None
    after: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_text(
        self, *, stamped: bool = False, coloured: bool = False, columns: int | None = None
    ) -> str:
        """Return the lines for people, each ending with a line break.

        Args:
            stamped: begin each line with the time.
            coloured: colour the first word of warnings and errors.
            columns: the width of the terminal, if they are shown on one; see `wrapped`.
        """
        prefix = _PREFIXES.get(self.level, "")
        stamp = f"{self._time()} " if stamped else ""
        before = [] if self.before is None else self.before.split("\n")
        after = self.after.split("\n") if self.after else []
        lines = [*before, f"{prefix}{self.text}", *after]
        if stamped:
            lines = [line for line in lines if line]
        lines = list(map(printable, lines))
        if columns is not None:
            lines = [wrapped(line, columns) for line in lines]
        if coloured and prefix:  # only on a terminal, where no line is left out
            word = prefix.rstrip()
            first = lines[len(before)].removeprefix(word)
            lines[len(before)] = colour(word, _COLOURS[self.level]) + first
        return "".join(f"{stamp}{line}\n" for line in lines)

    def as_json(self) -> str:
        """Return one line with a JSON object."""
        from bulkcert.json_lines import as_json  # slow to import

        level = _NAMES.get(self.level, "info")
        entry = {"time": self._time(), "level": level, "text": self.text, **self.fields}
        return as_json(entry).decode() + "\n"

    def _time(self) -> str:
        from bulkcert.json_lines import utc  # slow to import

        return utc(self.at)


def colour(text: str, name: str) -> str:
    """Return text that a terminal shows in a colour: "red" or "yellow"."""
    return f"\x1b[{_CODES[name]}m{text}\x1b[0m"
