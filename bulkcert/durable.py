"""Files and directories that survive a power loss.

In: paths and content. Out: files that are complete and synced when the call returns.
A file's content is durable once the file has been synced, and its name once its directory has; see
fsync(2). Must never leave a partly written file under its final name, nor write through a link that
somebody put in its place.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PREFIX, _SUFFIX = ".bulkcert-", ".partial"


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


def new_partial(folder: Path) -> Path:
    """A name for a file that is not complete yet; nobody can have put anything under it."""
    return folder / f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}"


def is_partial(name: str) -> bool:
    """Whether a file of this name was never completed, once its writer has ended."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left behind."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if is_partial(path.name):
                path.unlink(missing_ok=True)


def create(path: Path, mode: int = 0o600) -> int:
    """Create a file that does not exist yet, and return a descriptor for writing.

    Args:
        path: the file; a link in its place is an error.
        mode: the permissions of the file, before the umask of the process.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)


@contextmanager
def replacing(
    path: Path, mode: int | None = None, *, sync_name: bool = True
) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` once it is completely written and durable.

    A link at `path` is replaced too, not followed.

    Args:
        path: the file to replace; unchanged when the block raises an error.
        mode: the permissions of the new file, before the umask of the process; by default those of
            the file that it replaces, or fewer if that belongs to another user.
        sync_name: make the name of the file durable too; else whoever calls this does.
    """
    replaced = _regular_file(path) if mode is None else None
    permissions = replaced.st_mode & 0o777 if replaced else mode or 0o666
    partial = new_partial(path.parent)
    descriptor = create(partial, permissions)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, because of the mode
            # another user may have put a file there that everybody can write
            if replaced and replaced.st_uid == os.geteuid():
                with contextlib.suppress(PermissionError):  # some file systems have no permissions
                    os.fchmod(descriptor, permissions)
            yield file
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
        if sync_name:
            sync_names(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file (mode 0600) atomically: afterwards it is complete, or unchanged."""
    with replacing(path, 0o600) as file:
        file.write(content)


class NameSync:
    """Makes the names in a folder durable, for several threads together.

    Syncing a folder takes about as long as syncing a file, and covers all names that are in it by
    then. So a thread that waits for its turn often finds that its names were synced in between.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._begun = self._done = 0  # how many syncs

    def sync(self) -> None:
        """Make the names durable that are in the folder now."""
        enough = self._begun + 1
        with self._lock:
            if self._done >= enough:
                return
            self._begun += 1
            sync_names(self._folder)
            self._done = self._begun


def place(path: Path, content: bytes) -> None:
    """Write a file as `write` does, except that its name is not durable yet."""
    with replacing(path, 0o600, sync_name=False) as file:
        file.write(content)


def add_name(path: Path, name: str) -> Path:
    """Give a durable file another name in its folder, and return the path with that name.

    Where the file can't have one more (hard link), the new name is that of a copy. The name itself
    is not durable yet.
    """
    named = path.with_name(name)
    try:
        named.hardlink_to(path)
    except OSError:
        if not (named.exists() and named.samefile(path)):
            place(named, path.read_bytes())
    return named


def _regular_file(path: Path) -> os.stat_result | None:
    """The status of a file; None if it does not exist, or is something else, such as a link."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
