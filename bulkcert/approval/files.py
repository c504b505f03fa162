"""The folder of approvals beside a job file: `STEM.approvals`.

In: statements and their signatures. Out: files that a person can read, and verify with ssh-keygen;
and the same back. Each approval is a statement, and beside it the signature with `.sig` added to
its name. Nothing here follows a symbolic link, replaces a file or judges a signature.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from bulkcert import durable
from bulkcert.errors import ApprovalError
from bulkcert.job import Job
from bulkcert.jobfile.location import locate

_STATEMENT, _SIGNATURE = ".approval", ".sig"
_MOST_BYTES = 1 << 16
"""No statement or signature is longer: a longer file is something else."""

_NAME = re.compile(r"[^\w@.+-]+|^[.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignedFile:
    """An approval as it was found.

    Attributes:
        name: the name of the statement's file.
        modified_s: when that was written, as Unix time.
        statement, signature: what the files contain.
        fault: why they can't be read; empty if they can.
    """

    name: str
    modified_s: float
    statement: bytes = b""
    signature: bytes = b""
    fault: str = ""


def folder_of(job: Job) -> Path:
    """The folder in which the approvals of a job are kept; a link to a job file is the file itself.

    Raises:
        ApprovalError: there is no place for it, or the targets can't be approved.
    """
    file = locate(job.file) if job.file else None
    if file is None:
        raise ApprovalError(
            "A job that is not in a file of its own can't be approved: approvals are kept beside"
            " it.",
            "Write the job into a file.",
        )
    if job.targets is None:
        raise ApprovalError(
            "Targets from standard input can't be approved: nobody can read them again.",
            "Write them into a file, and name it in the job or with --targets.",
        )
    return file.with_name(f"{file.stem}.approvals")


def read_all(folder: Path) -> list[SignedFile]:
    """Read all approvals in a folder, the newest first.

    Raises:
        ApprovalError: the folder can't be read.
    """
    try:
        names = set(os.listdir(folder))  # noqa: PTH208 - only the names
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ApprovalError(
            f"The approvals in {folder} can't be read: {error.strerror or error}",
            "Make the folder readable for this user.",
        ) from error
    statements = [
        name
        for name in names
        if not name.startswith(".") and (name.endswith(_STATEMENT) or (name + _SIGNATURE in names))
    ]
    found = [_read(folder, name) for name in statements]
    return sorted(found, key=lambda file: (-file.modified_s, file.name))


def keep(folder: Path, name: str, statement: bytes, signature: bytes) -> Path:
    """Add an approval; the statement appears last, so that no approval is seen without signature.

    Args:
        folder: where; created if it does not exist.
        name: the beginning of the file's name.
        statement, signature: what is kept.

    Returns:
        The file of the statement.

    Raises:
        ApprovalError: it can't be written.
    """
    # every approval has a name of its own: several people may approve at the same moment
    unique = f"{_NAME.sub('_', name)[:100]}-{secrets.token_hex(4)}{_STATEMENT}"
    path = folder / unique
    try:
        folder.mkdir(exist_ok=True)
        durable.sync_names(folder.parent)
        # others must be able to read it: no secret is in it
        for file, content in ((f"{unique}{_SIGNATURE}", signature), (unique, statement)):
            with durable.replacing(folder / file, 0o644) as output:
                output.write(content)
    except OSError as error:
        raise ApprovalError(
            f"The approval can't be kept in {folder}: {error.strerror or error}",
            "Make the folder writable for this user, and approve again.",
        ) from error
    return path


def keep_fingerprints(folder: Path, plan: str, content: bytes) -> None:
    """Keep what says how many targets have changed since; without it, only that is not said.

    Args:
        folder: where; it exists.
        plan: the hash of the plan.
        content: the fingerprints of its operations.
    """
    with contextlib.suppress(OSError), durable.replacing(_fingerprints(folder, plan), 0o644) as f:
        f.write(content)


def fingerprints(folder: Path, plan: str) -> bytes | None:
    """The fingerprints of the operations of a plan that somebody has approved; None if unknown."""
    try:
        return _fingerprints(folder, plan).read_bytes()
    except OSError:
        return None


def _fingerprints(folder: Path, plan: str) -> Path:
    return folder / f"{plan[:16]}.targets"


def _read(folder: Path, name: str) -> SignedFile:
    modified_s = 0.0
    try:
        modified_s, statement = _content(folder / name)
        _, signature = _content(folder / (name + _SIGNATURE))
    except FileNotFoundError:
        return SignedFile(name, modified_s, fault="has no signature beside it")
    except OSError as error:
        reason = error.strerror or str(error)
        if (folder / name).is_symlink() or (folder / (name + _SIGNATURE)).is_symlink():
            reason = "it is a symbolic link, which is not followed"
        return SignedFile(name, modified_s, fault=f"can't be read: {reason}")
    return SignedFile(name, modified_s, statement, signature)


def _content(path: Path) -> tuple[float, bytes]:
    """When a regular file was modified, and what it contains.

    Raises:
        OSError: it is something else, or can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, because of the flags
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is not a file")
        if status.st_size > _MOST_BYTES:
            raise OSError(0, "it is too long for an approval")
        return status.st_mtime, file.read(_MOST_BYTES)
