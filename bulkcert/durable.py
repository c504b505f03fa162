"""Files and directories that are still there after the power has gone.

A file's content is durable when the file was synced, its name when its directory was; see fsync(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync(path: Path) -> None:
    """Make durable what a file, or the list of names in a directory, holds now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(directory: Path) -> None:
    """Make durable which files are in a directory, as far as its reader may."""
    with contextlib.suppress(PermissionError):  # to sync it takes the right to read it
        sync(directory)


def make_directory(path: Path) -> None:
    """Make sure that there is a directory; a new one is for its owner's eyes only (mode 0700).

    One that is there already is synced as well: who made it may have been killed before.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in [path, *missing]:
        sync_names(folder.parent)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` once all of it is written and durable.

    Args:
        path: what to replace; stays as it is when the block ends with an error.
        mode: the permissions of the new file, before the process's mask.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            yield file
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
        sync_names(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file (mode 0600) that is there as a whole or not at all, whatever happens."""
    with replacing(path, 0o600) as file:
        file.write(content)
