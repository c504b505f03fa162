"""Writes messages for people to standard error.

A run must not end because its log is on a full disk, or because the reader of its output went away.
So no function in here raises when standard error cannot be written.
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
    """Replace standard streams that were closed when the process started.

    Otherwise the next file to be opened would get their descriptor, and messages would be written
    into that file.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            devnull = Path(os.devnull).open("w")  # noqa: SIM115 - stays open until the process ends
            setattr(sys, name, devnull)


def write(text: str) -> None:
    """Write a line to standard error."""
    with ignoring_write_errors():
        click.echo(text, err=True)


@contextmanager
def ignoring_write_errors() -> Iterator[None]:
    """Continue when standard error cannot be written; discard all further output to it."""
    try:
        yield
    except OSError:
        # the buffered text would fail again when the process ends, and change its exit code
        with contextlib.suppress(OSError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stderr.fileno())
            os.close(devnull)
