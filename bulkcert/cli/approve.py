"""`bulkcert approve`: show what a run would do, and sign a statement that it may."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from bulkcert.approval import files
from bulkcert.approval.ssh_keygen import Signer, Verifier, sign
from bulkcert.approval.statement import Statement, Subject, as_utc
from bulkcert.approval.verdict import how_to_go_on, judge, signers_of
from bulkcert.cli import console, prompt
from bulkcert.cli import plan as plan_command
from bulkcert.cli.messages import Level
from bulkcert.cli.options import FilePath, job_arguments, load
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.errors import ApprovalError, ConfirmationError
from bulkcert.job import Job
from bulkcert.jobfile import parsers
from bulkcert.quantities import duration
from bulkcert.rejections import skip_options
from bulkcert.rundir import RunDirectory, contains_run
from bulkcert.stopped import command_of, refuse_bad_override
from bulkcert.store.base import pending_abort


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A duration as in a job file; the value is in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parsers.duration(1.0, 366 * 86_400.0)(value)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)


@click.command
@job_arguments
@click.option(
    "--key",
    type=FilePath,
    required=True,
    help="Sign with this private key, or with the public key of one that an agent or a security"
    " key has.",
)
@click.option(
    "--valid",
    "valid_s",
    type=_Duration(),
    help="Let the approval count for a shorter time than the job permits, such as 2h.",
)
@click.option(
    "--override", metavar="ABORT", default="", help="Approve going on after the abort of this id."
)
@click.option("--yes", is_flag=True, help="Do not ask before signing.")
def approve(
    job_file: Path,
    targets: Path | None,
    skip_rejected: bool,
    skip_protected: bool,
    run_dir: Path | None,
    store: str,
    key: Path,
    valid_s: float | None,
    override: str,
    yes: bool,
) -> None:
    """Show what a run would do, and sign a statement that it may.

    The statement and its signature are kept in STEM.approvals beside the job file. On a terminal,
    you are asked before it is signed. The key must be in the file that [approval] signers names.

    \b
    Examples:
      bulkcert approve jobs/revoke-key-compromise.toml --key ~/.ssh/id_ed25519
      bulkcert approve jobs/revoke-key-compromise.toml --key ~/.ssh/id_ed25519 --valid 2h
    """
    interrupt_on_signals()
    job = load(job_file, targets, store)
    rule = job.rules.needed_approval
    if rule is None:
        raise ApprovalError(
            f"{job_file} requires no approvals, so `bulkcert run` would not look for them.",
            "Add a section [approval] with `required` and `signers`, if they are wanted.",
        )
    if valid_s is not None and valid_s > rule.valid_s:
        raise click.BadParameter(
            f"is longer than [approval] valid, {duration(rule.valid_s)}.", param_hint="'--valid'"
        )
    folder = files.folder_of(job)
    signers = signers_of(rule)
    fingerprints: list[bytes] = []
    directory, planned = plan_command.check(
        job,
        job_file,
        run_dir,
        skip_rejected=skip_rejected,
        skip_protected=skip_protected,
        on_planned=lambda planning: fingerprints.append(planning.fingerprints()),
    )
    if override:
        _show_abort(job, directory, override)
    subject = Subject(
        job=job,
        plan=planned.hash,
        run=planned.number,
        abort=override,
        skipped=skip_options(planned.left_out + planned.protected, planned.protected),
    )
    stated = Statement.about(subject, time.time(), rule.valid_s if valid_s is None else valid_s)
    plan_command.show(job, job_file, directory, planned, abort=override)
    console.print_text("\n  ".join(("\nYou sign:", *str(stated).splitlines())))
    if not yes and prompt.can_ask() and not prompt.agrees("Sign this? [y/N] "):
        raise ConfirmationError("Nothing was signed.")
    content = str(stated).encode()
    signature = sign(content, key)
    with Verifier(signers, rule.revoked) as verifier:
        signer = verifier.signer(content, signature)
    if isinstance(signer, str):
        raise ApprovalError(
            f"With {key}, the approval would not count: it is {signer}.",
            f"Use a key that is in {rule.signers}.",
        )
    path = files.keep(folder, f"{signer.name}-{as_utc(stated.approved_s)}", content, signature)
    files.keep_fingerprints(folder, planned.hash.hash, *fingerprints)
    _report(subject, signer, stated, path, _run_command(subject, directory))


def _show_abort(job: Job, directory: RunDirectory, abort_id: str) -> None:
    """Say what is overridden, where the run is on this machine.

    Raises:
        OverrideError: it is not the abort that has stopped the run.
    """
    if not contains_run(directory.path):
        return
    with contextlib.closing(directory.reader()) as reader:
        pending = pending_abort(reader.aborts())
    refuse_bad_override(job, directory.path, abort_id, pending)
    assert pending is not None
    console.print_text(f"The run has stopped itself: {pending.text}.\n")


def _run_command(subject: Subject, directory: RunDirectory) -> str:
    """The command that carries out what is approved."""
    options = f"--override {subject.abort} --why TEXT" if subject.abort else ""
    if contains_run(directory.path) and directory.manifest().number < subject.run:
        options = "--new"  # that run is over
    words = (command_of(subject.job, directory.path), *subject.skipped, options)
    return " ".join(filter(None, words))


def _report(subject: Subject, signer: Signer, stated: Statement, path: Path, command: str) -> None:
    """Say what is approved now, and what is missing."""
    verdict = judge(subject, time.time())
    after = [f"Kept in {path}."]
    if verdict.missing:
        after.append(how_to_go_on(subject, verdict))
    else:
        until = as_utc(verdict.until_s)
        after.append(f"All {verdict.required} approvals are there until {until}: `{command}`")
    console.write(
        f"Approved by {signer.name} with {signer.fingerprint}, until {as_utc(stated.expires_s)}.",
        Level.RESULT,
        after="\n".join(after),
    )
