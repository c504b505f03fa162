"""Where a campaign stands, in a shared store: waves, controls, aborts and events. Reading only.

In: a function that runs a query, and the number of a run. Out: the rows as typed values. Used by
the store during a run, and by the reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString

from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import RunEvent
from bulkcert.rules.gate import Standing
from bulkcert.store.base import Abort, WaveOfRun

Query = Callable[[LiteralString, Sequence[Any] | Mapping[str, Any]], Iterable[Any]]


def read_waves(query: Query, run: int) -> list[WaveOfRun]:
    """The waves, in order."""
    rows = query(
        "SELECT number, name, targets FROM bulkcert.wave WHERE run = %s ORDER BY number", (run,)
    )
    return [WaveOfRun(*row) for row in rows]


def read_standing(query: Query, run: int) -> Standing:
    """Where the campaign stands."""
    rows = query(
        "SELECT wave, over_at, begun, held_since, held_seen FROM bulkcert.standing WHERE run = %s",
        (run,),
    )
    for wave, over_at, begun, held_since, held_seen in rows:
        return Standing(
            wave=wave, over_at=over_at, begun=begun, held_since=held_since, held_seen=held_seen
        )
    return Standing()


def read_aborts(query: Query, run: int) -> list[Abort]:
    """The aborts, in order."""
    rows = query(
        "SELECT id, at, rule, text, overridden_at, who, why FROM bulkcert.abort"
        " WHERE run = %s ORDER BY number",
        (run,),
    )
    return [Abort(*row) for row in rows]


def read_controls(query: Query, run: int, after: int) -> list[ControlEntry]:
    """The controls after the one with this number, in order."""
    rows = query(
        "SELECT id, at, who, why, verb, value FROM bulkcert.control"
        " WHERE run = %s AND id > %s ORDER BY id",
        (run, after),
    )
    return [
        ControlEntry(number, at, who, why, Verb(verb), value)
        for number, at, who, why, verb, value in rows
    ]


def read_events(query: Query, run: int, after: int, most: int | None = None) -> list[RunEvent]:
    """The events after the one with this number, in order; at most so many of them."""
    rows = query(
        "SELECT line FROM bulkcert.event WHERE run = %s AND seq > %s ORDER BY seq LIMIT %s",
        (run, after, most),  # LIMIT NULL is no limit
    )
    return [RunEvent.parse(line.encode()) for (line,) in rows]
