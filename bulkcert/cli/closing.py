"""The last words of a run: what happened, how fast, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bulkcert.cli.job import duration
from bulkcert.model import Outcome
from bulkcert.report import RESUMABLE
from bulkcert.store.base import StoreReader

MOST_REASONS = 5


def closing_words(
    figures: dict[str, Any],
    reader: StoreReader,
    job_file: Path,
    run_dir: Path,
    rehearsal: bool,
) -> str:
    """Sum up a run for people, from its summary and its checkpoint."""
    over = figures["exit_code"] != RESUMABLE
    total, elapsed = figures["total"], duration(figures["elapsed_seconds"])
    lines = [
        "",
        f"{'Over' if over else 'Stopped early'}: {total:,} operations, {elapsed}.",
    ]
    lines += [
        f"  {name.replace('_', ' '):13} {figures[name]:>9,}"
        for name in Outcome
        if figures[name] or name is Outcome.SUCCEEDED
    ]
    lines += [
        f"  {figures['requests']:,} requests, {figures['requests_per_second']:g}/s on average;"
        f" busiest second {figures['busiest_second']:,}"
        f" of {reader.meta()['ceiling']:g} allowed; {figures['throttled']:,} throttled.",
    ]
    for count, code, message in reader.reasons(MOST_REASONS):
        lines.append(f"  {count:,} x {'' if code is None else f'{code} '}{message}")
    lines += [f"  Results: {run_dir / 'results.jsonl'}", *_next(figures, run_dir, over)]
    if rehearsal:
        lines.append(
            "This was a rehearsal against the simulator; no certificate was touched."
            f" For real: bulkcert run {job_file}"
        )
    return "\n".join(lines)


def _next(figures: dict[str, Any], run_dir: Path, over: bool) -> Iterator[str]:
    if not over:
        yield "Next: the same command goes on from here."
        return
    if figures[Outcome.UNKNOWN]:
        yield (
            f"Next: {figures[Outcome.UNKNOWN]:,} operations may have happened; --retry-failed"
            " looks them up again before anything is sent."
        )
    if figures[Outcome.FAILED]:
        yield f"Next: see them with: bulkcert results {run_dir} --outcome failed"
        yield "      then, mended, the same run with: --retry-failed"
    if figures["exit_code"] == 0:
        yield "Nothing is left to do."
