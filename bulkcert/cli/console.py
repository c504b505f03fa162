"""The standard streams: messages for people on standard error, text and data on standard output.

A run must not end because its log is on a full disk, because the reader of its output went away, or
because a name does not fit the character set of the terminal. So no function that writes a message
raises when standard error cannot be written. Nothing that a provider, a certificate or a file name
contains may act on the terminal: see `bulkcert.values.printable`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bulkcert.errors import OutputError
from bulkcert.values import printable


def prepare() -> None:
    """Make the standard streams usable, whatever they are when the process starts.

    A stream that was closed is replaced: otherwise the next file to be opened would get its
    descriptor, and messages would be written into that file. Characters that a stream can't encode
    are written as escapes, and input that it can't decode is replaced.
    """
    for name, errors in (
        ("stdin", "replace"),
        ("stdout", "backslashreplace"),
        ("stderr", "backslashreplace"),
    ):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            devnull = Path(os.devnull).open("w")  # noqa: SIM115 - stays open until the process ends
            setattr(sys, name, devnull)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def write(line: str) -> None:
    """Write one line to standard error."""
    write_text(printable(line))


def write_text(text: str) -> None:
    """Write one or more lines to standard error."""
    with ignoring_write_errors():
        sys.stderr.write(_printable_lines(text))
        sys.stderr.flush()


def print_text(text: str) -> None:
    """Write one or more lines for people to standard output.

    Raises:
        OutputError: they can't be written.
    """
    with reporting_output_errors():
        sys.stdout.write(_printable_lines(text))
        sys.stdout.flush()


def print_data(chunks: Iterable[bytes]) -> None:
    """Write data to standard output, as it is.

    Raises:
        OutputError: it can't be written.
    """
    with reporting_output_errors():
        sys.stdout.buffer.writelines(chunks)
        sys.stdout.buffer.flush()


@contextmanager
def ignoring_write_errors() -> Iterator[None]:
    """Continue when standard error cannot be written; discard all further output to it."""
    try:
        yield
    except OSError:
        discard("stderr")


@contextmanager
def reporting_output_errors() -> Iterator[None]:
    """Turn an error of standard output into an `OutputError`.

    A reader that has seen enough (`| head`) is not an error; the command ends quietly.
    """
    try:
        yield
    except BrokenPipeError:
        discard("stdout")
        raise click.exceptions.Exit(1) from None
    except OSError as error:
        discard("stdout")
        raise OutputError(
            f"Standard output can't be written: {error.strerror or error}",
            "Free some space there, or send the output somewhere else.",
        ) from error


def discard(name: str) -> None:
    """Discard what a stream still has, and all further output to it.

    Otherwise writing it would fail again when the process ends, and change its exit code.
    """
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, getattr(sys, name).fileno())
        os.close(devnull)


def _printable_lines(text: str) -> str:
    return "".join(f"{printable(line)}\n" for line in text.split("\n"))
