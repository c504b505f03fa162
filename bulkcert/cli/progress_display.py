"""Shows the progress of a run: a bar on a terminal, a line every few seconds elsewhere.

In: the events of a run. Out: messages and a status line; see `bulkcert.cli.console`. It never stops
the run, whatever happens to standard error.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bulkcert.cli import console
from bulkcert.cli.format import cut, width
from bulkcert.cli.messages import Level, colour
from bulkcert.control import Verb
from bulkcert.event_log import EventType, RunEvent
from bulkcert.event_words import in_words
from bulkcert.events import Detail, Event, Notice, Progress, Settled
from bulkcert.model import State
from bulkcert.quantities import duration, number, percent, rate
from bulkcert.rules.gate import open_ended
from bulkcert.values import printable

LINE_EVERY_S = 5.0

IDLE_LINE_EVERY_S = 60.0
"""The same while nothing happens, for the same reasons: a closed window may last a night."""

SHORTEST_BAR = 10
"""Cells. Where less would be left, the figures stand alone."""

_BAD = (State.FAILED, State.UNKNOWN)


class ProgressDisplay:
    """Shows the events of a run.

    Args:
        ceiling: the most requests in any second, shown beside the rate.
        wanted: whether to show progress; notices are shown in any case.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, ceiling: float, wanted: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ceiling = ceiling
        self._wanted = wanted
        self._clock = clock
        self._line_at = -math.inf
        self._in_line: object = None  # what happens, as of the last line
        self._last: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last is not None and self._shows_bar:
            # the last state stays on the screen
            console.set_status("")
            console.write_on_terminal(self._bar(self._last)[0] + "\n")

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Settled():
                pass  # there is one for each operation; Progress sums them up
            case Notice():
                level = Level.WARNING if event.warns else Level.INFO
                console.write(event.text, level, event="notice")
            case Detail():
                console.write(event.text, Level.DETAIL, event="detail")
            case Progress():
                self._show(event)
            case RunEvent():
                _show_logged(event)

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        console.write(text)

    @property
    def _shows_bar(self) -> bool:
        return self._wanted and console.shows_bar()

    def _show(self, progress: Progress) -> None:
        self._last = progress
        if self._shows_bar:
            console.set_status(*self._bar(progress))
        happens = (
            progress.requests,
            progress.settled,
            [reason.kind for reason in progress.reasons],
        )
        is_idle = bool(progress.reasons) and happens == self._in_line
        if self._clock() < self._line_at + (IDLE_LINE_EVERY_S if is_idle else LINE_EVERY_S):
            return
        self._line_at, self._in_line = self._clock(), happens
        text, fields = line(progress, self._ceiling), as_fields(progress, self._ceiling)
        if self._wanted and not self._shows_bar:
            console.write(text, event="progress", **fields)
        else:
            console.log_only(text, event="progress", **fields)

    def _bar(self, progress: Progress) -> tuple[str, int]:
        columns = console.columns() or 80
        return bar(progress, self._ceiling, columns - 1, coloured=console.has_colours())


def _show_logged(event: RunEvent) -> None:
    """Write what people should see of the event log above the bar, and all of it into logs."""
    text = in_words(event)
    text = f"{text[0].upper()}{text[1:]}."
    fields = event.as_object()
    for name in ("type", "at", "text"):  # a message has them, too
        fields.pop(name, None)
    controlled = event.type is EventType.CONTROL and event.data["change"] == "in_force"
    # the run says by itself that it stops
    stops = controlled and event.data["verb"] == Verb.STOP
    if event.type is EventType.ABORT:  # at once: what is under way may take a minute to end
        console.write(text, Level.WARNING, event=str(event.type), **fields)
    elif event.type is EventType.WAVE or (controlled and not stops):
        console.write(text, Level.INFO, event=str(event.type), **fields)
    else:
        console.log_only(text, event=str(event.type), **fields)


def line(progress: Progress, ceiling: float) -> str:
    """Format the progress as a line for a log."""
    done = sum(progress.settled.values())
    share = percent(done, progress.total)
    parts = [f"{done:,} of {progress.total:,} ({share})", _rate_of(progress, ceiling)]
    return ", ".join(
        [*parts, *_bad(progress), *_left(progress), *_late(progress), *_note(progress)]
    )


def bar(
    progress: Progress, ceiling: float, cells: int, *, coloured: bool = False
) -> tuple[str, int]:
    """Format the progress as a bar that is never wider than the terminal.

    What is least important goes first where the terminal is narrow: the bar itself, the ceiling,
    the rate.

    Args:
        progress: the progress.
        ceiling: the most requests in any second.
        cells: the width.
        coloured: show failed and unknown operations, and what holds the run up, in colours.

    Returns:
        The bar, and its width in cells.
    """
    done = sum(progress.settled.values())
    share = f"{percent(done, progress.total):>4}"
    number_done = f"{done:,}/{progress.total:,}"
    bad, left, note = _bad(progress), _left(progress), _note(progress)
    late = _late(progress)
    state = [*bad, *left, *late, *note]
    layouts = (
        [share, number_done, _rate_of(progress, ceiling), *state],
        [share, number_done, rate(progress.rate), *state],
        [number_done, rate(progress.rate), *state],
        [number_done, *state],
        [share.strip(), *state],
        [share.strip(), *bad, *late, *note],
    )
    parts = next((parts for parts in layouts if _width(parts) <= cells), layouts[-1])
    room = cells - _width(parts) - 2
    if parts is layouts[0] and room >= SHORTEST_BAR:
        parts.insert(1, _graph(done, progress.total, min(room, 40)))
    if _width(parts) > cells:
        text = cut("  ".join(parts), cells)
        return text, width(text)
    colours = dict.fromkeys([*bad, *late], "red") | dict.fromkeys(note, "yellow")
    shown = [
        colour(part, colours[part]) if coloured and part in colours else part for part in parts
    ]
    return "  ".join(shown), _width(parts)


def as_fields(progress: Progress, ceiling: float) -> dict[str, Any]:
    """Return the progress as a program reads it: the fields of a message in JSON."""
    fields = dataclasses.asdict(progress)
    settled = fields.pop("settled")
    fields |= {str(state): many for state, many in settled.items()}
    fields["reasons"] = list(map(str, progress.reasons))
    rounded = {"rate": round(progress.rate, 1), "ceiling": ceiling}
    for name in ("left_s", "slack_s"):
        if fields[name] is not None:
            rounded[name] = round(fields[name], 1)
    return fields | rounded


def _width(parts: list[str]) -> int:
    return width("  ".join(parts))


def _graph(done: int, total: int, cells: int) -> str:
    """A bar in ASCII: other characters take one cell here, and two there."""
    full = (cells - 2) * done // total if total else cells - 2
    return f"[{'=' * full:{cells - 2}}]"


def _rate_of(progress: Progress, ceiling: float) -> str:
    limit = ceiling if progress.rate_limit is None else min(progress.rate_limit, ceiling)
    return f"{rate(progress.rate)} of {number(limit)}"


def _bad(progress: Progress) -> list[str]:
    return [f"{many:,} {state}" for state in _BAD if (many := progress.settled[state])]


def _left(progress: Progress) -> list[str]:
    if not progress.left_s or open_ended(progress.reasons):
        return []
    return [f"{duration(progress.left_s)} left"]


def _late(progress: Progress) -> list[str]:
    late_s = -(progress.slack_s or 0.0)
    return [f"{duration(late_s)} late"] if late_s > 0 else []


def _note(progress: Progress) -> list[str]:
    return [printable(progress.note)] if progress.note else []
