"""The run directory: its files, and the lock that lets one process at a time work in it.

In: a path. Out: the paths in it, its checkpoint for reading, its reports. It knows nothing of jobs,
and never writes to a directory that is neither empty nor a run directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bulkcert import durable
from bulkcert.errors import RunDirectoryError, StoreError
from bulkcert.report.results import certificates_csv, results_jsonl
from bulkcert.report.summary import Summary, summarize
from bulkcert.store.base import StoreReader
from bulkcert.store.sqlite import SqliteReader
from bulkcert.timings import Timings

_CHECKPOINT, _REJECTED = "checkpoint.sqlite3", "rejected.csv"
_RESULTS, _SUMMARY = "results.jsonl", "summary.json"


class RunDirectory:
    """A directory that contains one run. Entering it creates it if needed and takes its lock.

    Args:
        path: the directory.
        timings: how long to wait for the lock.

    Attributes:
        path: the directory.
        checkpoint: the file with the state of every operation.
        rejected: the file with the bad and repeated rows of the target file.
    """

    def __init__(self, path: Path, timings: Timings = Timings()) -> None:
        self.path = path
        self.checkpoint = path / _CHECKPOINT
        self.rejected = path / _REJECTED
        self._lock_patience_s = timings.lock_patience_s
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.create()
        self._lock = self._wait_for_lock()
        if self._lock is None:
            raise RunDirectoryError(
                f"{self.path} is in use by another process.",
                "Wait for it to finish, or stop it. `bulkcert status` shows its progress.",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def create(self) -> None:
        """Create the directory if it does not exist, and let only its owner see it (mode 0700).

        Raises:
            RunDirectoryError: it can't be created, or it contains files but no run.
        """
        try:
            durable.make_directory(self.path)
            names = [entry.name for entry in self.path.iterdir()]
            marks = (_CHECKPOINT, _REJECTED, _RESULTS, _SUMMARY)
            if names and not any(name.startswith(marks) for name in names):
                raise RunDirectoryError(
                    f"{self.path} is not a run directory: it contains {names[0]}.",
                    "Name a new or an empty directory with --run-dir.",
                )
            self.path.chmod(0o700)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory {self.path} can't be used: {error.strerror or error}",
                "Name another one with --run-dir.",
            ) from error

    def reader(self) -> SqliteReader:
        """Open the checkpoint for reading, during a run or after it.

        Raises:
            RunDirectoryError: there is none, or it can't be read.
        """
        if not self.checkpoint.exists():
            raise RunDirectoryError(
                f"{self.path} does not contain a run: there is no {_CHECKPOINT}.",
                "Name the run directory of a run that was started, by default runs/NAME.",
            )
        return SqliteReader(self.checkpoint)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            self.checkpoint.with_name(self.checkpoint.name + suffix).unlink(missing_ok=True)

    def write_reports(self) -> Summary:
        """Write the reports from the checkpoint, and return the summary.

        Raises:
            StoreError: they can't be written, or the checkpoint can't be read.
        """
        try:
            with contextlib.closing(self.reader()) as reader:
                return write_reports(reader, self.path)
        except (OSError, sqlite3.Error, RunDirectoryError) as error:
            raise StoreError(
                f"The reports can't be written: {error}",
                "The checkpoint is safe. Free some space, then run the same command again.",
            ) from error

    def _wait_for_lock(self) -> int | None:
        """Take the lock; None if another process keeps it for longer than `is_locked` does."""
        give_up_at = time.monotonic() + self._lock_patience_s
        while (lock := _lock(self.path, fcntl.LOCK_EX)) is None and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return lock


def open_reader(run_dir: Path) -> SqliteReader:
    """Open the checkpoint of a run directory for reading, during a run or after it.

    Raises:
        RunDirectoryError: there is none, or it can't be read.
    """
    return RunDirectory(run_dir).reader()


def is_locked(run_dir: Path) -> bool:
    """Whether a process is working in a run directory."""
    lock = _lock(run_dir, fcntl.LOCK_SH)  # shared: several processes may look at the same time
    if lock is not None:
        os.close(lock)
    return lock is None


def write_reports(reader: StoreReader, folder: Path) -> Summary:
    """Write `results.jsonl` and `summary.json`, each all or nothing, and return the summary.

    If there is a `certificates` directory, write `manifest.csv` into it.
    """
    with durable.replacing(folder / _RESULTS) as file:
        file.writelines(results_jsonl(reader.records()))
    certificates = folder / "certificates"
    if certificates.is_dir():
        with durable.replacing(certificates / "manifest.csv") as file:
            file.writelines(certificates_csv(reader.records()))
    summary = summarize(reader)
    with durable.replacing(folder / _SUMMARY) as file:
        file.write(summary.as_json())
    return summary


def _lock(run_dir: Path, kind: int) -> int | None:
    """Take a lock, which ends with the process however that ends; None if it is taken."""
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
