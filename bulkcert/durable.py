"""Files and directories that survive a power loss.

In: paths and content. Out: files that are complete and synced when the call returns.
A file's content is durable once the file has been synced, and its name once its directory has; see
fsync(2). Must never leave a partly written file under its final name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync(path: Path) -> None:
    """Make the current content of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(directory: Path) -> None:
    """Make the names in a directory durable, if this process has permission to."""
    with contextlib.suppress(PermissionError):  # syncing a directory requires permission to read it
        sync(directory)


def make_directory(path: Path) -> None:
    """Create a directory unless it exists; only its owner can use a new one (mode 0700).

    An existing one is synced too: the process that created it may have been killed before it could.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in [path, *missing]:
        sync_names(folder.parent)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is completely written and durable.

    Args:
        path: the file to replace; unchanged when the block raises an error.
        mode: the permissions of the new file, before the umask of the process.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, because of the mode
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
    """Write a file (mode 0600) atomically: afterwards it is complete, or unchanged."""
    with replacing(path, 0o600) as file:
        file.write(content)
