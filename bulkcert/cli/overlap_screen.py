"""What the plan page says about earlier runs that did something to the same targets.

In: an `Overlap`. Out: lines, and the JSON objects of `plan --json`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bulkcert.cli.format import entry
from bulkcert.json_lines import utc
from bulkcert.overlap import Overlap, RunOverlap
from bulkcert.quantities import count, moment


def overlap_lines(overlap: Overlap) -> Iterator[str]:
    """One line for each run, and what was not compared; nothing if there was nothing to compare."""
    lines = list(map(_line, overlap.runs))
    if overlap.left:
        left = count(overlap.left, "older run was", "older runs were")
        lines.append(f"{left} not compared: that would take too long")
    if overlap.unreadable:
        lines.append(f"{count(overlap.unreadable, 'run')} can't be read, and may overlap as well")
    for number, line in enumerate(lines):
        yield entry("" if number else "earlier runs", line)


def _line(run: RunOverlap) -> str:
    outcomes = ", ".join(f"{n:,} {each.replace('_', ' ')}" for each, n in run.outcomes.items())
    return (
        f"{run.operations:,} of the targets are in {run.name} ({run.action}, last worked on"
        f" {moment(run.at_s)}): {outcomes}"
    )


def overlap_object(overlap: Overlap) -> dict[str, Any]:
    """What `plan --json` says about it."""
    return {
        "runs": [
            {
                "name": run.name,
                "run_dir": str(run.path),
                "action": run.action,
                "last_worked_on": utc(run.at_s),
                "operations": run.operations,
                "outcomes": {str(each): n for each, n in run.outcomes.items()},
            }
            for run in overlap.runs
        ],
        "not_compared": overlap.left,
        "unreadable": overlap.unreadable,
    }
