"""Stretches of time in which nothing was sent, or less than could be. Pure.

In: what begins and ceases to hold a run up. Out: spans with a kind and a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple


class SpanKind(StrEnum):
    """Why nothing was sent, or less than could be. A closed set; the first ones are drawn on top of
    the others."""

    ABSENT = "absent"
    PAUSED = "paused"
    CLOSED = "closed"
    HELD = "held"
    WAITING = "waiting"
    FAILING = "failing"
    THROTTLED = "throttled"

    @property
    def label(self) -> str:
        """What people read where there is little room."""
        return "no process" if self is SpanKind.ABSENT else str(self)

    @property
    def words(self) -> str:
        """What people read."""
        return _WORDS.get(self, self.label)


_WORDS = {
    SpanKind.CLOSED: "window closed",
    SpanKind.HELD: "held by the check",
    SpanKind.FAILING: "provider failing",
}


class Span(NamedTuple):
    """A stretch of time in which nothing was sent, or less than could be.

    Attributes:
        kind: why.
        begin_s, end_s: Unix time in seconds.
        text: the reason in full; may be empty.
    """

    kind: SpanKind
    begin_s: float
    end_s: float
    text: str


class OpenSpans:
    """The spans that have begun, by what they are about and, in a shared store, by the lease.

    The rules are the same for all hosts, so what they say has no lease.
    """

    def __init__(self, found: list[Span]) -> None:
        self._found = found
        self._open: dict[tuple[str, str], tuple[SpanKind, float, str]] = {}

    def follow(self, name: str, lease: str, kind: SpanKind | None, at_s: float, text: str) -> None:
        """Something has changed: the span before is over, and another may begin."""
        before = self._open.get((name, lease))
        if before is not None and kind is before[0] and text == before[2]:
            return  # another host says so, too
        self._close((name, lease), at_s)
        if kind is not None:
            self._open[name, lease] = (kind, at_s, text)

    def close_all(self, lease: str, at_s: float, *, alone: bool) -> None:
        """A process has ended.

        Args:
            lease: its lease.
            at_s: when.
            alone: no other one works on the run.
        """
        for name, of_lease in tuple(self._open):
            if alone or (lease and of_lease == lease):
                self._close((name, of_lease), at_s)

    def _close(self, key: tuple[str, str], at_s: float) -> None:
        if key in self._open:
            kind, begin_s, text = self._open.pop(key)
            if begin_s < at_s:  # the clock was not set back meanwhile
                self._found.append(Span(kind, begin_s, at_s, text))


def merged(spans: Iterable[Span]) -> Iterator[Span]:
    """One span for those of several hosts that are of one kind and overlap."""
    last: Span | None = None
    for span in sorted(spans, key=lambda each: (each.kind, each.begin_s)):
        if last is not None and span.kind is last.kind and span.begin_s <= last.end_s:
            last = last._replace(end_s=max(last.end_s, span.end_s))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last
