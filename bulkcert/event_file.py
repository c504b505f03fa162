"""`events.jsonl`: a copy of the event log beside the store, for people and for what follows files.

In: the log in the store. Out: a file with all of it. The store is what counts: a file that is torn
or behind is completed, and one whose last line is another is written again. Several processes may
do this at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from bulkcert import durable
from bulkcert.event_log import RunEvent
from bulkcert.timings import Timings

_LONGEST_LINE = 1 << 20
"""Bytes; no event is nearly as long."""

_LARGEST_NUMBER = 2**63 - 1
"""Of an event: SQLite has no larger numbers, and refuses to look for one."""

_LOOK_EVERY_S = 0.01
"""Processes of ours have the lock for a few milliseconds."""


def catch_up(
    path: Path,
    events: Callable[[int], Sequence[RunEvent]],
    patience_s: float = Timings().events_patience_s,
) -> None:
    """Append to the file what it lacks; it is durable when this returns.

    Args:
        path: the file.
        events: returns the events after the one with this number.
        patience_s: how long to wait for somebody who has locked the file.

    Raises:
        OSError: the file can't be written. The next call tries again.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "r+b") as file:  # noqa: PTH123 - a descriptor
        _lock(file, patience_s)
        end, last = _last_line(file)
        missing = _after(last, events) if end else events(0)
        if missing is None:
            end, missing = 0, events(0)
        if missing or end < file.seek(0, os.SEEK_END):
            file.truncate(end)
            file.seek(end)
            file.writelines(event.line + b"\n" for event in missing)
            file.flush()
            os.fsync(file)
            if not end:
                durable.sync_names(path.parent)


def _lock(file: IO[bytes], patience_s: float) -> None:
    """Lock the file, so that two processes do not append at the same time."""
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                raise OSError(errno.EWOULDBLOCK, "another process has locked it") from None
            time.sleep(_LOOK_EVERY_S)
        except OSError:  # there are file systems without locks
            return
        else:
            return


def _last_line(file: IO[bytes]) -> tuple[int, bytes]:
    """Where the last complete line ends, 0 if there is none; and the line without its end."""
    begin = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
    file.seek(begin)
    lines, newline, _torn = file.read().rpartition(b"\n")
    return (begin + len(lines) + 1, lines.rpartition(b"\n")[2]) if newline else (0, b"")


def _after(last: bytes, events: Callable[[int], Sequence[RunEvent]]) -> Sequence[RunEvent] | None:
    """The events that follow a line; None if the line is not one of the log."""
    try:
        seq = RunEvent.parse(last).seq
    except ValueError:
        return None
    if not 0 < seq <= _LARGEST_NUMBER:
        return None
    found = events(seq - 1)
    return found[1:] if found and found[0].line == last else None
