"""Where a campaign stands, in the checkpoint: waves, controls, aborts and events. Reading only.

In: a function that runs a query. Out: the rows as typed values. Used by the store during a run, and
by the reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import RunEvent
from bulkcert.rules.gate import Standing
from bulkcert.store.base import Abort, WaveOfRun

Query = Callable[[str, Sequence[Any]], Iterable[Any]]


def read_waves(query: Query) -> list[WaveOfRun]:
    """The waves, in order."""
    rows = query("SELECT number, name, targets FROM waves ORDER BY number", ())
    return [WaveOfRun(*row) for row in rows]


def read_standing(query: Query) -> Standing:
    """Where the campaign stands; at its beginning, if nothing is stored."""
    for wave, over_at, begun in query("SELECT wave, over_at, begun FROM standing", ()):
        return Standing(wave=wave, over_at=over_at, begun=begun)
    return Standing()


def read_aborts(query: Query) -> list[Abort]:
    """The aborts, in order."""
    columns = ", ".join(Abort._fields)
    # only names of columns are inserted
    rows = query(f"SELECT {columns} FROM aborts ORDER BY number", ())  # noqa: S608
    return [Abort(*row) for row in rows]


def read_controls(query: Query, after: int) -> list[ControlEntry]:
    """The controls after the one with this number, in order."""
    rows = query(
        "SELECT id, at, who, why, verb, value FROM controls WHERE id > ? ORDER BY id", (after,)
    )
    return [
        ControlEntry(number, at, who, why, Verb(verb), value)
        for number, at, who, why, verb, value in rows
    ]


def read_events(query: Query, after: int, most: int | None = None) -> list[RunEvent]:
    """The events after the one with this number, in order; at most so many of them."""
    limit = -1 if most is None else most
    rows = query("SELECT line FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
    return [RunEvent.parse(line.encode()) for (line,) in rows]
