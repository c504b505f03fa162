"""The run directory: its files, and the lock that lets one process at a time work in it.

In: a path, and where its run is stored. Out: the paths in it, the store of the run, its reports. It
knows nothing of jobs, and never writes to a directory that is neither empty nor a run directory.
With a shared store it has only what can be made again, and what this host alone needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bulkcert import durable, folder_lock
from bulkcert.control import PAUSE_FILE
from bulkcert.errors import RunDirectoryError, StoreError
from bulkcert.event_file import catch_up
from bulkcert.key_files import has_first_names, remove_first_names
from bulkcert.model import State
from bulkcert.providers import installed_provider
from bulkcert.report.certificates import certificates_csv
from bulkcert.report.results import results_jsonl
from bulkcert.report.summary import Summary, summarize
from bulkcert.store.base import Record, Store, StoreReader
from bulkcert.store.manifest import RunManifest
from bulkcert.store.place import LocalPlace, Place, SharedPlace
from bulkcert.targets.records import headers_of, own_columns
from bulkcert.timings import Timings

_CHECKPOINT, _SHARED = "checkpoint.sqlite3", "shared-store.json"
_REJECTED, _REPEATED, _PROTECTED = "rejected.csv", "repeated.csv", "protected.csv"
_RESULTS, _SUMMARY, _VERIFICATION = "results.jsonl", "summary.json", "verify.jsonl"
_EVENTS, _METRICS, _GITIGNORE = "events.jsonl", "metrics.prom", ".gitignore"
_JOB_FILES = "job-files"

T = TypeVar("T")


class RunDirectory:
    """A directory that contains one run. Entering it creates it if needed and takes its lock.

    Args:
        path: the directory.
        timings: how long to wait for the lock.
        place: where the run is stored; by default in the shared store that the directory names, or
            else in the directory itself.

    Attributes:
        path: the directory.
        place: where the run is stored.
        checkpoint: the file with the state of every operation, unless that is in a shared store.
        shared: the file that names the shared store and the run there.
        rejected: the file with the bad rows of the target file.
        repeated: the file with the rows that repeat others.
        protected: the file with the rows that must not be touched.
        results, summary: the reports.
        verification: the file with what the last `verify` read back.
        events: the file with a copy of the event log.
        metrics: the file with the latest figures, for Prometheus.
        job_files: the folder with the files of the job, where they come from a shared store.
    """

    def __init__(
        self, path: Path, timings: Timings = Timings(), place: Place | None = None
    ) -> None:
        self.path = path
        self.checkpoint = path / _CHECKPOINT
        self.shared = path / _SHARED
        self._place = place
        self.rejected, self.repeated = path / _REJECTED, path / _REPEATED
        self.protected = path / _PROTECTED
        self.results, self.summary = path / _RESULTS, path / _SUMMARY
        self.verification, self.events = path / _VERIFICATION, path / _EVENTS
        self.metrics, self.job_files = path / _METRICS, path / _JOB_FILES
        self._lock_patience_s = timings.lock_patience_s
        self._lock: int | None = None

    @property
    def place(self) -> Place:
        """Where the run is stored.

        Raises:
            RunDirectoryError: what the directory says about that can't be read.
        """
        if self._place is None:
            self._place = self._shared_place() or LocalPlace(self.checkpoint)
        return self._place

    @property
    def which(self) -> str:
        """Which run this is, as people read it after the word "run"."""
        return self.place.describe() if self.place.is_shared else f"in {self.path}"

    def __fspath__(self) -> str:
        return str(self.path)

    def __enter__(self) -> Self:
        self.create()
        try:
            self._lock = self._wait_for_lock()
        except OSError as error:
            elsewhere = "Name a directory on another one with --run-dir."
            if contains_run(self.path):  # elsewhere, everything would be done again
                elsewhere = "Move the run directory to another one, and name its new place."
            raise RunDirectoryError(
                f"{self.path} can't be locked: {error.strerror or error}",
                "Its file system has no locks, without which two processes could work on the run at"
                f" the same time. {elsewhere}",
            ) from error
        if self._lock is None:
            raise RunDirectoryError(
                f"{self.path} is in use by another process.",
                "Wait for it to finish, or stop it. `bulkcert status` shows its progress.",
            )
        self._tidy()
        try:
            self._note_place()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create(self) -> None:
        """Create the directory if it does not exist, and let only its owner see it (mode 0700).

        Raises:
            RunDirectoryError: it can't be created, or it contains files but no run.
        """
        try:
            durable.make_directory(self.path)
            names = [entry.name for entry in self.path.iterdir()]
            # somebody may pause a run before it begins
            ours = (folder_lock.FILE, _GITIGNORE, PAUSE_FILE, _JOB_FILES)
            others = [n for n in names if n not in ours and not durable.is_partial(n)]
            lists = (_REJECTED, _REPEATED, _PROTECTED)
            stored = (_CHECKPOINT, _SHARED, _RESULTS, _SUMMARY, _VERIFICATION, _EVENTS, _METRICS)
            if others and not any(name.startswith((*stored, *lists)) for name in others):
                raise RunDirectoryError(
                    f"{self.path} is not a run directory: it contains {others[0]}.",
                    "Name a new or an empty directory with --run-dir.",
                )
            self.path.chmod(0o700)
            if _GITIGNORE not in names:
                # private keys beside a job file that is under version control
                with contextlib.suppress(OSError):  # a full disk stops the run where it matters
                    durable.write(self.path / _GITIGNORE, b"*\n")
        except OSError as error:
            # a run that has begun must not begin again elsewhere
            exists = os.path.isdir(self.path)  # noqa: PTH112 - never raises
            raise RunDirectoryError(
                f"The run directory {self.path} can't be {'used' if exists else 'created'}:"
                f" {error.strerror or error}",
                "Make it readable and writable for this user."
                if exists
                else "Name one where this user may write, with --run-dir DIR, and use the same one"
                " to continue the run.",
            ) from error

    def obstacle(self) -> str:
        """Say why the directory can't be created; empty if it can, or is there already."""
        parents = (self.path, *self.path.parents)
        nearest = next(path for path in parents if os.path.lexists(path))
        if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
            return ""
        return f"{nearest} can't be written"

    def _shared_place(self) -> SharedPlace | None:
        """The run in a shared store for which the directory was used; None if there is none."""
        try:
            entry = json.loads(self.shared.read_bytes())
            return SharedPlace(str(entry["store"]), str(entry["run"]))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # whoever needs more than that says what is missing
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunDirectoryError(
                f"{self.shared} can't be read: {getattr(error, 'strerror', None) or error}",
                'It has the URL of a shared store, and the name of a run: {"store": …, "run": …}.',
            ) from error

    def _note_place(self) -> None:
        """Let the directory name the shared store in which its run is.

        Raises:
            RunDirectoryError: the directory has another run, or can't be written.
        """
        before, place = self._shared_place(), self.place
        if not isinstance(place, SharedPlace) or before == place:
            return
        if before is not None and not self._is_same_run(before, place):
            raise RunDirectoryError(
                f"{self.path} was used for the run {before.describe()}, not for"
                f" {place.describe()}.",
                "Name another directory with --run-dir; or, if both are the same run, remove"
                f" {self.shared}.",
            )
        self._write_place(place)

    def _write_place(self, place: SharedPlace, run_id: str = "") -> None:
        try:
            entry = {"store": place.url, "run": place.run, "run_id": run_id}
            durable.write(self.shared, json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise RunDirectoryError(
                f"{self.shared} can't be written: {error.strerror or error}",
                "Free some space there, or name another directory with --run-dir.",
            ) from error

    def _is_same_run(self, before: SharedPlace, place: SharedPlace) -> bool:
        """Whether a run of the same name in another store is the same: the URL may have changed."""
        if before.run != place.run or not place.exists():
            return False
        run_id = json.loads(self.shared.read_bytes()).get("run_id")
        return bool(run_id) and run_id == self.manifest().run_id

    def pin(self) -> None:
        """From here on, only the run that is there now is meant: another host may plan it anew."""
        if isinstance(self.place, SharedPlace):
            self._place = self.place.pinned()
            if self._lock is not None:
                self._write_place(self._place, self.manifest().run_id)

    def contains_run(self) -> bool:
        """Whether there is a run, or at least its results."""
        return self.place.exists() if self.place.is_shared else contains_run(self.path)

    def has_results_alone(self) -> bool:
        """Whether only the reports of a run are here, and not its checkpoint."""
        return not self.place.is_shared and self.results.exists() and not self.place.exists()

    def is_worked_on(self) -> bool:
        """Whether a process works on the run.

        Raises:
            RunDirectoryError: that can't be found out.
        """
        return self.place.is_worked_on()

    def reader(self) -> StoreReader:
        """Open the store for reading, during a run or after it.

        Raises:
            RunDirectoryError: there is none, or it can't be read.
        """
        if self.place.is_shared:
            return self.place.reader()
        self.require_access()
        if not self.place.exists():
            advice = "`bulkcert runs` lists the runs below a folder."
            if self.results.exists():
                advice = f"`bulkcert results {self.path}` works without it."
            raise RunDirectoryError(
                f"{self.path} does not contain a run: there is no {_CHECKPOINT}.", advice
            )
        return self.place.reader()

    def commit(self, work: Callable[[Store], T]) -> T:
        """Write to the store in one transaction, beside whoever works on the run.

        New events are copied to their file, unless there is an obstacle: a later process does it.

        Args:
            work: calls the methods of the store; may be called again if it is not certain that the
                store has what it wrote.

        Returns:
            What `work` returns.

        Raises:
            RunDirectoryError: the store can't be opened.
            StoreError: it can't be written.
        """
        with contextlib.closing(self.place.open()) as store:
            result = store.commit(lambda: work(store))
            with contextlib.suppress(OSError):
                catch_up(self.events, store.events)
            return result

    def require_access(self) -> None:
        """Check that this user may look into the directory.

        Raises:
            RunDirectoryError: it belongs to another one.
        """
        try:
            os.lstat(self.checkpoint)
        except PermissionError as error:
            raise RunDirectoryError(
                f"This user may not look into {self.path}.",
                "A run belongs to the user who began it: run the command as that one.",
            ) from error
        except OSError:
            pass  # whoever opens it says what is missing

    def manifest(self) -> RunManifest:
        """Read what the run is about.

        Raises:
            RunDirectoryError: see `reader`.
        """
        with contextlib.closing(self.reader()) as reader:
            return reader.manifest()

    def fingerprints(self) -> bytes:
        """The fingerprints of the operations; see `bulkcert.fingerprints`.

        Raises:
            RunDirectoryError: see `reader`.
        """
        with contextlib.closing(self.reader()) as reader:
            return b"".join(reader.fingerprints())

    def remove_run(self) -> None:
        """Remove the run, of which nothing was sent, and the reports made from it."""
        if self.place.exists():  # reports without one may be all that is left of a run
            for report in (self.results, self.summary, self.events, self.metrics):
                with contextlib.suppress(OSError):  # such as a folder in its place
                    report.unlink(missing_ok=True)
        self.place.remove()
        if isinstance(self.place, SharedPlace):
            self._place = SharedPlace(self.place.url, self.place.run)

    def write_reports(self) -> Summary:
        """Write the reports from the store, and return the summary.

        Raises:
            StoreError: they can't be written, or the store can't be read.
        """
        try:
            with contextlib.closing(self.reader()) as reader:
                return write_reports(reader, self.path)
        except (OSError, sqlite3.Error, RunDirectoryError) as error:
            raise StoreError(
                f"The reports can't be written: {error}",
                "What is recorded is safe. Free some space, then run the same command again.",
            ) from error

    def _wait_for_lock(self) -> int | None:
        """Take the lock; None if another process keeps it for longer than `is_locked` does.

        Raises:
            OSError: there can be no lock.
        """
        give_up_at = time.monotonic() + self._lock_patience_s
        while (lock := folder_lock.take(self.path)) is None and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return lock

    def _tidy(self) -> None:
        """Remove what processes that were killed left unfinished."""
        for folder in (self.path, self.path / "certificates", self.path / "keys"):
            durable.remove_partials(folder)


def open_reader(run_dir: Path) -> StoreReader:
    """Open the checkpoint of a run directory for reading, during a run or after it.

    Raises:
        RunDirectoryError: there is none, or it can't be read.
    """
    return RunDirectory(run_dir).reader()


def contains_run(path: Path) -> bool:
    """Whether there is a run in a directory: its checkpoint, or at least its results, or the name
    of a run in a shared store."""
    names = (_CHECKPOINT, _RESULTS, _SHARED)
    # unlike the methods of Path, this never raises, whatever the permissions are
    return any(os.path.isfile(path / name) for name in names)  # noqa: PTH113


def is_locked(run_dir: Path) -> bool:
    """Whether a process is working in a run directory."""
    return folder_lock.is_taken(run_dir)


def write_reports(reader: StoreReader, folder: Path) -> Summary:
    """Write `results.jsonl` and `summary.json`, each all or nothing, and return the summary.

    If there is a `certificates` directory, write `manifest.csv` into it. Names of keys that are not
    needed any more are removed. What other hosts are working on is pending, and not unknown.
    """
    under_way = reader.under_way()
    with durable.replacing(folder / _RESULTS) as file:
        file.writelines(results_jsonl(_as_reported(reader.records(), under_way)))
    certificates = folder / "certificates"
    if certificates.is_dir():
        with durable.replacing(certificates / "manifest.csv") as file:
            file.writelines(manifest_csv(reader, reader.records()))
    if (keys := folder / "keys").is_dir() and has_first_names(keys):
        records = reader.records(set(State) - {State.FLAWED})  # these are looked up again
        remove_first_names(keys, (record.result for record in records))
    summary = summarize(reader)
    if under_way:
        of_others = min(len(under_way), summary.unknown)
        summary = dataclasses.replace(
            summary, unknown=summary.unknown - of_others, pending=summary.pending + of_others
        )
    with durable.replacing(folder / _SUMMARY) as file:
        file.write(summary.as_json())
    return summary


def _as_reported(records: Iterator[Record], under_way: frozenset[int]) -> Iterator[Record]:
    """The records, those that other hosts are working on as pending."""
    if not under_way:
        return records
    return (
        record._replace(state=State.PLANNED) if record.id in under_way else record
        for record in records
    )


def manifest_csv(reader: StoreReader, records: Iterable[Record]) -> Iterator[bytes]:
    """Format the manifest of new certificates; see `bulkcert.report.certificates`.

    Args:
        reader: the store of the run.
        records: the records that it is about.
    """
    manifest = reader.manifest()
    names, place = _naming_fields(manifest), place_of(manifest)
    extra = headers_of(manifest.extra_columns, own_columns(installed_provider(manifest.provider)))
    return certificates_csv(records, names, place, extra)


def place_of(manifest: RunManifest) -> dict[str, Any]:
    """Where the targets of a run are, unless they say it themselves: organization or instance."""
    fields = installed_provider(manifest.provider).actions[manifest.action].fields.values()
    given = {f.name: manifest.connection.options.get(f.option) for f in fields if f.option}
    return {name: manifest.parameters.get(name, value) for name, value in given.items()}


def _naming_fields(manifest: RunManifest) -> list[str]:
    """The fields with which the targets of a run name their device, and where it is."""
    action = installed_provider(manifest.provider).actions[manifest.action]
    ways = [field for way in action.identifiers for field in way]
    return [f.name for f in action.fields.values() if f in ways or f.option]
