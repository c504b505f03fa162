"""Talking to the operator on standard error, whether anybody listens or not.

A run must not end because its log is on the full disk, or because whoever read along went away.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


def open_missing_streams() -> None:
    """Give a process that was started with closed streams some that lead nowhere.

    Otherwise the next file that is opened would take their descriptor, and what is meant for people
    would be written into it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
            setattr(sys, name, nowhere)


def tell(text: str) -> None:
    """Write a line to standard error."""
    with unheard():
        click.echo(text, err=True)


@contextmanager
def unheard() -> Iterator[None]:
    """Go on when standard error can't be written; nothing is written to it from then on."""
    try:
        yield
    except OSError:
        # what is in its buffer would fail again when the process ends, and spoil the exit code
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)
