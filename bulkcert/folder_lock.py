"""A lock on a folder, for one process at a time; it ends with the process, however that ends.

In: a folder. Out: the lock, or that somebody else has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

FILE = "lock"
"""The file in the folder with the lock, where the folder itself can't be locked."""


def take(folder: Path) -> int | None:
    """Take the lock of a folder, which ends with the process however that ends.

    It is on the directory itself, so that nobody can delete it. NFS locks only what is open for
    writing, which a directory never is; there the lock is on a file in it.

    Returns:
        The descriptor that has the lock; None if another one has it.

    Raises:
        OSError: there can be no lock.
    """
    with contextlib.suppress(OSError):
        return _flock(os.open(folder, os.O_RDONLY))
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    return _flock(os.open(folder / FILE, flags, 0o600))


def _flock(descriptor: int, kind: int = fcntl.LOCK_EX) -> int | None:
    """Lock a descriptor; close it and return None if another one is locked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_taken(folder: Path) -> bool:
    """Whether a process has the lock of a folder."""
    return any(_is_taken(path) for path in (folder, folder / FILE))


def _is_taken(path: Path) -> bool:
    """Whether a process has locked a file or a directory. What can't be locked is not taken."""
    try:
        # shared: several processes may look at the same time
        lock = _flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)
    except OSError:
        return False
    if lock is not None:
        os.close(lock)
    return lock is None
