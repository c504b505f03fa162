"""Entries of the history of an operation: what `bulkcert history` shows. Nothing is decided by it.

In: an operation and what happened to it. Out: the entry that the store keeps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bulkcert.lifecycle import AttemptEnded, LookupEnded
from bulkcert.model import AttemptKind, HistoryEntry, HistoryEvent, LookupKind, Operation

_WORDS = {kind: kind.name.lower() for kind in (*AttemptKind, *LookupKind)}


@dataclass(slots=True)
class Departure:
    """When and from where the first request for a task left; the time is monotonic."""

    at_s: float | None = None
    source: str = ""


def ended_entry(
    operation: Operation, event: AttemptEnded | LookupEnded, departure: Departure
) -> HistoryEntry:
    """Return what an attempt or a look-up was, and how it ended."""
    result = event.result
    sent_at = None
    if departure.at_s is not None:  # the time of day may have been set meanwhile
        sent_at = event.at_s - (time.monotonic() - departure.at_s)
    return HistoryEntry(
        operation.id,
        HistoryEvent.LOOK_UP if isinstance(event, LookupEnded) else HistoryEvent.ATTEMPT,
        operation.attempts,
        sent_at,
        event.at_s,
        departure.source,
        _WORDS[result.kind],
        result.code,
        result.message,
        result.request_id,
    )


def taken_over(operation: Operation, at_s: float) -> HistoryEntry:
    """The history of an operation that another process left in doubt goes on here.

    Args:
        operation: the operation.
        at_s: when it was claimed, as Unix time in seconds.
    """
    return HistoryEntry(
        operation.id,
        HistoryEvent.TAKEN_OVER,
        operation.attempts,
        operation.sent_at,
        at_s,
    )
