"""The outside commands of a job: that of its check, and that of its notifications.

In: a job. Out: a command that runs in the job's folder, without the credentials; or what is wrong
with one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bulkcert.credentials import secret_values, without_credentials
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.timings import Timings
from bulkcert.values import printable

if TYPE_CHECKING:
    from bulkcert.outside_command import OutsideCommand

_LOOKED_AT = 4096
"""Bytes at the beginning of a program."""


def outside_command(
    job: Job,
    words: Sequence[str],
    credentials: Mapping[str, str],
    timings: Timings = Timings(),
) -> OutsideCommand:
    """Return a command of a job.

    Args:
        job: the job.
        words: the program and its arguments.
        credentials: by the names of their environment variables; what they contain is not shown,
            should the command print it.
        timings: how long to wait, and for what.
    """
    from bulkcert.outside_command import OutsideCommand  # brings asyncio, and a plan runs none

    return OutsideCommand(
        words,
        job.folder,
        without_credentials(os.environ, job.provider, job.passwords),
        secret_values(credentials, job.provider, job.passwords),
        timings.commands,
    )


def require_commands(job: Job) -> None:
    """Check that the commands of a job can be executed, as far as it has any.

    Raises:
        JobError: one can't be.
    """
    for name, section in (("check", job.rules.check), ("notify", job.notify)):
        if section is not None and (reason := unusable(section.command, job.folder)):
            raise JobError(
                f"{job.at(f'{name}.command')} {reason}",
                "Correct the job file or the program that it names; `bulkcert plan` checks both.",
            )


def unusable(words: Sequence[str], folder: Path) -> str:
    """Say why a command can't be executed; empty if it looks as if it could.

    Args:
        words: the program and its arguments.
        folder: where it will run.

    Returns:
        A reason that completes the sentence "check.command ...".
    """
    program = words[0]
    if "/" not in program:
        if shutil.which(program):
            return ""
        here = (
            f'; write "./{program}" for the one in {folder}' if (folder / program).exists() else ""
        )
        return printable(f"can't be executed: {program} is not on PATH{here}")
    path = folder / program
    shown = printable(str(path))
    if path.is_dir():
        return f"can't be executed: {shown} is a folder"
    if not path.exists():
        return f"can't be executed: {shown} does not exist"
    if not os.access(path, os.X_OK):
        return f"can't be executed: {shown} is not executable; `chmod +x` makes it so"
    return _unusable_script(path, shown)


def _unusable_script(path: Path, shown: str) -> str:
    """Why a script can't be executed; empty if it can be, or if it is not a script."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_LOOKED_AT)
    except OSError:
        return ""  # what may be executed need not be readable
    if not beginning.startswith(b"#!"):
        if b"\0" in beginning:
            return ""  # a program
        return f"can't be executed: {shown} does not begin with a line such as #!/bin/sh"
    line = beginning.splitlines(keepends=True)[0]
    if line.endswith(b"\r\n"):
        return f"can't be executed: the lines of {shown} end as on Windows, with CR and LF"
    interpreter = os.fsdecode((line[2:].split() or [b""])[0])
    if not os.access(interpreter, os.X_OK):
        named = printable(interpreter) or "nothing"
        return f"can't be executed: {shown} is to be run by {named}, which does not exist"
    return ""
