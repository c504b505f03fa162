"""What a run would do: as text for people, and as the JSON object of `plan --json`.

In: a job, its plan and its outlook. Out: text or an object. Nothing in here writes to a stream or a
file, and nothing secret gets in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkcert.cli.format import as_text, entry, width
from bulkcert.cli.left_out import left_out_in_words
from bulkcert.cli.outlook import Outlook
from bulkcert.cli.overlap_screen import overlap_lines, overlap_object
from bulkcert.cli.rules_object import rules_object
from bulkcert.cli.rules_screen import (
    approval_lines,
    breakdown_lines,
    notify_lines,
    rehearsal_lines,
    rollout_lines,
    stop_lines,
    time_lines,
    time_warnings,
    window_lines,
)
from bulkcert.job import Job
from bulkcert.model import Fields, FieldValue
from bulkcert.plan import Plan
from bulkcert.providers.base import Field, Sample, merged
from bulkcert.quantities import count, number
from bulkcert.rejections import FIRST_SHOWN


def describe(
    job: Job,
    plan: Plan,
    outlook: Outlook,
    run_dir: Path,
    *,
    columns: int | None = None,
) -> str:
    """Describe what a run will do.

    Args:
        job: the job.
        plan: what was planned for it.
        outlook: what is known besides.
        run_dir: where the run is kept.
        columns: the width of the terminal, if it is shown on one.
    """
    parameters = _shown(job.action.fields.values(), job.parameters)
    operations = f"{plan.operations:,} from {count(plan.rows, 'row')}"
    if plan.repeated_total:
        operations += f", {count(plan.repeated_total, 'repeated row')} left out"
    if text := left_out_in_words(plan.left_out, plan.protected):
        operations += f", {text} left out"
    if plan.without_certificates:
        operations += (
            f", {count(plan.without_certificates, 'device')} without certificates left out"
        )
    lines = [
        f"{job.name}: {what(job)}",
        *where(job, plan.sample.fields, rehearsal=outlook.rehearsal),
        entry("kept in", str(run_dir)),
        entry("operations", operations),
        entry("parameters", parameters or "none besides the columns of the target file"),
        *_defaults(job),
        *breakdown_lines(plan),
        *overlap_lines(plan.overlap),
        *rollout_lines(job, plan, columns),
        *stop_lines(job, plan),
        *notify_lines(job),
        *window_lines(job, outlook),
        *rehearsal_lines(job, outlook),
        entry("ceiling", f"{ceiling(job)}, {job.limits.in_flight:,} in flight"),
        entry("set by", job.bound_by),
        *time_lines(job, outlook, _requests(job, plan)),
    ]
    if job.connection.proxy:
        lines.append(entry("proxy", job.connection.public_proxy))
    if job.select:
        lines.append(entry("select", f"{_selection(job)}; a target may be several operations"))
    if job.keys:
        subject = job.keys.subject or "as in the old certificate"
        lines.append(entry("keys", f"{job.keys.generate} for each device; subject: {subject}"))
        if job.keys.operator:
            from bulkcert.public_keys import in_file  # slow to import

            digest = in_file(job.keys.operator.encode())
            lines.append(entry("operator", f"may read them in a shared store: SHA-256 {digest}"))
    if job.certificates.pkcs12_password_env:
        variable = job.certificates.pkcs12_password_env
        lines.append(entry("pkcs12", f"for each new key; password in {variable}"))
    if plan.unused_columns:
        lines.append(
            entry("other columns", f"{', '.join(plan.unused_columns)}; kept for the results")
        )
    lines += approval_lines(job, outlook)
    lines += _hash_lines(plan, columns)
    lines += [entry("WARNING", warning) for warning in _warnings(job, plan, outlook)]
    return as_text([*lines, *_not_done(plan)], columns)


def what(job: Job) -> str:
    """Say what a job does, and whether that can be undone."""
    action = job.action
    undoing = "can't be undone"
    if not action.changes:
        undoing = "only reads"
    elif action.undone_by:
        undoing = f"can be undone with {action.undone_by}"
    return f"{action.name} on {job.provider.name}, which {undoing}"


def where(job: Job, fields: Fields, *, rehearsal: bool = False) -> list[str]:
    """The lines that say where requests go, for which account, and in which shared store it is.

    Args:
        job: the job.
        fields: the fields of the first target.
        rehearsal: it is only rehearsed.
    """
    endpoint = job.connection.endpoint
    if rehearsal:
        endpoint = f"a simulator on this machine, in place of {endpoint}"
    lines = [entry("endpoint", endpoint), entry("account", account(job, fields))]
    if job.store and not rehearsal:
        lines.append(entry("store", job.store))
    return lines


def account(job: Job, fields: Fields) -> str:
    """The organization or instance that is acted on.

    Args:
        job: the job.
        fields: the fields of the first target, which may name one of its own.
    """
    return ", ".join(f"{name} {value or 'of each row'}" for name, value in _account(job, fields))


def ceiling(job: Job) -> str:
    """Format the ceiling of a job."""
    return f"{number(job.ceiling)} requests in any second"


def sample_request(job: Job, plan: Plan) -> str:
    """Show the request for the first target, with all secrets masked."""
    sample = _sample(job, plan)
    lines = [f"{sample.request.method} {job.connection.endpoint}{sample.request.target}"]
    lines += [f"{name}: {value}" for name, value in sample.headers.items()]
    if sample.request.body:
        lines += ["", sample.request.body.decode()]
    return as_text([f"Request for line {plan.sample.line}:", *(f"  {line}" for line in lines)])


def plan_object(job: Job, plan: Plan, outlook: Outlook) -> dict[str, Any]:
    """Return the object of `plan --json`; docs/output.md describes it."""
    sample = _sample(job, plan)
    return {
        "name": job.name,
        "provider": job.provider.name,
        "action": job.action.name,
        "changes": job.action.changes,
        "undone_by": job.action.undone_by or None,
        "endpoint": job.connection.endpoint,
        "account": {name: value or None for name, value in _account(job, plan.sample.fields)},
        "rehearsal": outlook.rehearsal,
        "plan": plan.hash.hash,
        "sections": plan.hash.sections,
        "total": plan.operations,
        "rows": plan.rows,
        "repeated": plan.repeated_total,
        "without_certificates": plan.without_certificates,
        "left_out": plan.left_out + plan.protected,
        "protected": plan.protected,
        "never_touch": plan.never_touch,
        "parameters": dict(job.parameters),
        "defaults": dict(_default_values(job)),
        "select": _selection(job) if job.select else None,
        "keys": dataclasses.asdict(job.keys) if job.keys else None,
        "ceiling": job.ceiling,
        "ceiling_set_by": job.bound_by,
        "in_flight": job.limits.in_flight,
        "requests": _requests(job, plan),
        "least_seconds": round(_least_s(job, plan), 3),
        **rules_object(job, plan, outlook),
        "overlap": overlap_object(plan.overlap),
        "proxy": job.connection.public_proxy or None,
        "unused_columns": list(plan.unused_columns),
        "warnings": _warnings(job, plan, outlook),
        "first_left_out": [row.as_object() for row in plan.rejected],
        "first_protected": [row.as_object() for row in plan.first_protected],
        "first_repeated": [row.as_object() for row in plan.repeated],
        "targets_sha256": plan.sha256,
        "sample_request": {
            "line": plan.sample.line,
            "method": sample.request.method,
            "url": f"{job.connection.endpoint}{sample.request.target}",
            "headers": dict(sample.headers),
            "body": sample.request.body.decode() if sample.request.body else None,
        },
    }


def _account(job: Job, fields: Fields) -> Iterator[tuple[str, str]]:
    """Organization or instance by the name in `[connection]`; empty where each row has its own."""
    common, fields_of_rows = job.common, job.provider.actions[job.action.name].fields.values()
    named = [field for field in fields_of_rows if field.option]
    for field in named:
        given = "" if field.name in fields else common.get(field.name, "")
        yield field.option, str(given)
    if not named:  # as the provider of a package may have it
        yield from job.connection.options.items()


def _warnings(job: Job, plan: Plan, outlook: Outlook) -> list[str]:
    return [*job.warnings, *job.unsafe, *plan.warnings, *time_warnings(outlook)]


def _hash_lines(plan: Plan, columns: int | None) -> Iterator[str]:
    """The hash of a plan; in two halves of the same length if it does not fit a line."""
    whole = entry("plan", plan.hash.grouped)
    if columns is None or width(whole) <= columns:
        yield whole
        return
    groups = plan.hash.grouped.split()
    half = len(groups) // 2
    yield entry("plan", " ".join(groups[:half]))
    yield entry("", " ".join(groups[half:]))


def _least_s(job: Job, plan: Plan) -> float:
    return _requests(job, plan) / job.ceiling


def _requests(job: Job, plan: Plan) -> int:
    return plan.operations * job.requests_per_operation


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
    if defaults := [f"{name}: {default}" for name, default in _default_values(job)]:
        yield entry("where left out", "; ".join(defaults))


def _default_values(job: Job) -> Iterator[tuple[str, str]]:
    for field in job.action.optional:
        if field.default and not field.option and field.name not in job.parameters:
            yield field.name, field.default.replace("`", "")


def _sample(job: Job, plan: Plan) -> Sample:
    fields = {**_placeholders(job), **merged(job.parameters, plan.sample.fields)}
    return job.provider.sample(job.action, job.connection.options, fields)


def _not_done(plan: Plan) -> list[str]:
    lines = [f"  line {row.line}: {row.fault}" for row in plan.rejected]
    if (more := plan.rejected_total - len(plan.rejected)) > 0:
        lines.append(f"  ... and {count(more, 'more error')} in rejected.csv")
    lines += [f"  line {row.line}: {row.fault}" for row in plan.first_protected]
    if plan.protected > FIRST_SHOWN:
        lines.append(f"  ... and {plan.protected - FIRST_SHOWN:,} more in protected.csv")
    lines += [f"  line {row.line}: {row.fault}" for row in plan.repeated]
    if plan.repeated_total > FIRST_SHOWN:
        lines.append(f"  ... and {plan.repeated_total - FIRST_SHOWN:,} more in repeated.csv")
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
