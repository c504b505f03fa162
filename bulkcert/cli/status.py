"""`bulkcert status`: show the progress of a run, read from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from bulkcert.cli import console
from bulkcert.cli.format import as_text
from bulkcert.cli.options import json_option, run_argument
from bulkcert.cli.status_screen import figure_lines, headline, status_lines, status_object
from bulkcert.errors import RunDirectoryError
from bulkcert.found_runs import RunState, state_in_summary
from bulkcert.observer import Observer
from bulkcert.rundir import RunDirectory


@click.command
@run_argument
@click.option("--watch", is_flag=True, help="Keep looking at it, until it is over.")
@json_option
def status(directory: RunDirectory, watch: bool, as_json: bool) -> None:
    """Show how far a run is, how fast it goes, how long it takes, and what holds it up.

    Every reason is listed why nothing is sent. A run with rules also has its waves, the controls in
    force, and what has stopped it.

    With --watch, a screen shows all of it, and what happened last, until the run is over, or you
    press Ctrl-C or q. Where standard output is not a terminal, it prints a line each second, and
    ends when the run has stopped itself, too; with --json, each line is an object.

    \b
    Examples:
      bulkcert status jobs/revoke-key-compromise.toml
      bulkcert status jobs/revoke-key-compromise.toml --watch
    """
    directory.require_access()
    if directory.summary.exists() and not directory.place.exists():
        _show_summary(directory.summary, as_json)
    elif watch:
        from bulkcert.cli.watch import watch_run

        watch_run(directory, as_json)
    elif as_json:
        console.print_json(status_object(Observer(directory).look()))
    else:
        lines = status_lines(Observer(directory).look())
        console.print_text(as_text(lines, console.columns("stdout")))


def _show_summary(file: Path, as_json: bool) -> None:
    """Show the figures in a `summary.json` that is there without its checkpoint."""
    try:
        summary = orjson.loads(file.read_bytes())
        state = state_in_summary(summary)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunDirectoryError(
            f"{file} can't be read, and there is no checkpoint.",
            "Name the run directory of a run that was started, by default runs/NAME.",
        ) from error
    figures = {
        **summary,
        "state": str(state),
        "in_flight": 0,
        "reasons": [],
        "note": f"read from {file.name}: the checkpoint is not here",
        "seconds_left": None,
    }
    if as_json:
        console.print_json(figures)
    else:
        console.print_text(as_text(_summary_lines(state, figures), console.columns("stdout")))


def _summary_lines(state: RunState, figures: dict[str, Any]) -> Iterator[str]:
    yield headline(state, figures)
    yield from figure_lines(state, figures)
    yield f"  {figures['note']}"
    if state in (RunState.NOT_BEGUN, RunState.INTERRUPTED):
        yield "  Run the same `bulkcert run` command again to continue from here."
