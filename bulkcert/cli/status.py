"""`bulkcert status`: how far a run is, read beside it from its checkpoint."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click
import orjson

from bulkcert import report
from bulkcert.cli.job import PathParam, duration
from bulkcert.model import Outcome, State
from bulkcert.rundir import is_locked, open_reader

STALE_AFTER_S = 30.0


@click.command(short_help="How far a run is, going on or over.")
@click.argument("run_dir", type=PathParam)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(run_dir: Path, as_json: bool) -> None:
    """Counts, rate and time left of a run that is going on or over.

    \b
    Example:
      bulkcert status runs/revoke-key-compromise
    """
    figures = _status(run_dir)
    if as_json:
        click.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
        return
    click.echo(f"{figures['name']}: {figures['state']}")
    for outcome in Outcome:
        click.echo(f"  {outcome.replace('_', ' '):13} {figures[outcome]:>9,}")
    click.echo(f"  {'in flight':13} {figures['in_flight']:>9,}")
    click.echo(
        f"  {figures['requests']:,} requests, {figures['requests_per_second']:g}/s"
        f" {'of late' if figures['state'] == 'running' else 'on average'},"
        f" {figures['throttled']:,} throttled, {duration(figures['elapsed_seconds'])}"
    )
    if figures["seconds_left"] is not None:
        click.echo(f"  about {duration(figures['seconds_left'])} left")
    if figures["note"]:
        click.echo(f"  {figures['note']}")
    if figures["state"] == "interrupted":
        click.echo("  The same `bulkcert run` goes on from here.")


def _status(run_dir: Path) -> dict[str, Any]:
    with contextlib.closing(open_reader(run_dir)) as reader, reader.snapshot():
        figures, counts = report.summary(reader), reader.counts()
        sessions = reader.sessions()
    running = is_locked(run_dir)
    in_flight = counts.get(State.IN_FLIGHT, 0)
    figures["unknown"] -= in_flight
    ended = "interrupted" if figures["exit_code"] == report.RESUMABLE else "over"
    figures |= {
        "state": "running" if running else ended,
        "in_flight": in_flight,
        "note": "",
        "seconds_left": None,
    }
    if running and sessions:
        latest = sessions[-1]
        left = figures["pending"] + in_flight
        figures["requests_per_second"] = round(latest.rate, 1)
        figures["note"] = latest.note
        figures["exit_code"] = figures["finished_at"] = None
        if time.time() - latest.updated_at > STALE_AFTER_S:
            figures["note"] = "the process has written nothing for a while"
        elif latest.rate:
            figures["seconds_left"] = round(left / latest.rate, 1)
    return figures
