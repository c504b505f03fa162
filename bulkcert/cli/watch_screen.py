"""What `status --watch` shows of a run: as much as fits the terminal, the least important left out.

In: a run as somebody sees it now, and the size of the terminal. Out: lines, none wider than that,
and no more than that. Pure, but for the job files beside the run, which the commands name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

from rich.text import Text

from bulkcert.campaign_state import WaveState
from bulkcert.cli.campaign_screen import amendment_lines, control_lines, override_lines
from bulkcert.cli.next_steps import NextStep, next_steps
from bulkcert.cli.status_screen import deadline_line
from bulkcert.cli.verdict import Tone, verdict
from bulkcert.cli.watch_hosts import watched_hosts
from bulkcert.cli.watch_layout import (
    GUTTER,
    Section,
    below,
    beside,
    clock,
    command_lines,
    joined,
    paragraph,
    safe_text,
    when,
)
from bulkcert.event_log import EventType, RunEvent
from bulkcert.event_words import in_words
from bulkcert.model import Outcome, State
from bulkcert.observer import RunView
from bulkcert.quantities import count, duration, number, percent, rate
from bulkcert.report.summary import ErrorKind, outcome_counts
from bulkcert.rules.gate import open_ended
from bulkcert.values import printable

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
        body = below([*_of_operations(view, columns), *_of_processes(view)], columns, left)
    else:
        operations = below(_of_operations(view, half - 2), half - 2, left)
        body = beside(operations, below(_of_processes(view), half, left), half)
    lines = [*top, *body][:rows]
    for line in lines:
        line.truncate(columns, overflow="ellipsis")
    return lines


# ---- what is always shown


def _headline(view: RunView, columns: int) -> list[Text]:
    """Whether it runs, or why not, and the command that lets it go on."""
    tone, (first, *others) = verdict(view)
    headline, now = f"{view.manifest.run}: {first}", clock(view.at)
    lines = paragraph(headline, _STYLES[tone], columns)
    gap = columns - lines[-1].cell_len - len(now)
    if gap >= 2:
        lines[-1] = Text.assemble(lines[-1], " " * gap, (now, "dim"))
    for other in others:
        lines += paragraph(f"  {other}", "yellow", columns)
    for step in list(next_steps(view))[:1]:
        lines += _step(step, columns)
    return lines


def _step(step: NextStep, columns: int) -> list[Text]:
    one = safe_text(f"  {step.aim} {step.commands[0]}", "bold")
    if len(step.commands) == 1 and one.cell_len <= columns:
        one.stylize("not bold", 0, 2 + len(step.aim))
        return [one]
    lines = paragraph(f"  {step.aim}", "", columns)
    for command in step.commands:
        lines += command_lines(command, columns)
    return lines


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
        [safe_text(f"{counts[name]:,} {name}", _WORDS.get(name, "")) for name in shown],
        map(safe_text, _rates(view)),
        map(safe_text, _times(view)),
    ):
        lines += joined(parts, columns)
    return lines


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
    summary, control = view.summary, view.campaign.control
    ceiling = f"{number(summary.ceiling)}/s"
    if view.noted:
        lowered = control.requests_per_second
        limit = ceiling if lowered is None else f"{number(lowered)}/s (ceiling {ceiling})"
        yield f"{rate(view.rate)} of {limit}"
    else:
        yield f"{rate(summary.requests_per_second)} on average, ceiling {ceiling}"
    yield count(summary.requests, "request")
    yield f"busiest second {summary.busiest_second:,}"
    yield f"{summary.throttled:,} throttled"


def _times(view: RunView) -> Iterator[str]:
    if (ends_at := view.ends_at) is not None:
        until = f", until {when(ends_at, view.at)}"
        once = ", once it goes on" if open_ended(view.reasons) else until
        yield f"about {duration(max(0.0, ends_at - view.at))} left{once}"
    if line := deadline_line(view):
        yield line
    if view.note:
        yield view.note


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
    asked = list(control_lines(campaign, in_force, lambda at_s: when(at_s, view.at)))
    asked = [line.removeprefix("  ") for line in asked[1:]]
    asked += [*amendment_lines(campaign), *override_lines(campaign)]
    hosts = list(watched_hosts(view))
    events = [_event(event, view.at) for event in _without_requests(view.events)]
    return [
        Section("controls", list(map(safe_text, asked)), (1, 4)),
        Section("hosts", hosts, (min(3, len(hosts)), 4)),
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
                safe_text(each.wave.name, style),
                safe_text(each.state.replace("_", " "), style),
                safe_text(f"{each.settled:,} of {each.total:,}"),
                safe_text(percent(each.settled, each.total) if each.settled else ""),
                *(safe_text(f"{many:,} {o}" if many else "", _WORDS[o]) for many, o in bad),
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


def _without_requests(events: Sequence[RunEvent]) -> Iterator[RunEvent]:
    """The events without what was asked for and is in force by now, which is one of its own."""
    controls = [event for event in events if event.type is EventType.CONTROL]
    in_force = {e.data["number"] for e in controls if e.data["change"] == "in_force"}
    for event in events:
        asked = event.type is EventType.CONTROL and event.data["change"] == "asked"
        if not (asked and event.data["number"] in in_force):
            yield event


def _event(event: RunEvent, now_s: float) -> Text:
    return Text.assemble((f"{when(event.at, now_s)}  ", "dim"), printable(in_words(event)))
