"""The outside commands of a job: that of its check, and that of its notifications.

In: a job. Out: a command that runs in the job's folder, without the credentials; or what is wrong
with one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from bulkcert.credentials import secret_values, without_credentials
from bulkcert.errors import JobError
from bulkcert.job import Job
from bulkcert.outside_command import OutsideCommand, unusable
from bulkcert.timings import Timings


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
