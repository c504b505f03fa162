"""`bulkcert evidence`: pack what proves a run, signed; or check such a pack."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bulkcert.approval.signers import read_signers
from bulkcert.approval.ssh_keygen import sign
from bulkcert.cli import console
from bulkcert.cli.format import as_text, entry
from bulkcert.cli.messages import Level
from bulkcert.cli.options import FilePath, json_option, named_run
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.errors import EvidenceError
from bulkcert.event_log import chain_fault
from bulkcert.evidence import NAMESPACE
from bulkcert.evidence.check import Checked, check
from bulkcert.evidence.manifest import Manifest, is_digest
from bulkcert.evidence.pack import pack, refuse_existing
from bulkcert.plan_hash import grouped
from bulkcert.quantities import count
from bulkcert.rundir import RunDirectory
from bulkcert.values import shown

_DIFFERS = 1
_MOST_FAULTS = 100


@click.command
@named_run("[RUN]", required=False)
@click.option("-o", "--output", type=FilePath, help="Write the pack to this new file.")
@click.option(
    "--key",
    type=FilePath,
    help="Sign with this private key, or with the public key of one that an agent or a security"
    " key has.",
)
@click.option("--check", "checked", metavar="FILE", type=FilePath, help="Check this pack.")
@click.option(
    "--signers",
    type=FilePath,
    help="Who may have signed it: your own file in the format of OpenSSH's allowed_signers, never"
    " one that came with the pack.",
)
@click.option(
    "--event",
    "witnessed",
    metavar="HASH",
    multiple=True,
    help="An event with this hash must be in it: one that [notify] has sent; repeatable.",
)
@json_option
def evidence(
    directory: RunDirectory | None,
    output: Path | None,
    key: Path | None,
    checked: Path | None,
    signers: Path | None,
    witnessed: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pack what proves a run into one file, signed with an SSH key; or check such a pack.

    A pack has the plan, its approvals, the events, the results, the history of every request, the
    last verification and the report, and says how to check it without bulkcert. It can be made in
    the middle of a run, too, and says so. A file that exists is never replaced.

    \b
    Examples:
      bulkcert evidence jobs/revoke-key-compromise.toml -o campaign.tar.gz --key ~/.ssh/id_ed25519
      bulkcert evidence --check campaign.tar.gz --signers auditors/signers
    """
    interrupt_on_signals()
    if checked is not None:
        if directory is not None or output is not None or key is not None:
            raise click.UsageError("--check takes neither RUN nor --output nor --key.")
        if signers is None:
            raise click.UsageError(
                "--check needs --signers FILE: anybody can sign a pack with some key."
            )
        sys.exit(_check(checked, signers, witnessed, as_json))
    if signers is not None or witnessed:
        raise click.UsageError("--signers and --event go with --check.")
    if directory is None or output is None or key is None:
        raise click.UsageError("Name a run, --output FILE and --key FILE; or --check FILE.")
    _pack(directory, output, key, as_json)


# ---- pack


def _pack(directory: RunDirectory, output: Path, key: Path, as_json: bool) -> None:
    """Write a pack, and say what it is about."""
    if str(output) == "-":
        raise click.UsageError("A pack is a new file, complete or not there: name it with -o.")
    refuse_existing(output)
    if not key.is_file():  # before the work, not after it
        raise EvidenceError(f"{key} is not a key file.", "Name your private key with --key.")
    with contextlib.closing(directory.reader()) as reader:
        manifest = pack(reader, directory, output, lambda sums: sign(sums, key, NAMESPACE))
        fault = chain_fault(event.line for event in reader.events())
    if as_json:
        console.print_json({"file": str(output.absolute()), **manifest.as_object()})
    for name, why in manifest.left_out.items():
        console.write(f"{name} is left out: {why}.", Level.WARNING)
    if fault:
        broken = f"The checkpoint was changed, and the chain of events is broken: {fault}."
        console.write(f"{broken} --check will find that, too.", Level.WARNING)
    number = len(manifest.files)
    console.write(
        f"{_what(manifest)} is packed in {output}: {count(number, 'file')}, {_state(manifest)}.",
        Level.RESULT,
        after=f"To check it: {shlex.join(['bulkcert', 'evidence', '--check', str(output)])}"
        " --signers FILE\nIts README.txt says how to check it without bulkcert.",
    )


# ---- check


def _check(path: Path, signers: Path, witnessed: tuple[str, ...], as_json: bool) -> int:
    """Check a pack, print what is known of it, and return the exit code."""
    for event_hash in witnessed:
        if not is_digest(event_hash):
            raise click.BadParameter(f"{shown(event_hash)} is not a hash.", param_hint="'--event'")
    checked = check(path, read_signers(signers, "--signers"), witnessed)
    manifest, signer, faults = checked.manifest, checked.signer, checked.faults
    if as_json:
        console.print_json(
            {
                "file": str(path.absolute()),
                "intact": not faults,
                "signer": signer.name if signer else None,
                "key": signer.fingerprint if signer else None,
                "faults": faults,
                "unchecked": checked.unchecked,
                "about": manifest.as_object() if manifest else None,
                "exit_code": _DIFFERS if faults else 0,
            }
        )
    else:
        console.print_text(as_text(_lines(checked), console.columns("stdout")))
    if faults:
        level, verdict = Level.ERROR, f"{path} is not intact: {count(len(faults), 'fault')}."
    else:
        level, verdict = Level.RESULT, f"{path} is intact."
    console.write(verdict, level, event="end")
    return _DIFFERS if faults else 0


def _lines(checked: Checked) -> Iterator[str]:
    manifest = checked.manifest
    if manifest is not None and manifest.rehearsal:
        yield "REHEARSAL: nothing of this was sent to a provider."
    if checked.signer is not None:
        yield entry("signed by", f"{checked.signer.name} with {checked.signer.fingerprint}")
    if manifest is not None:
        yield from _about(manifest)
    faults = checked.faults
    for fault in faults[:_MOST_FAULTS]:
        yield entry("FAULT", f"{fault}.")
    if (more := len(faults) - _MOST_FAULTS) > 0:
        yield entry("FAULT", f"and {more:,} more.")
    if checked.unchecked:
        yield entry("not checked", f"{checked.unchecked}.")


def _about(manifest: Manifest) -> Iterator[str]:
    last = manifest.last_event
    yield entry("run", f"{manifest.run}, {manifest.action} at {manifest.provider}")
    yield entry("endpoint", manifest.endpoint)
    yield entry("plan", grouped(manifest.plan))
    yield entry("as of", f"{manifest.as_of or 'before its begin'}, {_state(manifest)}")
    outcomes = [
        f"{number:,} {outcome.replace('_', ' ')}"
        for outcome, number in manifest.outcomes.items()
        if number
    ]
    yield entry("outcomes", ", ".join(outcomes) or "none")
    if (verified := manifest.verified) is not None:
        counts = (verified.agrees, verified.differs, verified.not_read)
        said = "{:,} agree, {:,} differ, {:,} could not be read".format(*counts)
        yield entry("verified", f"{verified.at}: {said}")
    yield entry("approvals", f"{manifest.approvals:,}")
    yield entry("events", f"{last.seq:,}; the hash of the last one is")
    yield entry("", last.hash)
    for name, why in manifest.left_out.items():
        yield entry("left out", f"{name}: {why}")


def _what(manifest: Manifest) -> str:
    """What is packed, at the beginning of a sentence."""
    the = "REHEARSAL: the" if manifest.rehearsal else "The"
    return f"{the} evidence of {manifest.run}"


def _state(manifest: Manifest) -> str:
    return "finished" if manifest.finished else "not finished"
