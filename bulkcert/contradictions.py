"""Rows that only the whole target file shows to be bad, or to repeat another one.

In: the operations that were planned from it. Out: the same without them, and their rows in
`rejected.csv` or `repeated.csv`. Must never keep all of them in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkcert.identity import Identities, shared_keys
from bulkcert.model import Rejection
from bulkcert.rejections import RowFile
from bulkcert.store.sqlite import Dropped, SqlitePlan
from bulkcert.targets import TargetFile


def drop_contradictions(identities: Identities, store: SqlitePlan) -> None:
    """Remove operations that repeat or contradict others.

    Of rows that contradict each other, all are bad: nobody knows which is meant.
    """
    for first_id, later_id, first, later in store.repeated():
        if identities.operation(first.fields) != identities.operation(later.fields):
            continue  # different operations with the same hash
        if identities.parameters(first.fields) == identities.parameters(later.fields):
            reason = f"the same operation as line {first.line}; it is done once"
            store.drop(later_id, reason, is_bad=False)
        else:
            for id_, line in ((first_id, later.line), (later_id, first.line)):
                reason = f"the same certificate as line {line}, with other parameters"
                store.drop(id_, reason, is_bad=True)
    store.apply_drops()
    pairs = ((pair.later_id, pair.first, pair.later) for pair in store.on_one_device())
    for id_, reason in shared_keys(identities, pairs):
        store.drop(id_, reason, is_bad=True)
    store.apply_drops()


def list_dropped(
    store: SqlitePlan, targets: TargetFile, rejected: RowFile, repeated: RowFile
) -> None:
    """Read the rows of removed operations again, and list them as they were written."""
    dropped, awaited = store.dropped(), _Awaited(store.dropped())
    first = next(dropped, None)
    if first is None:
        return
    reasons: dict[int, list[Dropped]] = {}
    for row in targets.rows_again(awaited.wants):
        target = row.found[0]
        if isinstance(target, Rejection):
            continue
        for line in [line for line in reasons if line < target.line]:
            del reasons[line]
        while first is not None and first.target.line <= target.line:
            reasons.setdefault(first.target.line, []).append(first)
            first = next(dropped, None)
        for item in reasons.get(target.line, []):
            if item.target.fields == target.fields:
                reasons[target.line].remove(item)
                file = rejected if item.is_bad else repeated
                file.add(row, [Rejection(target.line, "", item.reason)], targets.header)
                break


class _Awaited:
    """The lines of operations, which are asked for in the same order."""

    def __init__(self, dropped: Iterator[Dropped]) -> None:
        self._lines = (item.target.line for item in dropped)
        self._next = next(self._lines, 0)

    def wants(self, line: int) -> bool:
        """Whether an operation is from this line; lines must be in file order."""
        while self._next and self._next < line:
            self._next = next(self._lines, 0)
        return self._next == line
