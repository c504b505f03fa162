"""Signs statements, and says whose signature is on them, with OpenSSH's `ssh-keygen`.

In: the bytes of a statement, what the signature is for, a key, a signature. Out: a signature, or
who has signed. ssh-keygen decides whether a signature is good, at the present time unless another
one is given. It gets the statement, the signature and the signers as they were read once, so that
nobody can exchange a file between two looks at it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from bulkcert.approval.signers import Signers
from bulkcert.errors import ApprovalError
from bulkcert.values import printable

NAMESPACE = "approval@bulkcert"
"""What a signature is for: one for something else, such as a Git commit, is not an approval."""

_INSTALL = "Install OpenSSH 8.2 or newer: `apt-get install openssh-client`, `dnf install openssh`."
_TOO_OLD = re.compile(r"(unknown|illegal|invalid) option -- '?Y|Unsupported operation for -Y")
_FINGERPRINT = re.compile(r" key (SHA256:\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who has signed.

    Attributes:
        name: the name in the signers file, or the first of several.
        fingerprint: of the key.
        person: all names of the person.
    """

    name: str
    fingerprint: str
    person: frozenset[str]


def sign(statement: bytes, key: Path, namespace: str = NAMESPACE) -> bytes:
    """Sign a statement; ssh-keygen may ask for a passphrase or a touch on the terminal.

    Args:
        statement: what is signed.
        key: a private key, or the public key of one that an agent or a security key has.
        namespace: what the signature is for.

    Returns:
        The signature, in OpenSSH's armoured format.

    Raises:
        ApprovalError: the key can't be used.
    """
    watched = sys.stderr.isatty()
    with tempfile.TemporaryDirectory(prefix="bulkcert-") as folder:
        file = Path(folder) / "statement"
        file.write_bytes(statement)
        # from a file: ssh-keygen asks for a passphrase only if its standard input is a terminal
        ended = _run(
            ["-Y", "sign", "-q", "-f", os.fspath(key), "-n", namespace, os.fspath(file)],
            stderr=None if watched else subprocess.PIPE,
        )
        if not ended.returncode:
            return file.with_name("statement.sig").read_bytes()
    reason = "" if watched else f": {_reason(ended)}"
    raise ApprovalError(
        f"ssh-keygen can't sign with {key}{reason or '.'}",
        "Name your private key with --key, or the public one if an agent has the private one"
        " (`ssh-add -l` lists what it has).",
    )


class Verifier:
    """Says who has signed a statement. A context manager: its files are in a private folder.

    Args:
        signers: who may sign.
        revoked: a key revocation list, or None.
        namespace: what the signature must be for.
        at_s: when the key must be valid, as Unix time; None for now.

    Raises (on entering):
        ApprovalError: the revocation list can't be used.
    """

    def __init__(
        self,
        signers: Signers,
        revoked: Path | None = None,
        *,
        namespace: str = NAMESPACE,
        at_s: float | None = None,
    ) -> None:
        self._signers = signers
        self._revoked = revoked
        self._namespace = namespace
        self._time: tuple[str, ...] = ()
        if at_s is not None and b"valid-" in signers.content:  # older versions have no such option
            local = datetime.fromtimestamp(at_s).strftime("%Y%m%d%H%M%S")  # noqa: DTZ006 - as ssh-keygen reads it
            self._time = ("-O", f"verify-time={local}")

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="bulkcert-")
        folder = Path(self._folder.name)
        self._signature = folder / "signature"
        self._allowed, self._krl = folder / "signers", folder / "revoked"
        try:
            self._allowed.write_bytes(self._signers.content)
            if self._revoked:
                self._read_revoked(self._revoked)
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def signer(self, statement: bytes, signature: bytes) -> Signer | str:
        """Say who has signed a statement, or why the signature does not count, in a phrase."""
        self._signature.write_bytes(signature)
        good = self._ask(statement, "check-novalidate", "-n", self._namespace)
        if good.returncode:
            return _broken(good, self._namespace)
        fingerprint = _fingerprint(good)
        found = self._ask(b"", "find-principals", *self._time, "-f", os.fspath(self._allowed))
        names = found.stdout.decode(errors="replace").splitlines()
        if found.returncode or not names:
            if fingerprint not in self._signers.names:
                return f"signed with {fingerprint}, which is not the key of a signer"
            return f"signed with {fingerprint}, which does not count now: {_reason(found)}"
        known = self._signers.names.get(fingerprint, frozenset())
        if not known.issuperset(names):
            return f"signed with {fingerprint}, which ssh-keygen finds under another name"
        allowed = ("-f", os.fspath(self._allowed))
        verify = ("verify", *self._time, *allowed, "-n", self._namespace, "-I", names[0])
        revoked = ("-r", os.fspath(self._krl)) if self._revoked else ()
        verified = self._ask(statement, *verify, *revoked)
        if verified.returncode:
            if revoked and not self._ask(statement, *verify).returncode:
                return f"signed by {names[0]} with {fingerprint}, which is revoked"
            return f"signed by {names[0]} with a key that does not count: {_reason(verified)}"
        if _fingerprint(verified) != fingerprint:
            return "signed with a key that ssh-keygen shows in two ways"
        return Signer(names[0], fingerprint, self._signers.person(fingerprint))

    def _ask(self, statement: bytes, question: str, *arguments: str) -> _Ended:
        return _run(["-Y", question, "-s", os.fspath(self._signature), *arguments], statement)

    def _read_revoked(self, path: Path) -> None:
        """Copy the revocation list; one that can't be read would revoke nothing."""
        try:
            self._krl.write_bytes(path.read_bytes())
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            ended = _run(["-Q", "-l", "-f", os.fspath(self._krl)], b"")
            if not ended.returncode:
                return
            reason = _reason(ended).replace(os.fspath(self._krl), path.name)
        raise ApprovalError(
            f"The revocation list {path} can't be used: {reason}",
            "Make one with `ssh-keygen -k -f FILE KEY.pub`; -u adds a key to it.",
        )


_Ended = subprocess.CompletedProcess[bytes]


def _run(
    arguments: Sequence[str], given: bytes | None = None, stderr: int | None = subprocess.PIPE
) -> _Ended:
    """Run ssh-keygen.

    Args:
        arguments: its arguments.
        given: its standard input; None for ours.
        stderr: where its messages go.

    Raises:
        ApprovalError: it is missing or too old.
    """
    try:
        ended = subprocess.run(  # noqa: S603 - arguments of our own, and no shell
            ["ssh-keygen", *arguments],  # noqa: S607 - wherever it is installed
            input=given,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | {"LC_ALL": "C"},
            check=False,
        )
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        problem = "is not installed" if missing else f"can't be started: {error.strerror}"
        raise ApprovalError(f"Signatures need `ssh-keygen`, which {problem}.", _INSTALL) from error
    if ended.returncode and _TOO_OLD.search((ended.stderr or b"").decode(errors="replace")):
        raise ApprovalError("The installed `ssh-keygen` is too old for signatures.", _INSTALL)
    return ended


def _broken(ended: _Ended, namespace: str) -> str:
    reason = _reason(ended)
    if "incorrect signature" in reason:
        return "edited after it was signed, or signed as something else"
    if "namespace" in reason:
        return f"signed for another purpose, not for {namespace}"
    return f"its signature is damaged: {reason}"


def _fingerprint(ended: _Ended) -> str:
    match = _FINGERPRINT.search(ended.stdout.decode(errors="replace").rstrip())
    return match[1] if match else ""


def _reason(ended: _Ended) -> str:
    """What ssh-keygen wrote about a failure, without the names of our files."""
    text = (ended.stderr or b"").decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip("@ ")]
    named = [re.sub(r"^\S*/(signers|signature|revoked)(:\d+)?: ", "", line) for line in lines]
    return printable("; ".join(dict.fromkeys(named)) or f"exit code {ended.returncode}")
