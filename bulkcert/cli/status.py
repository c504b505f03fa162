"""`bulkcert status`: show the progress of a run, read from its checkpoint."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click
import orjson

from bulkcert.cli import console
from bulkcert.cli.format import as_text, count_line, outcome_lines
from bulkcert.cli.options import json_option, run_argument
from bulkcert.cli.summary_screen import how_far
from bulkcert.errors import RunDirectoryError
from bulkcert.model import Outcome, State
from bulkcert.quantities import count, duration, number, rate
from bulkcert.report.summary import summarize
from bulkcert.rundir import RunDirectory
from bulkcert.runs import RunState, called, state_in_summary, state_of

STALE_AFTER_S = 30.0
"""A running process records its figures twice a second; this long without any is a bad sign."""


@click.command
@run_argument
@json_option
def status(run_dir: Path, as_json: bool) -> None:
    """Show the counts, the rate and the time left of a running or finished run.

    \b
    Example:
      bulkcert status jobs/revoke-key-compromise.toml
    """
    figures = _figures(run_dir)
    if as_json:
        console.print_json(figures)
    else:
        console.print_text(_text(figures, console.columns("stdout")))


def _figures(run_dir: Path) -> dict[str, Any]:
    directory = RunDirectory(run_dir)
    if directory.summary.exists() and not directory.checkpoint.exists():
        return _summarized(directory.summary)
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        figures, counts = summarize(reader).as_object(), reader.counts()
        sessions, state = reader.sessions(), state_of(directory, reader)
    running = state is RunState.RUNNING
    in_flight = counts.get(State.IN_FLIGHT, 0)
    if running:
        figures["unknown"] -= in_flight  # nobody has lost sight of them
    figures |= {
        "state": str(state),
        "in_flight": in_flight if running else 0,
        "note": "",
        "seconds_left": None,
    }
    if running and sessions:
        latest = sessions[-1]
        figures["requests_per_second"] = round(latest.rate, 1)
        figures["note"] = latest.note
        figures["exit_code"] = figures["finished_at"] = None
        if time.time() - latest.updated_at > STALE_AFTER_S:
            figures["note"] = f"the process has recorded nothing for {duration(STALE_AFTER_S)}"
        elif latest.left_s is not None:
            figures["seconds_left"] = round(latest.left_s, 1)
    return figures


def _summarized(file: Path) -> dict[str, Any]:
    """The figures in a `summary.json` that is there without its checkpoint."""
    try:
        figures = orjson.loads(file.read_bytes())
        state = state_in_summary(figures)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunDirectoryError(
            f"{file} can't be read, and there is no checkpoint.",
            "Name the run directory of a run that was started, by default runs/NAME.",
        ) from error
    note = f"read from {file.name}: the checkpoint is not here"
    return {**figures, "state": str(state), "in_flight": 0, "note": note, "seconds_left": None}


def _text(figures: dict[str, Any], columns: int | None) -> str:
    state, in_flight = figures["state"], figures["in_flight"]
    running = state == RunState.RUNNING
    outcomes = {outcome: figures[outcome] for outcome in Outcome}
    outcomes[Outcome.PENDING] += in_flight
    elapsed = duration(figures["elapsed_seconds"])
    how = {
        RunState.NOT_BEGUN: "not begun",
        RunState.RUNNING: f"running for {elapsed}",
        RunState.INTERRUPTED: f"interrupted after {elapsed}",
        RunState.OVER: f"finished in {elapsed}",
    }[RunState(state)]
    name = called(figures["name"], rehearsal=figures.get("rehearsal", False))
    lines = [
        f"{name}: {how}, {how_far(outcomes)}",
        *outcome_lines(figures, Outcome),
    ]
    if running:
        lines.append(count_line("in flight", in_flight))
    allowed = f", {number(figures['ceiling'])}/s allowed" if "ceiling" in figures else ""
    lines.append(
        f"  {count(figures['requests'], 'request')}, {rate(figures['requests_per_second'])}"
        f" {'recently' if running else 'on average'}{allowed},"
        f" {figures['throttled']:,} throttled"
    )
    if figures["seconds_left"] is not None:
        lines.append(f"  about {duration(figures['seconds_left'])} left")
    if figures["note"]:
        lines.append(f"  {figures['note']}")
    if state == RunState.NOT_BEGUN:
        lines.append("  Run the same `bulkcert run` command again to begin it.")
    elif state == RunState.INTERRUPTED:
        lines.append("  Run the same `bulkcert run` command again to continue from here.")
    return as_text(lines, columns)
