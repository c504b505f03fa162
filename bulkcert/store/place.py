"""Where a run is stored: a checkpoint in its run directory, or a database that several hosts share.

Out: the store of one run, for reading and for writing. Whoever works on a run, steers it or reports
on it goes through here and does not know which of the two it is. The client library of the database
is imported when a shared store is used, and not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bulkcert import folder_lock
from bulkcert.errors import PlatformError, RunDirectoryError
from bulkcert.store.base import Store, StoreReader
from bulkcert.store.runs import StoredRun
from bulkcert.store.sqlite import SqliteReader, SqliteStore
from bulkcert.timings import HostTimings

if TYPE_CHECKING:
    from types import ModuleType

    from bulkcert.store.postgresql import PostgresStore


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


@dataclass(frozen=True, slots=True)
class SharedPlace:
    """A run in a shared store.

    Attributes:
        url: the shared store, without a password.
        run: the name of the run.
        number: the number of the run, if only that one is meant; a new plan gets another.
    """

    url: str
    run: str
    number: int | None = field(default=None, compare=False)
    is_shared: ClassVar[bool] = True

    def exists(self) -> bool:
        """Whether the shared store has this run."""
        return bool(_postgresql().run_exists(self.url, self.run))

    def is_worked_on(self) -> bool:
        """Whether a host has a lease for this run, and has used it lately."""
        return bool(_postgresql().run_is_worked_on(self.url, self.run))

    def reader(self) -> StoreReader:
        """Open the run for reading."""
        reader: StoreReader = self._if_meant(_postgresql().PostgresReader(self.url, self.run))
        return reader

    def open(self, now: Callable[[], float] = time.time) -> Store:
        """Open the run for writing. The clock of the database counts."""
        store: Store = self._if_meant(_postgresql().PostgresStore(self.url, self.run))
        return store

    def open_for(self, timings: HostTimings, elapsed_s: Callable[[], float]) -> PostgresStore:
        """Open the run for a host that works on it.

        Args:
            timings: the times that hosts agree on.
            elapsed_s: the clock by which its lease ends.
        """
        store: PostgresStore = self._if_meant(
            _postgresql().PostgresStore(
                *(self.url, self.run),
                timings=timings,
                elapsed_s=elapsed_s,
                answer_s=timings.answer_s,  # nobody waits for ever while a lease runs out
            )
        )
        return store

    def pinned(self) -> SharedPlace:
        """The same, with the number of the run that has the name now."""
        with contextlib.closing(_postgresql().PostgresReader(self.url, self.run)) as reader:
            return dataclasses.replace(self, number=reader.number)

    def _if_meant(self, opened: Any) -> Any:
        """What was opened, if it is the run that is meant."""
        if self.number not in (None, opened.number):
            opened.close()
            raise RunDirectoryError(
                f"The run {self.run!r} was planned anew by another host.",
                "Run the same command again, to see the new plan.",
            )
        return opened

    def publish(self, checkpoint: Path, files: Mapping[str, bytes] = {}) -> bool:
        """Publish a plan, unless another host has published the same one.

        Args:
            checkpoint: the plan.
            files: the files of the job, for hosts that have none of them.

        Returns:
            Whether it is this plan that was published.

        Raises:
            RunDirectoryError: the shared store can't be used, or has another plan under this name.
        """
        return bool(_postgresql().publish(checkpoint, self.url, self.run, files))

    def keep_files(self, files: Mapping[str, bytes]) -> None:
        """Replace the files of the job, after a change of its rules."""
        _postgresql().keep_files(self.url, self.run, files)

    def files(self) -> dict[str, bytes]:
        """The files of the job, by name; none if it can't be given away.

        Raises:
            RunDirectoryError: the shared store can't be read, or has no such run.
        """
        return dict(_postgresql().read_files(self.url, self.run))

    def remove(self) -> None:
        """Remove the run from its name, with its operations, if it is pinned.

        Otherwise it may be one that another host has just planned.
        """
        if self.number is not None:
            _postgresql().discard(self.url, self.run, self.number)

    def describe(self) -> str:
        """The name of the run, and the shared store."""
        return f"{self.run} in {self.url}"


def shared_runs(url: str) -> list[StoredRun]:
    """The runs in a shared store, in the order in which they were planned.

    Raises:
        RunDirectoryError: it can't be read.
    """
    return list(_postgresql().read_runs(url))


def require_psycopg() -> None:
    """Check that the client library of a shared store is installed.

    Raises:
        PlatformError: it is not.
    """
    try:
        import psycopg  # noqa: F401 - only whether it can be imported
    except ImportError as error:
        raise PlatformError(
            "A shared store needs psycopg, which is not installed.",
            "Install it with `pip install 'bulkcert[postgresql]'`.",
        ) from error


def _postgresql() -> ModuleType:
    """The shared store's implementation.

    Raises:
        PlatformError: its client library is not installed.
    """
    require_psycopg()
    from bulkcert.store import postgresql

    return postgresql
