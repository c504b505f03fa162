"""`bulkcert runs`: the runs below a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bulkcert.cli import console
from bulkcert.cli.format import as_text, width
from bulkcert.cli.options import FilePath, store_option
from bulkcert.cli.summary_screen import DONE
from bulkcert.found_runs import MOST_FOLDERS, FoundRun, runs_below, runs_in
from bulkcert.json_lines import utc
from bulkcert.known_runs import known_runs
from bulkcert.model import Outcome
from bulkcert.quantities import count
from bulkcert.store_url import chosen
from bulkcert.values import printable

MOST_SHOWN = 5


@click.command
@click.argument("folder", metavar="[DIR]", default=".", type=FilePath)
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with one object per run.")
def runs(folder: Path, store: str, as_json: bool) -> None:
    """List the runs in a folder and below it, and those in a shared store, the latest first.

    The folder is the current one unless another is named. Symbolic links and hidden folders are
    left out.

    \b
    Examples:
      bulkcert runs /srv/campaigns
      bulkcert runs --store postgresql://bulkcert@db.example.com/bulkcert --json
    """
    found = runs_below(folder)
    listed = _with_those_in(chosen(option=store), found.runs)
    if as_json:
        console.print_json([_as_object(run) for run in listed])
    elif listed:
        columns = console.columns("stdout")
        console.print_text(as_text(_listed(listed, columns), columns))
    else:
        console.write(f"There are no runs below {folder.absolute()}.")
        for run in known_runs()[:MOST_SHOWN]:
            console.write(f"  known elsewhere: {run.path}")
    for path in found.unreadable[:MOST_SHOWN]:
        console.write(f"{path} can't be read")
    if (more := len(found.unreadable) - MOST_SHOWN) > 0:
        console.write(f"... and {count(more, 'more folder')}")
    if not found.complete:
        console.write(
            f"Only the first {MOST_FOLDERS:,} folders were looked at. Name one that has fewer."
        )


def _with_those_in(store: str, found: Sequence[FoundRun]) -> list[FoundRun]:
    """Add the runs of a shared store that have no directory among those that were found."""
    here = {(run.store, run.name) for run in found if run.store}
    there = runs_in(store) if store else []
    both = [*found, *(run for run in there if (run.store, run.name) not in here)]
    return sorted(both, key=lambda run: run.worked_on or 0, reverse=True)


def _as_object(run: FoundRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "paused": run.paused,
        "rehearsal": run.rehearsal,
        "provider": run.provider,
        "action": run.action,
        "total": sum(run.counts.values()) + run.in_flight,
        **{str(outcome): run.counts.get(outcome, 0) for outcome in Outcome},
        "in_flight": run.in_flight,
        "worked_on_at": None if run.worked_on is None else utc(run.worked_on),
        "run_dir": None if run.store and not run.path.is_absolute() else str(run.path),
        "store": run.store or None,
        "problem": run.problem,
    }


def _listed(found: list[FoundRun], columns: int | None) -> list[str]:
    """The runs as a table, or below one another where the terminal is too narrow for one."""
    rows = list(map(_row, found))
    table = list(_table([_HEADER, *rows]))
    if columns is None or all(width(printable(line)) <= columns for line in table):
        return table
    return [line for name, *figures, path in rows for line in _entry(name, figures, path)]


_HEADER = ("NAME", "STATE", "ACTION", "DONE", "LAST WORKED ON", "KEPT IN")


def _row(run: FoundRun) -> tuple[str, ...]:
    marks = [mark for mark in ("paused", "rehearsal") if getattr(run, mark)]
    state = ", ".join([run.state.replace("_", " "), *marks])
    action = f"{run.provider} {run.action}".strip()
    where = run.store or run.path
    path = f"{where}: {run.problem}" if run.problem else str(where)
    return (run.name, state, action, _done(run), _time(run.worked_on), path)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER) - 1)]
    for row in rows:
        padded = [cell.ljust(cells) for cell, cells in zip(row, widths, strict=False)]
        yield "  ".join([*padded, row[-1]])


def _entry(name: str, figures: Iterable[str], path: str) -> Iterator[str]:
    yield name
    yield f"  {' · '.join(filter(None, figures))}"
    yield f"  {path}"


def _done(run: FoundRun) -> str:
    counts = run.counts
    if not counts:
        return ""
    done = sum(counts[outcome] for outcome in DONE)
    bad = [
        f", {counts[outcome]:,} {outcome}"
        for outcome in (Outcome.FAILED, Outcome.UNKNOWN)
        if counts[outcome]
    ]
    return f"{done:,} of {sum(counts.values()) + run.in_flight:,}{''.join(bad)}"


def _time(unix_s: float | None) -> str:
    return "" if unix_s is None else f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%MZ}"
