"""Reports an exception that nobody foresaw: a fault of this program.

In: the exception. Out: one line on standard error, and a file with the traceback. Neither may
contain a credential.
"""

from __future__ import annotations

import os
import re
import tempfile
import traceback

from bulkcert.cli import console
from bulkcert.cli.messages import Level
from bulkcert.errors import BulkcertError

LONGEST = 300
"""Characters of the one line."""

_SECRET_NAME = re.compile("KEY|SECRET|TOKEN|PASSWORD")
_SHORTEST_SECRET = 4


def report(error: Exception) -> None:
    """Say what has happened, and where the details are."""
    failure = as_error(error)
    console.write(failure.problem, Level.ERROR, after=failure.next_step)


def as_error(error: Exception) -> BulkcertError:
    """Keep the details in a file, and return what to say about it."""
    path = keep_details(error)
    return BulkcertError(
        f"bulkcert itself has failed: {short(error)}",
        f"The details are in {path}. Please report them." if path else "",
    )


def short(error: Exception) -> str:
    """The exception in one line."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    text = _masked(f"{type(cause).__name__}: {cause}")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def keep_details(error: Exception) -> str:
    """Write the traceback to a new file in the folder for temporary files.

    Returns:
        The file; empty if it can't be written.
    """
    text = _masked("".join(traceback.format_exception(error)))
    try:
        descriptor, path = tempfile.mkstemp(prefix="bulkcert-fault-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return ""
    return path


def _masked(text: str) -> str:
    """Replace the values of all environment variables that may hold a credential."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text
