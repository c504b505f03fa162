"""What `status --watch` shows of a run: as much as fits the terminal, the least important left out.

In: a run as somebody sees it now, and the size of the terminal. Out: lines, none wider than that,
and no more than that. Pure, but for the job files beside the run, which the commands name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from textwrap import wrap
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.text import Text

from bulkcert.campaign_state import WaveState
from bulkcert.cli.campaign_screen import amendment_lines, control_lines, override_lines
from bulkcert.cli.format import wrapped
from bulkcert.cli.next_steps import NextStep, next_steps
from bulkcert.cli.status_screen import deadline_line
from bulkcert.cli.verdict import Tone, verdict
from bulkcert.event_log import EventType, RunEvent
from bulkcert.event_words import in_words
from bulkcert.found_runs import called
from bulkcert.model import Outcome, State
from bulkcert.observer import STALE_AFTER_S, Process, RunView
from bulkcert.quantities import count, duration, moment, number, percent, rate
from bulkcert.report.summary import ErrorKind, outcome_counts
from bulkcert.rules.gate import open_ended
from bulkcert.values import printable

GUTTER = 10
"""Cells for the names of the sections, to the left of what they contain."""

TWO_COLUMNS_FROM = 150
"""Cells from which on the sections are beside one another."""

LONGEST_BAR = 100
"""Cells."""

RECENT_S = 3.0
"""Counts that are older than this come with their age."""

_STYLES = {Tone.GOOD: "bold green", Tone.WAITS: "bold yellow", Tone.BAD: "bold red"}

_WORDS = {"succeeded": "green", "failed": "red", "unknown": "yellow"}
"""Colours that can be read on any background."""

_LETTERS = {"succeeded": "=", "already done": "=", "failed": "x", "unknown": "?", "in flight": ">"}
_COLOURS = {
    "succeeded": "green",
    "already done": "cyan",
    "failed": "red",
    "unknown": "yellow",
    "in flight": "blue",
}


class Section(NamedTuple):
    """Some lines under one name.

    Attributes:
        name: what they are about; in the gutter.
        lines: the lines, in order.
        wanted: how many of them there should be on a small screen, and on a larger one; a section
            that comes earlier gets its share first.
        focus: the line that matters most; its neighbours stay the longest.
    """

    name: str
    lines: Sequence[Text]
    wanted: tuple[int, int]
    focus: int = 0


def screen(view: RunView, columns: int, rows: int, *, coloured: bool = True) -> list[Text]:
    """Return what the terminal shows.

    Args:
        view: the run.
        columns, rows: the size of the terminal.
        coloured: there are colours, so the bar needs no letters.
    """
    top = [*_headline(view, columns), *_figures(view, columns, coloured=coloured)]
    left, half = rows - len(top), columns // 2
    if columns < TWO_COLUMNS_FROM:
        body = _body([*_of_operations(view, columns), *_of_processes(view)], columns, left)
    else:
        operations = _body(_of_operations(view, half - 2), half - 2, left)
        body = _beside(operations, _body(_of_processes(view), half, left), half)
    lines = [*top, *body][:rows]
    for line in lines:
        line.truncate(columns, overflow="ellipsis")
    return lines


# ---- what is always shown


def _headline(view: RunView, columns: int) -> list[Text]:
    """Whether it runs, or why not, and the command that lets it go on."""
    tone, (first, *others) = verdict(view)
    name = called(
        view.manifest.name, rehearsal=view.manifest.rehearsal, number=view.manifest.number
    )
    lines, clock = _paragraph(f"{name}: {first}", _STYLES[tone], columns), _clock(view.at)
    gap = columns - lines[-1].cell_len - len(clock)
    if gap >= 2:
        lines[-1] = Text.assemble(lines[-1], " " * gap, (clock, "dim"))
    for other in others:
        lines += _paragraph(f"  {other}", "yellow", columns)
    for step in list(next_steps(view))[:1]:
        lines += _step(step, columns)
    return lines


def _step(step: NextStep, columns: int) -> list[Text]:
    one = _text(f"  {step.aim} {step.commands[0]}", "bold")
    if len(step.commands) == 1 and one.cell_len <= columns:
        one.stylize("not bold", 0, 2 + len(step.aim))
        return [one]
    lines = _paragraph(f"  {step.aim}", "", columns)
    for command in step.commands:
        lines += _command(command, columns)
    return lines


def _paragraph(line: str, style: str, columns: int) -> list[Text]:
    """A line that is shown in full, on as many lines as that takes."""
    return [Text(part, style) for part in wrapped(printable(line), columns).split("\n")]


def _command(command: str, columns: int) -> list[Text]:
    """A command to copy. Where it takes several lines, a shell still reads it as one."""
    lines, line = [], " " * 4
    for word in printable(command).split(" "):
        if line.strip() and cell_len(f"{line} {word} \\") > columns:
            lines.append(f"{line} \\")
            line = " " * 6
        line += f" {word}" if line.strip() else word
        while cell_len(line) > columns > 2:  # goes on at the very beginning of the next line
            head = chop_cells(line, columns - 1)[0]
            lines.append(f"{head}\\")
            line = line[len(head) :]
    return [Text(part, "bold") for part in (*lines, line)]


def _figures(view: RunView, columns: int, *, coloured: bool) -> list[Text]:
    """How far it is, how fast, and until when."""
    counts = _counts(view)
    total = sum(counts.values())
    share = percent(total - counts["in flight"] - counts["pending"], total)
    age_s = view.at - view.counted_at
    age = f", {duration(age_s)} ago" if age_s > RECENT_S else ""
    said = f" {share} of {total:,}{age}"
    graph = bar(counts, min(LONGEST_BAR, columns - len(said)), coloured=coloured)
    lines = [Text(""), Text.assemble(graph, (said, "bold"))]
    shown = [name for name, many in counts.items() if many or name == "succeeded"]
    for parts in (
        [_text(f"{counts[name]:,} {name}", _WORDS.get(name, "")) for name in shown],
        map(_text, _rates(view)),
        map(_text, _times(view)),
    ):
        lines += _joined(parts, columns)
    return lines


def _joined(parts: Iterable[Text], columns: int) -> Iterator[Text]:
    """Some phrases beside one another, on as many lines as that takes."""
    line = Text("")
    for part in parts:
        if line and line.cell_len + 3 + part.cell_len > columns:
            yield line
            line = Text("")
        line = Text.assemble(line, " · ", part) if line else part
    if line:
        yield line


def _counts(view: RunView) -> dict[str, int]:
    """Number of operations by outcome, those in flight besides, in the order of the bar."""
    counts = {outcome.replace("_", " "): many for outcome, many in view.summary.outcomes.items()}
    pending = counts.pop("pending")
    return {**counts, "in flight": view.in_flight, "pending": pending}


def bar(counts: Mapping[str, int], cells: int, *, coloured: bool = True) -> Text:
    """How far a run is: blanks in colours, or letters where there are none.

    Other characters take one cell here, and two there. What is not nothing has a cell at least.

    Args:
        counts: number of operations by outcome, in order; what comes last is still to be done.
        cells: the width.
        coloured: there are colours.
    """
    room, total = max(cells - 2, 0), sum(counts.values())
    *done, _pending = counts
    parts, used = [], 0
    for name in done:
        least = 1 if counts[name] else 0
        share = max(least, counts[name] * room // total) if total else 0
        share = min(share, room - used)
        used += share
        if coloured:
            parts.append((" " * share, f"on {_COLOURS[name]}"))
        else:
            parts.append((_LETTERS[name] * share, ""))
    return Text.assemble("[", *parts, (" " if coloured else ".") * (room - used), "]")


def _rates(view: RunView) -> Iterator[str]:
    summary, session, control = view.summary, view.session, view.campaign.control
    ceiling = f"{number(summary.ceiling)}/s"
    if session is not None:
        lowered = control.requests_per_second
        limit = ceiling if lowered is None else f"{number(lowered)}/s (ceiling {ceiling})"
        yield f"{rate(session.rate)} of {limit}"
    else:
        yield f"{rate(summary.requests_per_second)} on average, ceiling {ceiling}"
    yield count(summary.requests, "request")
    yield f"busiest second {summary.busiest_second:,}"
    yield f"{summary.throttled:,} throttled"


def _times(view: RunView) -> Iterator[str]:
    if (ends_at := view.ends_at) is not None:
        until = f", until {_when(ends_at, view.at)}"
        once = ", once it goes on" if open_ended(view.reasons) else until
        yield f"about {duration(max(0.0, ends_at - view.at))} left{once}"
    if line := deadline_line(view):
        yield line
    if view.session is not None and view.session.note:
        yield view.session.note


# ---- what is shown if there is room


def _of_operations(view: RunView, columns: int) -> list[Section]:
    """The most important sections: what happens to the operations."""
    waves = view.campaign.waves
    begun = [place for place, each in enumerate(waves) if each.state is not WaveState.TO_COME]
    errors = list(_errors(view.summary.errors, columns - GUTTER))
    return [
        Section("waves", _waves(view), (3, 6), focus=max(begun, default=0)),
        Section("errors", errors, (2, 4)),
    ]


def _of_processes(view: RunView) -> list[Section]:
    """Who works on the run, and who has asked what of it."""
    campaign = view.campaign
    in_force = campaign.in_force if view.is_running else None
    asked = list(control_lines(campaign, in_force, lambda at_s: _when(at_s, view.at)))
    asked = [line.removeprefix("  ") for line in asked[1:]]
    asked += [*amendment_lines(campaign), *override_lines(campaign)]
    events = [_event(event, view.at) for event in _without_requests(view.events)]
    return [
        Section("controls", list(map(_text, asked)), (1, 4)),
        Section("hosts", [_process(each, view.at) for each in view.processes], (1, 4)),
        Section("events", events, (2, 8), focus=len(events) - 1),
    ]


def _waves(view: RunView) -> list[Text]:
    """The waves in columns."""
    rows = []
    for each in view.campaign.waves:
        outcomes = outcome_counts(each.counts)
        if view.is_running:  # nobody has lost sight of what is in flight
            outcomes[Outcome.UNKNOWN] -= each.counts.get(State.IN_FLIGHT, 0)
        style = "bold" if each.state is WaveState.UNDER_WAY else ""
        bad = [(outcomes[o], str(o)) for o in (Outcome.FAILED, Outcome.UNKNOWN)]
        rows.append(
            (
                _text(each.wave.name, style),
                _text(each.state.replace("_", " "), style),
                _text(f"{each.settled:,} of {each.total:,}"),
                _text(percent(each.settled, each.total) if each.settled else ""),
                *(_text(f"{many:,} {o}" if many else "", _WORDS[o]) for many, o in bad),
            )
        )
    columns = list(zip(*rows, strict=True))
    widths = [max(cell.cell_len for cell in column) for column in columns]
    for column, cells in zip(columns, widths, strict=True):
        for cell in column:
            cell.align("left" if column in columns[:2] else "right", cells)
    return [Text("  ").join(row) for row in rows]


def _errors(errors: Iterable[ErrorKind], columns: int) -> Iterator[Text]:
    """The commonest errors, and under each what can be done about it."""
    given = set()
    for error in errors:
        code = "" if error.code in (None, 0, "OK") else f"{error.code} "
        many = (f"{error.count:,} x ", _WORDS["failed"])
        yield Text.assemble(many, printable(f"{code}{error.message}"))
        if error.advice and error.advice not in given:
            given.add(error.advice)
            for part in wrap(printable(error.advice), max(1, columns - 4)):
                yield Text(f"    {part}")


def _process(process: Process, now_s: float) -> Text:
    who = f"{process.host}, process {process.pid} of {process.user}"
    if (session := process.session) is None:
        return _text(f"{who}: has noted nothing yet")
    ago_s = max(0.0, now_s - session.updated_at)
    late = "red" if ago_s >= STALE_AFTER_S else ""
    return Text.assemble(
        printable(f"{who}: {rate(session.rate)}, {session.open_requests:,} open"),
        (f", noted {duration(ago_s)} ago", late),
    )


def _without_requests(events: Sequence[RunEvent]) -> Iterator[RunEvent]:
    """The events without what was asked for and is in force by now, which is one of its own."""
    controls = [event for event in events if event.type is EventType.CONTROL]
    in_force = {e.data["number"] for e in controls if e.data["change"] == "in_force"}
    for event in events:
        asked = event.type is EventType.CONTROL and event.data["change"] == "asked"
        if not (asked and event.data["number"] in in_force):
            yield event


def _event(event: RunEvent, now_s: float) -> Text:
    return Text.assemble((f"{_when(event.at, now_s)}  ", "dim"), printable(in_words(event)))


# ---- the layout


def _body(sections: Sequence[Section], columns: int, rows: int) -> list[Text]:
    """The sections below one another, cut to the rows that there are."""
    granted = _allot(sections, rows)
    spaced = sum(granted) + sum(map(bool, granted)) <= rows
    least = sum(min(section.wanted[0], len(section.lines)) for section in sections)
    lines: list[Text] = []
    if not spaced and least < rows:
        granted, lines = _allot(sections, rows - 1), [Text("")]
    for section, many in zip(sections, granted, strict=True):
        if not many:
            continue
        if spaced:
            lines.append(Text(""))
        first = min(max(0, section.focus - many + 1), len(section.lines) - many)
        shown = section.lines[first : first + many]
        for place, line in enumerate(shown):
            name = "" if place else section.name
            row = Text.assemble((f"{name:{GUTTER}}", "bold cyan"), line)
            if place + 1 == many and first + many < len(section.lines):
                row.rstrip()
                row.append(" …")
            row.truncate(columns, overflow="ellipsis")
            lines.append(row)
    return lines


def _allot(sections: Sequence[Section], rows: int) -> list[int]:
    """How many lines of each section are shown: first the least, then what is wanted, then all."""
    granted = [0] * len(sections)
    for level in range(3):
        for place, section in enumerate(sections):
            most = (*section.wanted, len(section.lines))[level]
            more = min(most, len(section.lines)) - granted[place]
            granted[place] += max(0, min(more, rows - sum(granted)))
    return granted


def _beside(left: Sequence[Text], right: Sequence[Text], half: int) -> list[Text]:
    """Two columns of lines."""
    lines = []
    for one, other in zip_longest(left, right, fillvalue=Text("")):
        gap = " " * (half - one.cell_len)
        lines.append(Text.assemble(one, gap, other))
    return lines


def _when(at_s: float, now_s: float) -> str:
    """When something was: the time of day, if it was today."""
    at, now = (datetime.fromtimestamp(each, UTC).astimezone() for each in (at_s, now_s))
    return _clock(at_s) if at.date() == now.date() else moment(at_s)


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC).astimezone():%H:%M:%S}"


def _text(content: str, style: str = "") -> Text:
    return Text(printable(content), style)
