"""Formats what the commands print for people: plans, summaries, durations and counts.

Nothing in here writes to a stream or a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkcert.job import Job
from bulkcert.model import FieldValue, Outcome
from bulkcert.plan import FIRST_SHOWN, Plan
from bulkcert.providers.base import Field, merged
from bulkcert.report.summary import RESUMABLE, Summary
from bulkcert.store.base import StoreReader
from bulkcert.values import printable

MOST_REASONS = 5
"""How many reasons for failures the closing summary shows, the most frequent first."""


_NO_ERROR = (None, 0, "OK")
"""Codes that say nothing about an error."""

# ---- numbers and words


def duration(seconds: float) -> str:
    """Format a duration, such as "4.2 s", "12 min 05 s" or "3 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def number(value: float) -> str:
    """Format a number with thousands separators, and with decimals only if it has some."""
    return f"{value:,.10g}"


def count(value: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun or verb: "1 operation", "2,000 operations".

    Args:
        value: how many.
        singular: the word that goes with 1.
        plural: the word that goes with every other number; by default `singular` with an s.
    """
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


def outcome_lines(counts: Mapping[Any, int], outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Format one line for each outcome, the numbers below one another."""
    return (count_line(outcome.replace("_", " "), counts[outcome]) for outcome in outcomes)


def count_line(label: str, value: int) -> str:
    """Format a label and its count as one line of a table."""
    return f"  {label:13} {value:>9,}"


def as_text(lines: Iterable[str]) -> str:
    """Join lines to a text in which each is one line, whatever the names in it contain."""
    return "\n".join(map(printable, lines))


# ---- plans


def describe(job: Job, plan: Plan) -> str:
    """Describe what a job will do."""
    parameters = _shown(job.action.fields.values(), job.parameters)
    requests = plan.operations * job.requests_per_operation
    operations = f"{plan.operations:,} from {count(plan.rows, 'row')}"
    if plan.repeated_total:
        operations += f", {count(plan.repeated_total, 'repeated row')} left out"
    if plan.left_out:
        operations += f", {count(plan.left_out, 'device')} without certificates left out"
    lines = [
        f"{job.name}: {job.action.name} by {job.provider.name}, {job.connection.endpoint}",
        f"  operations     {operations}",
        f"  parameters     {parameters or 'none besides the columns of the target file'}",
        *_defaults(job),
        f"  ceiling        {ceiling(job)}, {job.limits.in_flight:,} in flight",
        f"  set by         {job.bound_by}",
        f"  duration       at least {duration(requests / job.ceiling)}"
        f" for {count(requests, 'request')}",
    ]
    if job.connection.proxy:
        lines.append(f"  proxy          {job.connection.public_proxy}")
    if job.select:
        lines.append(f"  select         {_selection(job)}; a target may be several operations")
    if job.keys:
        subject = job.keys.subject or "as in the old certificate"
        lines.append(f"  keys           {job.keys.generate} for each device; subject: {subject}")
    if plan.unused_columns:
        lines.append(f"  unused columns {', '.join(plan.unused_columns)}")
    lines += [
        f"  WARNING        {warning}" for warning in (*job.warnings, *job.unsafe, *plan.warnings)
    ]
    return as_text([*lines, *_repeated(plan)])


def _selection(job: Job) -> str:
    """What a selection can match, in words."""
    clauses = [
        field.clause.format(field.show(job.select[field.name]))
        for field in job.action.select
        if field.name in job.select
    ]
    return f"certificates that {', and '.join(clauses)}"


def _defaults(job: Job) -> Iterator[str]:
    """What happens where a row leaves an optional field out that the job does not give either."""
    defaults = [
        f"{field.name}: {field.default.replace('`', '')}"
        for field in job.action.optional
        if field.default and not field.option and field.name not in job.parameters
    ]
    if defaults:
        yield f"  where left out {'; '.join(defaults)}"


def ceiling(job: Job) -> str:
    """Format the ceiling of a job."""
    return f"{number(job.ceiling)} requests in any second"


def sample_request(job: Job, plan: Plan) -> str:
    """Show the request for the first target, with all secrets masked."""
    fields = {**_placeholders(job), **merged(job.parameters, plan.sample.fields)}
    sample = job.provider.sample(job.action, job.connection.options, fields)
    lines = [f"{sample.request.method} {job.connection.endpoint}{sample.request.target}"]
    lines += [f"{name}: {value}" for name, value in sample.headers.items()]
    if sample.request.body:
        lines += ["", sample.request.body.decode()]
    return as_text([f"Request for line {plan.sample.line}:", *(f"  {line}" for line in lines)])


def _repeated(plan: Plan) -> list[str]:
    lines = [f"  line {r.line}: {r.reason}" for r in plan.repeated]
    if plan.repeated_total > FIRST_SHOWN:
        lines.append(f"  ... and {plan.repeated_total - FIRST_SHOWN:,} more in rejected.csv")
    return lines


def _placeholders(job: Job) -> dict[str, FieldValue]:
    """Return a placeholder for each field that is known only once its operation has begun."""
    placeholders: dict[str, FieldValue] = {}
    if job.select:
        placeholders[job.action.selects] = "found by list"
    if job.keys:
        declared = job.provider.actions[job.action.name].fields.values()
        placeholders |= {field.name: "made for each device" for field in declared if field.pem}
        placeholders |= job.action.key_fields.get(job.keys.generate, {})
    return placeholders


def _shown(fields: Iterable[Field], values: Mapping[str, Any]) -> str:
    show = {field.name: field.show for field in fields}
    return ", ".join(f"{name} = {show[name](value)}" for name, value in values.items())


# ---- the end of a run


def closing_summary(
    summary: Summary,
    reader: StoreReader,
    job_file: Path,
    run_dir: Path,
    rehearsal: bool,
) -> str:
    """Summarize a run at its end: what happened, how fast, and what to do next.

    Args:
        summary: the summary of the run.
        reader: the checkpoint of the run.
        job_file: the job, for the next command.
        run_dir: the run directory, for the next command.
        rehearsal: the run was a rehearsal.
    """
    finished = summary.exit_code != RESUMABLE
    operations = count(summary.total, "operation")
    elapsed = duration(summary.elapsed_seconds)
    lines = [
        "",
        f"Finished: {operations} in {elapsed}."
        if finished
        else f"Stopped early after {elapsed}. Of {operations} so far:",
        *outcome_lines(
            summary.outcomes,
            [name for name, n in summary.outcomes.items() if n or name is Outcome.SUCCEEDED],
        ),
        f"  {count(summary.requests, 'request')},"
        f" {number(summary.requests_per_second)}/s on average, {summary.throttled:,} throttled",
        f"  busiest second: {summary.busiest_second:,}"
        f" of {number(reader.manifest().ceiling)} allowed",
    ]
    if summary.retried:
        lines.append(f"  sent again after: {_counted(summary.retried)}")
    lines += [*_errors(summary), *_remarks(summary)]
    lines += [f"  Results: {run_dir / 'results.jsonl'}", *_next_steps(summary, run_dir, finished)]
    if rehearsal:
        lines += [
            "This was a rehearsal against the simulator; no certificate was touched.",
            f"To do it for real: bulkcert run {job_file}",
        ]
    return as_text(lines)


def _counted(by_code: Mapping[str, int]) -> str:
    parts = [f"{times:,} x {code}" for code, times in by_code.items()][:MOST_REASONS]
    if (more := len(by_code) - MOST_REASONS) > 0:
        parts.append(f"and {count(more, 'more code')}")
    return ", ".join(parts)


def _errors(summary: Summary) -> Iterator[str]:
    """The kinds of errors, and under each what can be done about it."""
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


def _next_steps(summary: Summary, run_dir: Path, finished: bool) -> Iterator[str]:
    if not finished:
        yield "Next: run the same command again to continue from here."
        return
    if summary.unknown:
        yield f"Next: {count(summary.unknown, 'operation')} may have happened."
        yield "      Run the same command with --retry-failed: it looks them up before it sends."
    if summary.failed:
        yield f"Next: list the failures: bulkcert results {run_dir} --outcome failed"
        yield "      Fix them, then run the same command with --retry-failed."
    if summary.exit_code == 0:
        yield "Nothing is left to do."
