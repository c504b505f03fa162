"""What `plan` and `run` have in common: finding the job, and showing what is planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from bulkcert.job import Job
from bulkcert.jobfile import load as load_job
from bulkcert.plan import FIRST_SHOWN, Plan
from bulkcert.providers.base import Field, merged

PathParam = click.Path(path_type=Path)


def job_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that name a job, its targets and its run directory."""
    for decorate in (
        click.option(
            "--run-dir", type=PathParam, help="Where the run is kept [default: runs/NAME]."
        ),
        click.option(
            "--targets",
            type=click.Path(path_type=Path, allow_dash=True),
            help="Target file instead of the job's; - is standard input.",
        ),
        click.argument("job_file", metavar="JOB", type=PathParam),
    ):
        command = decorate(command)
    return command


def load(job_file: Path, targets: Path | None) -> Job:
    """Load a job, with another target file if one is given."""
    job = load_job(job_file)
    if targets is None:
        return job
    return dataclasses.replace(job, targets=None if str(targets) == "-" else targets)


def default_run_dir(job: Job, *, rehearsal: bool = False) -> Path:
    """Where a run is kept unless somebody says otherwise. A rehearsal never meets the real run."""
    return Path("runs") / (f"{job.name}-rehearsal" if rehearsal else job.name)


def describe(job: Job, plan: Plan) -> str:
    """Say in words what a job will do."""
    parameters = _shown(job.action.fields.values(), job.parameters)
    requests = plan.operations * job.requests_per_operation
    lines = [
        f"{job.name}: {job.action.name} by {job.provider.name}, {job.connection.endpoint}",
        f"  operations     {plan.operations:,} from {plan.rows:,} rows"
        + (f", {plan.repeated_total:,} repeated rows left out" if plan.repeated_total else ""),
        f"  parameters     {parameters or 'none but the columns of the targets'}",
        f"  ceiling        {job.ceiling:g} requests in any second, {job.limits.in_flight:,} open",
        f"  bound by       {job.bound_by}",
        f"  at least       {duration(requests / job.ceiling)}, {requests:,} requests",
    ]
    if job.select:
        conditions = _shown(job.action.select, job.select)
        lines.append(f"  select         {conditions}; the operations may become more")
    if job.keys:
        subject = job.keys.subject or "that of the old certificate"
        lines.append(f"  keys           {job.keys.generate} for each device, subject: {subject}")
    if plan.unused_columns:
        lines.append(f"  unused columns {', '.join(plan.unused_columns)}")
    lines += [f"  WARNING        {warning}" for warning in (*job.warnings, *plan.warnings)]
    return "\n".join([*lines, *_repeated(plan)])


def sample_request(job: Job, plan: Plan) -> str:
    """Show the request for the first target, with everything secret masked."""
    fields = {**_made_later(job), **merged(job.parameters, plan.sample.fields)}
    sample = job.provider.sample(job.action, job.connection.options, fields)
    lines = [f"{sample.request.method} {job.connection.endpoint}{sample.request.target}"]
    lines += [f"{name}: {value}" for name, value in sample.headers.items()]
    if sample.request.body:
        lines += ["", sample.request.body.decode()]
    return f"Request for line {plan.sample.line}:\n" + "\n".join(f"  {line}" for line in lines)


def duration(seconds: float) -> str:
    """A duration for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _repeated(plan: Plan) -> list[str]:
    lines = [f"  line {r.line}: {r.reason}" for r in plan.repeated]
    if plan.repeated_total > FIRST_SHOWN:
        lines.append(f"  ... and {plan.repeated_total - FIRST_SHOWN} more in rejected.csv")
    return lines


def _made_later(job: Job) -> dict[str, str]:
    """What stands for the fields that are known only when an operation is begun."""
    later = {job.action.selects: "found by list"} if job.select else {}
    if job.keys:
        declared = job.provider.actions[job.action.name].fields.values()
        later |= {field.name: "made for each device" for field in declared if field.pem}
    return later


def _shown(fields: Iterable[Field], values: Mapping[str, Any]) -> str:
    show = {field.name: field.show for field in fields}
    return ", ".join(f"{name} = {show[name](value)}" for name, value in values.items())
