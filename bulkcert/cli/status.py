"""`bulkcert status`: show the progress of a run, read from its checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from bulkcert.campaign_state import CampaignState, campaign_state
from bulkcert.cli import console
from bulkcert.cli.campaign_screen import (
    abort_lines,
    amendment_lines,
    campaign_object,
    control_lines,
    override_lines,
    wave_lines,
)
from bulkcert.cli.format import as_text, count_line, outcome_lines
from bulkcert.cli.next_steps import next_steps
from bulkcert.cli.options import json_option, run_argument
from bulkcert.cli.summary_screen import how_far
from bulkcert.errors import RunDirectoryError
from bulkcert.found_runs import RunState, called, state_in_summary, state_of
from bulkcert.json_lines import utc
from bulkcert.model import Outcome, State
from bulkcert.quantities import count, duration, moment, number, rate
from bulkcert.report.summary import summarize
from bulkcert.rules.gate import open_ended
from bulkcert.rundir import RunDirectory
from bulkcert.store.base import Session

STALE_AFTER_S = 30.0
"""A running process records its figures twice a second; this long without any is a bad sign."""


@click.command
@run_argument
@json_option
def status(run_dir: Path, as_json: bool) -> None:
    """Show how far a run is, how fast it goes, how long it takes, and what holds it up.

    Every reason is listed why nothing is sent. A run with rules also has its waves, the controls in
    force, and what has stopped it.

    \b
    Example:
      bulkcert status jobs/revoke-key-compromise.toml
    """
    directory = RunDirectory(run_dir)
    figures, campaign = _read(directory)
    if as_json:
        console.print_json(figures)
    else:
        lines = _lines(figures, campaign, directory)
        console.print_text(as_text(lines, console.columns("stdout")))


def _read(directory: RunDirectory) -> tuple[dict[str, Any], CampaignState | None]:
    """The figures of `--json`, and where the campaign stands."""
    directory.require_access()
    if directory.summary.exists() and not directory.checkpoint.exists():
        return _summarized(directory.summary), None
    with contextlib.closing(directory.reader()) as reader, reader.snapshot():
        figures, counts = summarize(reader).as_object(), reader.counts()
        sessions, state = reader.sessions(), state_of(directory, reader)
        campaign = campaign_state(directory, reader)
    running = state is RunState.RUNNING
    in_flight = counts.get(State.IN_FLIGHT, 0)
    if running:
        figures["unknown"] -= in_flight  # nobody has lost sight of them
    figures |= {
        "state": str(state),
        "in_flight": in_flight if running else 0,
        "open_requests": 0,
        "reasons": [] if state is RunState.OVER else campaign.pauses,
        "note": "",
        "seconds_left": None,
        "deadline": None if campaign.deadline_s is None else utc(campaign.deadline_s),
        "slack_seconds": None,
        **campaign_object(campaign),
    }
    if running and sessions:
        figures |= _of_process(sessions[-1], campaign.deadline_s)
    return figures, campaign


def _of_process(session: Session, deadline_s: float | None) -> dict[str, Any]:
    """The figures of the process that works on the run."""
    figures: dict[str, Any] = {
        "requests_per_second": round(session.rate, 1),
        "open_requests": session.open_requests,
        "reasons": list(session.reasons),
        "note": session.note,
        "exit_code": None,
        "finished_at": None,
    }
    if time.time() - session.updated_at > STALE_AFTER_S:
        figures["note"] = f"the process has recorded nothing for {duration(STALE_AFTER_S)}"
    elif session.left_s is not None:
        figures["seconds_left"] = round(session.left_s, 1)
        if deadline_s is not None:
            end_s = session.updated_at + session.left_s
            figures["slack_seconds"] = round(deadline_s - end_s, 1)
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
    return {
        **figures,
        "state": str(state),
        "in_flight": 0,
        "reasons": [],
        "note": note,
        "seconds_left": None,
    }


def _lines(
    figures: dict[str, Any], campaign: CampaignState | None, directory: RunDirectory
) -> Iterator[str]:
    state, in_flight = RunState(figures["state"]), figures["in_flight"]
    running = state is RunState.RUNNING
    outcomes = {outcome: figures[outcome] for outcome in Outcome}
    outcomes[Outcome.PENDING] += in_flight
    elapsed = duration(figures["elapsed_seconds"])
    how = {
        RunState.NOT_BEGUN: "not begun",
        RunState.RUNNING: f"running for {elapsed}",
        RunState.INTERRUPTED: f"interrupted after {elapsed}",
        RunState.ABORTED: f"stopped by its own rules after {elapsed}",
        RunState.OVER: f"finished in {elapsed}",
    }[state]
    rehearsal = figures.get("rehearsal", False)
    yield f"{called(figures['name'], rehearsal=rehearsal)}: {how}, {how_far(outcomes)}"
    for reason in figures["reasons"]:
        yield f"  {reason}"
    yield from outcome_lines(figures, Outcome)
    if running:
        yield count_line("in flight", in_flight)
    allowed = f", {number(figures['ceiling'])}/s allowed" if "ceiling" in figures else ""
    yield (
        f"  {count(figures['requests'], 'request')}, {rate(figures['requests_per_second'])}"
        f" {'recently' if running else 'on average'}{allowed},"
        f" {figures['throttled']:,} throttled"
    )
    if figures["seconds_left"] is not None:
        once = ", once it goes on" if open_ended(figures["reasons"]) else ""
        yield f"  about {duration(figures['seconds_left'])} left{once}"
    if campaign is not None:
        yield from _deadline(campaign, figures["slack_seconds"])
    if figures["note"]:
        yield f"  {figures['note']}"
    if campaign is not None:
        yield from (f"  {line}" for line in wave_lines(campaign))
        in_force = campaign.in_force if running else None
        yield from (f"  {line}" for line in control_lines(campaign, in_force))
        yield from (f"  {line}" for line in amendment_lines(campaign))
        yield from (f"  {line}" for line in override_lines(campaign))
    if campaign is not None:
        yield from (f"  {line}" for line in abort_lines(campaign))
        for step in next_steps(state, campaign, directory.manifest(), directory):
            yield f"  {step.aim}"
            yield from (f"    {command}" for command in step.commands)


def _deadline(campaign: CampaignState, slack_s: float | None) -> Iterator[str]:
    if campaign.deadline_s is None:
        return
    slack = ""
    if slack_s is not None:
        late = f", which it will miss by about {duration(-slack_s)}"
        slack = f", with about {duration(slack_s)} to spare" if slack_s >= 0 else late
    yield f"  deadline {moment(campaign.deadline_s)}{slack}"
