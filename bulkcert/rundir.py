"""The run directory: one run of one job, used by one process at a time.

Out of a job and a directory comes a checkpoint that holds all operations, made now or found there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from bulkcert import plan as planning
from bulkcert import report
from bulkcert.errors import RunDirectoryError
from bulkcert.job import Job
from bulkcert.store.sqlite import SqliteReader, SqliteStore
from bulkcert.targets import TargetFile, digest
from bulkcert.timings import Timings


class RunDirectory:
    """A run directory; entering it takes its lock.

    Args:
        path: the directory; made, with mode 0700, when entered.
        timings: how long to wait for the lock.
    """

    def __init__(self, path: Path, timings: Timings = Timings()) -> None:
        self._timings = timings
        self.path = path
        self.checkpoint = path / "checkpoint.sqlite3"
        self.rejected = path / "rejected.csv"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        planning.make_run_directory(self.path)
        self._lock = self._taken()
        if self._lock is None:
            raise RunDirectoryError(
                f"{self.path} is in use by another process.",
                "Wait for it, or stop it; `bulkcert status` shows how far it is.",
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

    def _taken(self) -> int | None:
        """Take the lock; None if another process has it for longer than `is_locked` does."""
        give_up_at = time.monotonic() + self._timings.lock_patience_s
        while (lock := _lock(self.path, fcntl.LOCK_EX)) is None and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return lock

    def prepare(
        self,
        job: Job,
        *,
        rehearsal: bool = False,
        retry_failed: bool = False,
        stdin: BinaryIO | None = None,
    ) -> planning.Plan | None:
        """Make sure that there is a checkpoint for this job.

        Args:
            job: what to do.
            rehearsal: marks a new checkpoint as one that no real run may continue. A rehearsal that
                is over, was of another job, or takes its targets from standard input, is thrown
                away and begun anew.
            retry_failed: take up again what has failed or is unknown.
            stdin: where targets come from when the job says "-".

        Returns:
            The plan, or None when the checkpoint was there.

        Raises:
            TargetsError: the target file is bad.
            RunDirectoryError: the checkpoint belongs to another job.
        """
        if self.checkpoint.exists() and not (rehearsal and self._is_of_no_use(job)):
            if differences := self._differences(job, rehearsal=rehearsal, stdin=stdin):
                raise _another_job(self.path, differences)
            if retry_failed:
                self._retry_failed()
            return None
        self._remove_checkpoint()
        targets = TargetFile(job.targets, job.action, job.parameters, job.columns, stdin)
        return planning.build(job, targets, self.checkpoint, self.rejected, rehearsal=rehearsal)

    def reader(self) -> SqliteReader:
        """Open the checkpoint for reading.

        Raises:
            RunDirectoryError: there is none.
        """
        return open_reader(self.path)

    def report(self) -> dict[str, Any]:
        """Write the reports; return the summary."""
        with contextlib.closing(self.reader()) as reader:
            return report.write(reader, self.path)

    def _differences(
        self, job: Job, *, rehearsal: bool, stdin: BinaryIO | None = None
    ) -> list[str]:
        """What is different from the run in here, one phrase each."""
        with contextlib.closing(self.reader()) as reader:
            stored = reader.meta()
        differences = planning.changes(job, stored, rehearsal=rehearsal)
        if not differences and digest(job.targets, stdin) != stored["sha256"]:
            differences = ["the content of the target file has changed"]
        return differences

    def _is_of_no_use(self, job: Job) -> bool:
        """Tell whether there is an earlier rehearsal with nothing to go on with."""
        # standard input can be read only once: for comparing or for planning
        return self._is_rehearsal() and (
            job.targets is None or self._is_over() or bool(self._differences(job, rehearsal=True))
        )

    def _is_over(self) -> bool:
        with contextlib.closing(self.reader()) as reader:
            return report.exit_code(reader.counts()) != report.RESUMABLE

    def _is_rehearsal(self) -> bool:
        with contextlib.closing(self.reader()) as reader:
            return bool(reader.meta()["what"]["rehearsal"])

    def _remove_checkpoint(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.checkpoint.with_name(self.checkpoint.name + suffix).unlink(missing_ok=True)

    def _retry_failed(self) -> None:
        checkpoint = SqliteStore(self.checkpoint)
        with contextlib.closing(checkpoint), checkpoint.transaction():
            checkpoint.retry_failed()


def open_reader(run_dir: Path) -> SqliteReader:
    """Open the checkpoint of a run directory for reading, beside a run or after it.

    Raises:
        RunDirectoryError: there is none, or it can't be read.
    """
    checkpoint = RunDirectory(run_dir).checkpoint
    if not checkpoint.exists():
        raise RunDirectoryError(
            f"{run_dir} holds no run: there is no {checkpoint.name} in it.",
            "Name the run directory of a run that was started, by default runs/NAME.",
        )
    return SqliteReader(checkpoint)


def is_locked(run_dir: Path) -> bool:
    """Tell whether a process is at work in a run directory."""
    lock = _lock(run_dir, fcntl.LOCK_SH)  # which many can have: those who only look
    if lock is not None:
        os.close(lock)
    return lock is None


def _lock(run_dir: Path, kind: int) -> int | None:
    """Take a lock, which goes with its process however that ends; None if it can't be had."""
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _another_job(path: Path, differences: list[str]) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} holds a run of another job: {'; '.join(differences)}.",
        "Undo the change to go on with that run, or name another --run-dir to start a new one.",
    )
