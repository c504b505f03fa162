"""`bulkcert run`: check the job, ask for confirmation, carry it out, and report."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import click

from bulkcert.campaign_state import look
from bulkcert.cli import console, prompt
from bulkcert.cli.campaign_screen import wave_rows
from bulkcert.cli.execution import execute, figures_of, metrics_option, say_end, serving
from bulkcert.cli.format import as_text, entry
from bulkcert.cli.left_out import left_out_in_words
from bulkcert.cli.options import (
    job_arguments,
    json_option,
    load,
    message_options,
    no_dry_run,
    progress_option,
    refuse_unsafe,
    remember_run,
)
from bulkcert.cli.outlook import outlook
from bulkcert.cli.plan_screen import ceiling, describe, plan_object, what, where
from bulkcert.cli.process import go_on_in_child
from bulkcert.cli.rules_object import approved_object
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.cli.summary_screen import closing_summary
from bulkcert.credentials import credentials_from
from bulkcert.errors import BulkcertError, ConfirmationError, InterruptionError
from bulkcert.job import Job
from bulkcert.metrics.address import Address
from bulkcert.model import Fields, Outcome, State
from bulkcert.plan_hash import ungrouped
from bulkcert.quantities import count
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES, outcome_counts
from bulkcert.run import Run
from bulkcert.store.place import SharedPlace


@click.command
@job_arguments
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--plan",
    metavar="HASH",
    help="Do not ask for confirmation, but only run exactly the plan with this hash.",
)
@click.option(
    "--new",
    is_flag=True,
    help="Begin the next run of this job, in runs/NAME-2 and so on; the one before must be over.",
)
@click.option(
    "--amend",
    is_flag=True,
    help="Go on although limits or rules of the job have changed since the run began.",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="Run the whole job against a simulator on loopback, with latency and faults.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Also retry operations that failed or are unknown."
)
@click.option(
    "--until", metavar="WAVE", default="", help="Stop when this wave is over, with exit code 3."
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Stop, with exit code 3, instead of waiting for a window, between waves, for a go or for"
    " the end of a pause.",
)
@click.option(
    "--override",
    metavar="ABORT",
    default="",
    help="Go on although the run has stopped itself: the id of that abort; needs --why.",
)
@click.option("--why", metavar="TEXT", default="", help="The reason for --override.")
@metrics_option
@no_dry_run
@progress_option
@message_options
@json_option
def run(
    job_file: Path,
    targets: Path | None,
    skip_rejected: bool,
    skip_protected: bool,
    run_dir: Path | None,
    store: str,
    yes: bool,
    plan: str | None,
    new: bool,
    amend: bool,
    rehearse: bool,
    retry_failed: bool,
    until: str,
    no_wait: bool,
    override: str,
    why: str,
    metrics: Address | None,
    progress: bool,
    log_format: str,
    log_file: Path | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Check the whole job, then carry it out. An interrupted run continues where it stopped.

    Credentials are read from the environment. Press Ctrl-C once to stop in an orderly way, twice to
    quit at once; nothing recorded is lost.

    \b
    Examples:
      bulkcert run jobs/revoke-key-compromise.toml --rehearse
      bulkcert run jobs/revoke-key-compromise.toml --yes
    """
    console.configure(as_json=log_format == "json", log_file=log_file, quiet=quiet, verbose=verbose)
    interrupt_on_signals()
    if bool(override) != bool(why.strip()):
        raise click.UsageError("--override and --why go together: say why you go on.")
    try:
        job = load(job_file, targets, store)
        confirmed = yes or plan is not None
        # whoever has approved a plan has confirmed it; without approvals it does not begin
        asks = not (rehearse or confirmed or job.rules.needed_approval) and job.action.changes
        if not confirmed and not rehearse:
            refuse_unsafe(job, job_file)
        if asks and not prompt.can_ask():
            raise ConfirmationError(
                f"'{job.action.name}' changes certificates, and there is no terminal to ask for"
                " confirmation.",
                "Add --yes to confirm, or --plan with the hash that `bulkcert plan` shows.",
            )
        if rehearse:
            from bulkcert.rehearsal import on_loopback, simulator

            job = on_loopback(job)
        credentials = {} if rehearse else credentials_from(os.environ, job.provider, job.passwords)
        if job.store and not rehearse:
            go_on_in_child()
        execution = Run(
            job,
            run_dir.absolute() if run_dir else None,
            rehearsal=rehearse,
            skip_rejected=skip_rejected,
            skip_protected=skip_protected,
            retry_failed=retry_failed,
            override=override,
            why=why,
            until=until,
            wait=not no_wait,
            new=new,
            amend=amend,
            store=job.store,
        )
        directory = execution.directory.path
        with serving(metrics, execution), execution:
            announce(job, execution, rehearsal=rehearse, why=why if override else "")
            if plan is not None and not rehearse:
                _require_plan(execution, plan)
            for approved in execution.approvals():
                console.write(
                    f"Approved by {approved}.",
                    event="approval",
                    approval=approved_object(approved),
                )
            if asks and not execution.finished:
                _confirm(job, execution)
            remember_run(job, execution.directory, rehearsal=rehearse)
            if rehearse and not execution.finished:
                with simulator(execution) as (endpoint, credentials):
                    summary = execute(execution, credentials, endpoint, progress and not quiet)
            else:
                summary = execute(execution, credentials, None, progress and not quiet)
    except BulkcertError as error:
        if error.exit_code in (RESUMABLE, STOPPED_BY_RULES):
            error.figures = figures_of(directory)
        raise
    except KeyboardInterrupt:
        raise InterruptionError("Stopped before anything was sent.") from None
    say_end(
        summary,
        closing_summary(
            summary,
            job_file,
            directory,
            console.columns(),
            targets,
            once=" and ".join(["--new"] * new + ["--override and --why"] * bool(override)),
        ),
        as_json=as_json,
    )


def _require_plan(execution: Run, written: str) -> None:
    """Require that the plan is the one that --plan names.

    Raises:
        ConfirmationError: it is another one.
    """
    plan = execution.plan_hash
    if ungrouped(written) != plan.hash:
        raise ConfirmationError(
            f"The plan is not the one that --plan names: it is {plan.grouped}",
            "Look at it with `bulkcert plan`, then name all 64 digits of its hash.",
        )
    console.log_only(f"Confirmed by --plan {plan.grouped}.")


def _confirm(job: Job, execution: Run) -> None:
    """Ask the person at the terminal.

    Raises:
        ConfirmationError: the answer is not a yes.
    """
    counts = execution.counts
    in_flight = counts.get(State.IN_FLIGHT, 0)
    to_do = counts.get(State.PLANNED, 0) + in_flight + execution.retried
    question = prompt.Question(
        job=job,
        fields=_first_fields(execution),
        to_do=to_do,
        in_doubt=0 if execution.is_joining else in_flight,
    )
    if not prompt.confirmed(question):
        raise ConfirmationError("Not confirmed: nothing was sent.")
    console.log_only("Confirmed at the terminal.")


def _kept_in(execution: Run) -> str:
    """Where a run is kept, on this machine and elsewhere."""
    place, path = execution.directory.place, execution.directory.path
    return f"{place.run}, with {path}" if isinstance(place, SharedPlace) else str(path)


def _first_fields(execution: Run) -> Fields:
    """The fields of the first target."""
    with contextlib.closing(execution.directory.reader()) as reader:
        return next(record.fields for record in reader.records())


def announce(job: Job, execution: Run, *, rehearsal: bool = False, why: str = "") -> None:
    """Say what is about to be done, and what has been done so far.

    Args:
        job: the job.
        execution: its run.
        rehearsal: it is a rehearsal.
        why: the reason for overriding the abort that has stopped the run; empty if nobody does.
    """
    plan, columns = execution.plan, console.columns()
    if plan is not None:
        seen, run_dir = outlook(job, plan, time.time(), rehearsal=rehearsal), execution.directory
        console.write_text(
            describe(job, plan, seen, run_dir.path, columns=columns),
            event="plan",
            plan=plan_object(job, plan, seen),
        )
        return
    in_flight = execution.counts.get(State.IN_FLIGHT, 0)
    counts = outcome_counts(execution.counts)
    counts[Outcome.UNKNOWN] -= in_flight
    named = [(outcome.replace("_", " "), counts[outcome]) for outcome in Outcome]
    others = "in flight on other hosts" if execution.is_joining else "in doubt"
    so_far = [f"{many:,} {name}" for name, many in [*named, (others, in_flight)] if many]
    lines = [
        f"{job.name}: {what(job)}",
        entry("joining" if execution.is_joining else "continuing", _kept_in(execution)),
        *where(job, _first_fields(execution), rehearsal=rehearsal),
        entry("so far", ", ".join(so_far)),
    ]
    if execution.retried:
        retried = count(execution.retried, "operation")
        lines.append(entry("again", f"{retried} that failed or are unknown"))
    manifest = execution.directory.manifest()
    if text := left_out_in_words(manifest.left_out - manifest.protected, manifest.protected):
        lines.append(entry("left out", text))
    waves = wave_rows(look(execution.directory))
    lines += [entry("" if number else "waves", row) for number, row in enumerate(waves)]
    lines.append(entry("ceiling", f"{ceiling(job)}, set by {job.bound_by}"))
    overridden = execution.pending if why else None
    if overridden is not None:
        lines.append(entry("overriding", f"abort {overridden.id}: {overridden.text}"))
        lines.append(entry("because", why))
    amendment = execution.amendment
    if amendment is not None:
        lines += [entry("amending", str(each)) for each in amendment.differences]
        lines.append(entry("plan", amendment.plan.grouped))
    so_far_object = {str(outcome): many for outcome, many in counts.items()}
    console.write_text(
        as_text(lines, columns),
        event="resume",
        so_far=so_far_object | {"in_flight": in_flight, "retried": execution.retried},
        amending=[str(each) for each in amendment.differences] if amendment else [],
        overriding=overridden.id if overridden else None,
        why=why,
    )
