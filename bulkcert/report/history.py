"""The history of operations as JSON: each attempt and look-up, with its answer.

In: entries of the store, streamed. Out: objects, and lines of `history.jsonl` in evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bulkcert.json_lines import as_json, utc
from bulkcert.model import HistoryEntry, HistoryEvent

_REQUESTS = (HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP)


def history_jsonl(entries: Iterable[tuple[int, HistoryEntry]]) -> Iterator[bytes]:
    """Format each entry as one line with a JSON object.

    Args:
        entries: each with the line number of its target.
    """
    for line, entry in entries:
        named = {"line": line, "operation": entry.operation_id}
        yield as_json(named | entry_object(entry)) + b"\n"


def entry_object(entry: HistoryEntry) -> dict[str, Any]:
    """Return an entry as a JSON object."""
    return {
        "event": entry.event,
        "attempt": entry.attempt,
        "sent_at": None if entry.sent_at is None else utc(entry.sent_at),
        "ended_at": utc(entry.ended_at),
        "latency_ms": latency_of(entry),
        "source": entry.source or None,
        "result": entry.result or None,
        "code": entry.code,
        "message": entry.message,
        "request_id": entry.request_id,
    }


def latency_of(entry: HistoryEntry) -> int | None:
    """How long the response took, in ms; None where no request ended."""
    if entry.sent_at is None or entry.event not in _REQUESTS:
        return None
    return round((entry.ended_at - entry.sent_at) * 1000)
