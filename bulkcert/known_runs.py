"""The runs that this user has worked on, so that a run can be called by its name.

In: a run directory in which a run begins or continues. Out: the runs that are still there. Each run
directory has one small file in the state folder. These files are a convenience: if they can't be
written or read, a run only has no name, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkcert import durable
from bulkcert.statefolder import state_folder

_FOLDER = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """A run that this user has worked on.

    Attributes:
        name: the job's name; that of a rehearsal ends with `-rehearsal`, like its directory.
        path: the run directory, absolute and without symbolic links.
        action, provider: by name.
    """

    name: str
    path: Path
    action: str
    provider: str


def remember(run: KnownRun) -> str:
    """Remember a run, in place of what was in its directory before.

    Returns:
        Why it can't be remembered; empty if it is.
    """
    path = os.fspath(run.path)
    entry = {"name": run.name, "path": path, "action": run.action, "provider": run.provider}
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    folder = state_folder() / _FOLDER
    if not folder.is_absolute():
        return "there is no home directory"
    try:
        durable.make_directory(folder)
        # json writes ASCII: the path need not be valid Unicode
        durable.write(folder / f"{digest[:32]}.json", json.dumps(entry).encode() + b"\n")
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    return ""


def known_runs() -> list[KnownRun]:
    """Return the runs whose directories are still there, in the order of their names."""
    return [run for run in remembered_runs() if os.path.isdir(run.path)]  # noqa: PTH112 - no errors


def remembered_runs() -> list[KnownRun]:
    """Return all runs, also those whose directories were moved or removed."""
    return sorted(_remembered(), key=lambda run: (run.name, os.fspath(run.path)))


def _remembered() -> Iterator[KnownRun]:
    try:
        files = list((state_folder() / _FOLDER).glob("*.json"))
    except OSError:
        return
    for file in files:
        try:
            entry = json.loads(file.read_bytes())
            run = KnownRun(
                name=str(entry["name"]),
                path=Path(entry["path"]),
                action=str(entry["action"]),
                provider=str(entry["provider"]),
            )
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged, or of another version
        if run.path.is_absolute():
            yield run
