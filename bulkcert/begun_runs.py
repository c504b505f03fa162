"""The runs that this user has begun: which plan each of them carries out, and where.

In: a run that is about to claim its first operation. Out: the runs that were begun before. Each has
one file in the state folder, which no other run overwrites, and which stays when the run directory
is gone. Unlike `known_runs`, this is not a convenience: it is what keeps a plan from being carried
out twice. Nothing here is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bulkcert import durable
from bulkcert.statefolder import state_folder

_FOLDER = "plans"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """A run that has begun.

    Attributes:
        run_id: the random text that no other run has.
        name: the job's name.
        number: which run of the job it is, from 1.
        path: the run directory, absolute and without symbolic links.
        plans: hashes of the plans that it carries out; several if it was amended.
        begun_at: Unix time in seconds.
        worked_until: Unix time of the last work in it, as its own checkpoint has it; 0 if unknown.
        over: nothing is left to do.
        store: the shared store in which it is; empty if it is in its directory.
    """

    run_id: str
    name: str
    number: int
    path: Path
    plans: tuple[str, ...]
    begun_at: float
    worked_until: float = 0.0
    over: bool = False
    store: str = ""

    @property
    def file(self) -> Path:
        """The file that remembers it."""
        return folder() / self.file_name

    @property
    def file_name(self) -> str:
        """The name of that file."""
        return f"{self.run_id}.json"


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered.

    Attributes:
        runs: the runs.
        unreadable: files, or the folder, that can't be read, each with the reason.
    """

    runs: Sequence[BegunRun] = ()
    unreadable: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to remember, readable or not."""
        return bool(self.runs or self.unreadable)


def folder() -> Path:
    """The folder with the files."""
    return state_folder() / _FOLDER


def recall() -> Memory:
    """Read all files."""
    runs, unreadable = [], []
    try:
        files = sorted(path for path in folder().iterdir() if path.suffix == ".json")
    except (FileNotFoundError, NotADirectoryError):
        return Memory()
    except OSError as error:
        return Memory((), [f"{folder()}: {error.strerror or error}"])
    for file in files:
        try:
            entry = json.loads(file.read_bytes())
            entry["path"], entry["plans"] = Path(entry["path"]), tuple(entry["plans"])
            run = BegunRun(**entry)
            if run.file_name != file.name:
                raise ValueError(f"it is about {run.run_id}")
            runs.append(run)
        except (OSError, ValueError, TypeError, KeyError) as error:
            unreadable.append(f"{file}: {getattr(error, 'strerror', None) or error}")
    return Memory(runs, unreadable)


def remember(run: BegunRun) -> None:
    """Write the file of a run, durably.

    Raises:
        OSError: it can't be written.
    """
    entry = dataclasses.asdict(run) | {"path": os.fspath(run.path)}
    # json writes ASCII: the path need not be valid Unicode
    durable.write(run.file, json.dumps(entry).encode() + b"\n")


@contextmanager
def alone() -> Iterator[None]:
    """Keep other processes from reading and writing what is remembered.

    Raises:
        OSError: the folder can't be created or locked.
    """
    if not folder().is_absolute():
        raise OSError(None, "there is no home directory", str(folder()))
    durable.make_directory(folder())
    descriptor = os.open(folder(), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # NFS locks only what is open for writing
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
