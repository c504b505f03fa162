"""Where a command writes its data: standard output, or a file that `-o` names.

In: chunks of bytes. Out: a file that is complete or not there. Must never write through a link that
another user has put there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from bulkcert import durable
from bulkcert.cli import console, streams
from bulkcert.errors import OutputError

_MOST_LINKS = 40
"""Links that are followed before they count as a loop, as in the kernel."""


def write_output(chunks: Iterable[bytes], output: Path | None) -> None:
    """Write data.

    Args:
        chunks: the data.
        output: the file; None or "-" for standard output.

    Raises:
        OutputError: it can't be written.
    """
    if output is None or str(output) == "-":
        console.print_data(chunks)
        return
    try:
        output = _followed(output)
        # a device, a pipe or an open file (/dev/stdout) can't be replaced
        in_place = (output.exists() and not output.is_file()) or _is_open_file(output)
        with output.open("wb") if in_place else durable.replacing(output) as file:
            file.writelines(chunks)
    except BrokenPipeError:  # as on standard output: whoever reads the pipe has seen enough
        raise click.exceptions.Exit(streams.READER_IS_GONE) from None
    except OSError as error:
        raise OutputError(
            f"{output} can't be written: {error.strerror or error}",
            "Check that its folder exists and has space, or name another file with -o.",
        ) from error


def _followed(path: Path) -> Path:
    """Follow symbolic links of this user, as every program does, but not those of others."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink() or _is_open_file(path):
            return path
        if path.lstat().st_uid not in {os.geteuid(), 0}:
            raise OutputError(
                f"{path} is a symbolic link that belongs to another user.",
                "Remove it, or name another file with -o.",
            )
        path = path.parent / path.readlink()
    raise OutputError(f"{path} is a symbolic link to itself.", "Name another file with -o.")


def _is_open_file(path: Path) -> bool:
    """Whether a path stands for a file that this process has open, such as /dev/fd/1."""
    return path.parent.resolve().is_relative_to("/proc")
