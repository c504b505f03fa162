"""`bulkcert material`: fetch the keys and certificates of a run from its shared store."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.cli.options import FilePath, run_argument
from bulkcert.cli.prompt import passphrase
from bulkcert.cli.signals import interrupt_on_signals
from bulkcert.credentials import password_from
from bulkcert.envelope import Identity
from bulkcert.errors import MaterialError
from bulkcert.material import Fetched, fetch
from bulkcert.quantities import count
from bulkcert.rundir import RunDirectory
from bulkcert.values import printable

_SOMETHING_WRONG = 1
_LARGEST_KEY = 2**20


@click.command
@run_argument
@click.option(
    "-o",
    "--output",
    type=FilePath,
    required=True,
    help="Write them into this new folder, readable for you alone.",
)
@click.option(
    "--identity",
    metavar="KEY",
    type=FilePath,
    help="Open the private keys with this one: that of the operator whose public key the job names"
    " [default: fetch the certificates alone].",
)
@click.option(
    "--pkcs12",
    "password_in",
    metavar="VARIABLE",
    help="Also write each certificate as PKCS#12, with its key and its CA, under the password in"
    " this environment variable.",
)
def material(
    directory: RunDirectory, output: Path, identity: Path | None, password_in: str | None
) -> None:
    """Fetch the keys and certificates of a run from its shared store.

    Whichever hosts made them, and whether those still exist. Each key is checked against its
    certificate. The folder is like a run directory: keys, certificates and manifest.csv. A private
    key is in clear nowhere but in its file there. The run may still be in progress.

    \b
    Examples:
      bulkcert material jobs/renew.toml -o renewed --identity ops-private.pem
      bulkcert material renew -o certificates-only
    """
    interrupt_on_signals()
    if password_in is not None and identity is None:
        raise click.UsageError("--pkcs12 needs the keys: name yours with --identity.")
    password = "" if password_in is None else password_from(os.environ, password_in)
    opened = None if identity is None else _identity(identity)
    with contextlib.closing(directory.reader()) as reader:
        fetched = fetch(reader, output, opened, _report, password)
    _say(fetched, output, with_keys=identity is not None)
    sys.exit(_SOMETHING_WRONG if fetched.problems else 0)


def _identity(path: Path) -> Identity:
    """Read the operator's private key; ask for its passphrase, if it has one."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_KEY)
    except OSError as error:
        raise MaterialError(
            f"{path} can't be read: {error.strerror or error}", "Name your private key."
        ) from error
    phrase = None
    if b"ENCRYPTED" in content:
        phrase = passphrase(f"Passphrase of {printable(str(path))}: ")
        if phrase is None:
            raise MaterialError(
                f"{path} needs a passphrase, and there is no terminal to ask for it.",
                f"Decrypt it on the way: --identity <(openssl pkey -in {path} -passin ...)",
            )
    try:
        return Identity(content, phrase)
    except ValueError as error:
        raise MaterialError(
            f"The key {path} {error}.",
            "Name the private key that belongs to [keys] operator of the job.",
        ) from None


def _report(problem: str) -> None:
    console.write(problem, Level.WARNING)


def _say(fetched: Fetched, folder: Path, *, with_keys: bool) -> None:
    """Say what was fetched."""
    what = count(fetched.certificates, "certificate")
    if with_keys:
        what = f"{what} and {count(fetched.keys, 'private key')}"
    lines = []
    if fetched.keys_alone:
        those = count(fetched.keys_alone, "key has", "keys have")
        lines.append(f"{those} no certificate yet: keep them until their operations are settled.")
    if fetched.problems:
        lines.append(f"{count(fetched.problems, 'problem')}, see above.")
    if with_keys:
        lines.append("The keys are not encrypted: remove them from here once they are installed.")
    text = f"{what} written to {printable(str(folder))}."
    console.write(text, Level.RESULT, after="\n".join(lines))
