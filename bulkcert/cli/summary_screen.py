"""The end of a run, as text for people: what happened, how fast, and what to do next.

In: the summary of the run, and its directory. Out: text. Nothing in here writes to a stream or a
file.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from bulkcert.cli.format import as_text, count_line, outcome_lines
from bulkcert.cli.left_out import how_to_correct
from bulkcert.model import Outcome
from bulkcert.quantities import count, duration, number, rate
from bulkcert.rejections import skip_options
from bulkcert.report.summary import RESUMABLE, Summary
from bulkcert.rundir import RunDirectory

MOST_REASONS = 5
"""How many reasons for failures are shown, the most frequent first."""

DONE = (Outcome.SUCCEEDED, Outcome.ALREADY_DONE, Outcome.FAILED)
"""The outcomes that count as done, for better or worse; what is unknown does not."""

_NO_ERROR = (None, 0, "OK")
"""Codes that say nothing about an error."""


def headline(summary: Summary) -> str:
    """Say in one sentence how a run has ended."""
    elapsed = duration(summary.elapsed_seconds)
    if summary.exit_code != RESUMABLE:
        return f"Finished: {count(summary.total, 'operation')} in {elapsed}."
    return f"Stopped early after {elapsed}: {how_far(summary.outcomes)}."


def how_far(outcomes: Mapping[Outcome, int]) -> str:
    """Say how many operations are done, for better or worse: "3,210 of 20,000 operations done"."""
    total = count(sum(outcomes.values()), "operation")
    return f"{sum(outcomes[outcome] for outcome in DONE):,} of {total} done"


def closing_summary(
    summary: Summary,
    job_file: Path,
    run_dir: Path,
    columns: int | None = None,
    targets: Path | None = None,
    *,
    once: str = "",
) -> str:
    """Summarize a run at its end, below the headline.

    Args:
        summary: the summary of the run.
        job_file: the job, for the next command.
        run_dir: the run directory, for the next command.
        columns: the width of the terminal, if it is shown on one.
        targets: the target file, if it is not the job's.
        once: options of the command that must not be repeated.
    """
    shown = [name for name, n in summary.outcomes.items() if n or name is Outcome.SUCCEEDED]
    lines = [
        *outcome_lines(summary.outcomes, shown),
        *_left_out(summary, job_file, run_dir),
        *_figures(summary),
        *error_lines(summary),
        *_remarks(summary),
        f"  Results: {run_dir / 'results.jsonl'}",
        *_folders(run_dir),
        *_next_steps(summary, run_dir, once),
    ]
    if summary.rehearsal:
        lines += [
            "This was a rehearsal against the simulator; no certificate was touched.",
            "To keep it as the record of a drill:",
            *(f"  {command}" for command in _for_the_record(run_dir)),
            "To do it for real:",
            f"  {_for_real(summary, job_file, targets)}",
        ]
    return as_text(lines, columns)


def _for_the_record(run_dir: Path) -> Iterator[str]:
    """The commands that make a report and a pack of evidence of a rehearsal."""
    run, name = shlex.quote(str(run_dir)), shlex.quote(run_dir.name)
    yield f"bulkcert report {run} -o {name}.html"
    yield f"bulkcert evidence {run} -o {name}.tar.gz --key FILE"


def _for_real(summary: Summary, job_file: Path, targets: Path | None) -> str:
    """The command that does what was rehearsed."""
    words = ["bulkcert", "run", str(job_file.absolute())]
    if targets:
        words += ["--targets", str(targets) if str(targets) == "-" else str(targets.absolute())]
    return shlex.join([*words, *skip_options(summary.left_out, summary.protected)])


def _figures(summary: Summary) -> Iterator[str]:
    """The lines with the requests of a run."""
    yield (
        f"  {count(summary.requests, 'request')},"
        f" {rate(summary.requests_per_second)} on average, {summary.throttled:,} throttled"
    )
    allowed = f" of {number(summary.ceiling)} allowed"
    if summary.busiest_second > summary.ceiling:
        allowed = f", when more was allowed than now, {number(summary.ceiling)}"
    yield f"  busiest second: {summary.busiest_second:,}{allowed}"
    if summary.retried:
        yield f"  sent again after: {_counted(summary.retried)}"


def _folders(run_dir: Path) -> Iterator[str]:
    """Where new certificates and keys are, if there are any, and how to get those of all hosts."""
    certificates, keys = run_dir / "certificates", run_dir / "keys"
    if _has_pem(certificates):
        yield f"  Certificates: {certificates} (manifest.csv lists them)"
    if _has_pem(keys):
        yield f"  Keys: {keys}"
    if _has_pem(certificates) and RunDirectory(run_dir).shared.exists():
        run = shlex.quote(str(run_dir))
        yield f"  From all hosts: bulkcert material {run} -o DIR --identity KEY"


def _has_pem(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:  # there may be millions
            return any(entry.name.endswith(".pem") for entry in entries)
    except OSError:
        return False


def _left_out(summary: Summary, job_file: Path, run_dir: Path) -> Iterator[str]:
    if summary.left_out:
        yield count_line("rows left out", summary.left_out)
    if summary.protected:
        protected = count(summary.protected, "of them", "of them")
        yield f"  {protected} must not be touched: {run_dir / 'protected.csv'}"
    if summary.left_out > summary.protected and not summary.rehearsal:
        yield from how_to_correct(job_file, run_dir).splitlines()


def _counted(by_code: Mapping[str, int]) -> str:
    parts = [f"{times:,} x {code}" for code, times in by_code.items()][:MOST_REASONS]
    if (more := len(by_code) - MOST_REASONS) > 0:
        parts.append(f"and {count(more, 'more code')}")
    return ", ".join(parts)


def error_lines(summary: Summary) -> Iterator[str]:
    """The commonest kinds of errors, and under each what can be done about it."""
    given = set()
    for error in summary.errors[:MOST_REASONS]:
        # a look-up that succeeded may show why an operation can't
        code = "" if error.code in _NO_ERROR else f"{error.code} "
        yield f"  {error.count:,} x {code}{error.message}"
        if error.advice and error.advice not in given:
            given.add(error.advice)
            yield f"      {error.advice}"
    if (more := summary.error_kinds - MOST_REASONS) > 0:
        yield f"  and {count(more, 'more kind')} of errors"


def _remarks(summary: Summary) -> Iterator[str]:
    for remark in summary.remarks:
        yield f"  {remark.count:,} x note: {remark.meaning}"


def _next_steps(summary: Summary, run_dir: Path, once: str) -> Iterator[str]:
    same = f"the same command without {once}," if once else "the same command"
    if summary.exit_code == RESUMABLE:
        if summary.unknown:
            yield f"{count(summary.unknown, 'unknown operation')} may have happened:"
            yield "      the same command looks them up before it sends anything for them again."
        yield f"Next: run {same if once else 'the same command again'} to continue from here."
        return
    if summary.unknown:
        yield f"Next: {count(summary.unknown, 'operation')} may have happened."
        yield f"      Run {same} with --retry-failed: it looks them up before it sends."
    if summary.failed:
        yield f"Next: list and fix the failures, then run {same} with --retry-failed:"
        yield f"  bulkcert results {shlex.quote(str(run_dir))} --outcome failed"
    if summary.exit_code == 0 and summary.remarks:
        yield "Every operation succeeded; the notes above say what to look at."
    elif summary.exit_code == 0:
        yield "Nothing is left to do."
