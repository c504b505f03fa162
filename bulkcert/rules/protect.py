"""What must not be touched: the entries of never-touch lists, compared with targets. Pure.

In: the entries of lists, and the fields of targets and of what a selection has found. Out: the
entry that a target is on, if any; what only resembles an entry; the entries that can't be compared.
Values are compared as the provider compares them: after the same parsing, and then exactly. Must
never leave an entry out silently: one that can't be compared with any target is for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bulkcert.model import Fields
from bulkcert.values import printable, shown

WILDCARD = "*"
_LONGEST_SHOWN = 200  # characters


class Entry(NamedTuple):
    """One row of a never-touch list.

    Attributes:
        source: the list, as messages name it.
        line: the line in it.
        fields: its values by field, as text; each `*` stands for any text.
        owner, note: whose it is and why, for people; empty if the list does not say.
    """

    source: str
    line: int
    fields: Mapping[str, str]
    owner: str = ""
    note: str = ""

    def __str__(self) -> str:
        where = f"line {self.line} of {self.source}"
        patterns = [f"{n} {shown(text)}" for n, text in self.fields.items() if WILDCARD in text]
        if patterns:
            where += f" ({' and '.join(patterns)})"
        about = (("owner", self.owner), ("note", self.note))
        return ", ".join([where, *(f"{name} {_cut(text)}" for name, text in about if text)])


class Hit(NamedTuple):
    """A target that must not be touched.

    Attributes:
        entry: the entry that it is on.
        fields: the fields of the target that were compared, with their values.
    """

    entry: Entry
    fields: Mapping[str, str]

    def __str__(self) -> str:
        named = " and ".join(f"{name} {shown(value)}" for name, value in self.fields.items())
        return f"{named} must not be touched: {self.entry}"


class NeverTouch:
    """All that must not be touched in a run.

    Args:
        entries: of all lists.
        ways: the ways to name a device, each as its fields.
        common: the fields of every target, unless its row has its own.

    Attributes:
        entries: of all lists, in their order.
    """

    def __init__(
        self, entries: Iterable[Entry], ways: Sequence[Sequence[str]], common: Fields
    ) -> None:
        self.entries = list(entries)
        self._ways = ways
        self._common = {name: str(value) for name, value in common.items()}
        self._by_columns: dict[frozenset[str], list[int]] = {}
        for place, entry in enumerate(self.entries):
            self._by_columns.setdefault(frozenset(entry.fields), []).append(place)
        self._indexes: dict[tuple[frozenset[str], tuple[str, ...]], _Index] = {}
        # targets have few combinations of fields
        self._shapes: dict[tuple[str, ...], list[_Index]] = {}

    def find(self, fields: Fields) -> Hit | None:
        """Return the first entry that a target is on; None if it may be touched."""
        first: tuple[int, _Index] | None = None
        for index in self._indexes_for(fields):
            place = index.find(self._values(fields, index.names))
            if place is not None and (first is None or place < first[0]):
                first = place, index
        if first is None:
            return None
        names = first[1].names
        return Hit(
            self.entries[first[0]], dict(zip(names, self._values(fields, names), strict=True))
        )

    def resembled(self, fields: Fields) -> Entry | None:
        """Return an entry that a target resembles, which is not on any: the same device with
        another certificate, or names that differ only in letter case or in leading zeros."""
        for index in self._indexes_for(fields):
            place = index.resembled(self._values(fields, index.device))
            if place is not None:
                return self.entries[place]
        return None

    def incomparable(self, shapes: Iterable[Sequence[str]]) -> list[Entry]:
        """Return the entries that can't be compared with any target.

        Args:
            shapes: the combinations of fields that targets have, or will have once a selection has
                found their certificates.
        """
        present = [{*self._common, *shape} for shape in shapes]
        places = [
            place
            for columns, places in self._by_columns.items()
            if not any(_compared(columns, names, self._ways) for names in present)
            for place in places
        ]
        return [self.entries[place] for place in sorted(places)]

    def _values(self, fields: Fields, names: Sequence[str]) -> tuple[str, ...]:
        common = self._common
        return tuple([str(fields[n]) if n in fields else common[n] for n in names])

    def _indexes_for(self, fields: Fields) -> list[_Index]:
        shape = tuple(fields)
        indexes = self._shapes.get(shape)
        if indexes is None:
            present = {*self._common, *shape}
            indexes = self._shapes[shape] = [
                self._index(columns, names)
                for columns in self._by_columns
                if (names := _compared(columns, present, self._ways))
            ]
        return indexes

    def _index(self, columns: frozenset[str], names: tuple[str, ...]) -> _Index:
        index = self._indexes.get((columns, names))
        if index is None:
            ways = (tuple(way) for way in self._ways if set(names).issuperset(way))
            device = next(ways, names)
            places = self._by_columns[columns]
            entries = ((place, self.entries[place].fields) for place in places)
            index = self._indexes[columns, names] = _Index(names, device, entries)
        return index


class _Index:
    """Entries that are compared by the same fields; found by what does not vary in them.

    Args:
        names: the fields.
        device: those of them that name the device, or all of them.
        entries: place and values of each.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        device: tuple[str, ...],
        entries: Iterable[tuple[int, Mapping[str, str]]],
    ) -> None:
        self.names, self.device = names, device
        self._exact: dict[tuple[str, ...], int] = {}
        self._resembling: dict[tuple[str, ...], int] = {}
        # by a field, and how many characters come before its first wildcard
        self._patterns: dict[tuple[int, int], dict[str, list[_Pattern]]] = {}
        for place, fields in entries:
            values = tuple(fields[name] for name in names)
            if not any(WILDCARD in value for value in values):
                self._exact.setdefault(values, place)
                self._resembling.setdefault(_folded(fields[name] for name in device), place)
                continue
            starts = [value.partition(WILDCARD)[0] for value in values]
            field = max(range(len(names)), key=lambda at: len(starts[at]))
            start = starts[field]
            by_start = self._patterns.setdefault((field, len(start)), {})
            by_start.setdefault(start, []).append(_Pattern(place, values))

    def find(self, values: tuple[str, ...]) -> int | None:
        """Return the place of the first entry with these values."""
        found = self._exact.get(values)
        for (field, length), by_start in self._patterns.items():
            for pattern in by_start.get(values[field][:length], ()):
                if (found is None or pattern.place < found) and pattern.matches(values):
                    found = pattern.place
        return found

    def resembled(self, device: tuple[str, ...]) -> int | None:
        """Return the place of an entry for a device whose name looks like this."""
        return self._resembling.get(_folded(device))


class _Pattern:
    """An entry with wildcards."""

    def __init__(self, place: int, values: tuple[str, ...]) -> None:
        self.place = place
        self._parts = [value.split(WILDCARD) for value in values]

    def matches(self, values: tuple[str, ...]) -> bool:
        return all(map(_matches, self._parts, values))


def _matches(parts: list[str], value: str) -> bool:
    """Whether a text consists of these parts with any text between them."""
    if len(parts) == 1:
        return value == parts[0]
    first, *middle, last = parts
    if not value.startswith(first):
        return False
    at, end = len(first), len(value) - len(last)
    for part in middle:
        at = value.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at <= end and value.endswith(last)


def _compared(
    columns: frozenset[str], present: set[str], ways: Sequence[Sequence[str]]
) -> tuple[str, ...] | None:
    """By which fields an entry is compared with targets; None if it can't be.

    All of its columns count. But if it names the device in several ways, one of them is enough:
    targets name it in one.

    Args:
        columns: the columns of the entry.
        present: the fields of the targets.
        ways: the ways to name a device.
    """
    missing = columns - present
    if missing:
        in_full = any(columns.issuperset(way) and present.issuperset(way) for way in ways)
        if not in_full or not missing.issubset({name for way in ways for name in way}):
            return None
    return tuple(sorted(columns & present))


def _folded(values: Iterable[str]) -> tuple[str, ...]:
    return tuple([value.casefold().lstrip("0") for value in values])


def _cut(text: str) -> str:
    return printable(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
