"""Where a run is stored: a checkpoint in its run directory, or a database that several hosts share.

Out: the store of one run, for reading and for writing. Whoever works on a run, steers it or reports
on it goes through here and does not know which of the two it is. The client library of the database
is imported when a shared store is used, and not before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from bulkcert import folder_lock
from bulkcert.errors import PlatformError
from bulkcert.store.base import Store, StoreReader
from bulkcert.store.sqlite import SqliteReader, SqliteStore
from bulkcert.timings import HostTimings

if TYPE_CHECKING:
    from types import ModuleType

    from bulkcert.store.postgresql import PostgresStore

T = TypeVar("T")


class Place(Protocol):
    """Where one run is stored."""

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may work on the run at the same time."""

    def exists(self) -> bool:
        """Whether there is a run.

        Raises:
            RunDirectoryError: that can't be found out.
        """

    def is_worked_on(self) -> bool:
        """Whether a process works on the run, as far as the store knows.

        Raises:
            RunDirectoryError: that can't be found out.
        """

    def reader(self) -> StoreReader:
        """Open the store for reading, during a run or after it.

        Raises:
            RunDirectoryError: it can't be read, or there is no run.
        """

    def open(self, now: Callable[[], float] = time.time) -> Store:
        """Open the store for writing.

        Args:
            now: returns Unix time in seconds, where the store has no clock of its own.

        Raises:
            RunDirectoryError, StoreError: it can't be opened, or there is no run.
        """

    def remove(self) -> None:
        """Remove the run, of which nothing was sent.

        Raises:
            RunDirectoryError: it can't be removed.
        """

    def describe(self) -> str:
        """What people call it."""


class LocalPlace:
    """A checkpoint, in which one process at a time works.

    Args:
        file: the checkpoint.
    """

    is_shared = False

    def __init__(self, file: Path) -> None:
        self._file = file

    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return self._file.exists()

    def is_worked_on(self) -> bool:
        """Whether a process has the lock of the folder with the checkpoint."""
        return folder_lock.is_taken(self._file.parent)

    def reader(self) -> StoreReader:
        """Open the checkpoint for reading."""
        return SqliteReader(self._file)

    def open(self, now: Callable[[], float] = time.time) -> Store:
        """Open the checkpoint for writing."""
        return SqliteStore(self._file, now)

    def remove(self) -> None:
        """Remove the checkpoint, with what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def describe(self) -> str:
        """The path of the checkpoint."""
        return str(self._file)


class SharedPlace:
    """A run in a shared store.

    Args:
        url: the shared store, without a password.
        run: the name of the run.
    """

    is_shared = True

    def __init__(self, url: str, run: str) -> None:
        self.url, self.run = url, run

    def exists(self) -> bool:
        """Whether the shared store has this run."""
        return bool(_postgresql().run_exists(self.url, self.run))

    def is_worked_on(self) -> bool:
        """Whether a host has a lease for this run, and has used it lately."""
        return bool(_postgresql().run_is_worked_on(self.url, self.run))

    def reader(self) -> StoreReader:
        """Open the run for reading."""
        reader: StoreReader = _postgresql().PostgresReader(self.url, self.run)
        return reader

    def open(self, now: Callable[[], float] = time.time) -> Store:
        """Open the run for writing. The clock of the database counts."""
        store: Store = _postgresql().PostgresStore(self.url, self.run)
        return store

    def open_for(self, timings: HostTimings, elapsed_s: Callable[[], float]) -> PostgresStore:
        """Open the run for a host that works on it.

        Args:
            timings: the times that hosts agree on.
            elapsed_s: the clock by which its lease ends.
        """
        store: PostgresStore = _postgresql().PostgresStore(
            self.url, self.run, timings=timings, elapsed_s=elapsed_s
        )
        return store

    def remove(self) -> None:
        """Remove the run from its name, with its operations."""
        _postgresql().discard(self.url, self.run)

    def describe(self) -> str:
        """The name of the run, and the shared store."""
        return f"{self.run} in {self.url}"


def _postgresql() -> ModuleType:
    """The shared store's implementation.

    Raises:
        PlatformError: its client library is not installed.
    """
    try:
        import psycopg  # noqa: F401 - only whether it can be imported
    except ImportError as error:
        raise PlatformError(
            "A shared store needs psycopg, which is not installed.",
            "Install it with `pip install 'bulkcert[postgresql]'`.",
        ) from error
    from bulkcert.store import postgresql

    return postgresql
