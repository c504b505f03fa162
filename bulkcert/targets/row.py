"""Check one row of a target file, in either format.

In: the values that a row gives, and the job's parameters. Out: one target, or a rejection for each
fault. Must never accept a row that names no device, or a device that a parameter overrules.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bulkcert.model import Fields, FieldValue, Rejection, Target
from bulkcert.pem import PRIVATE_KEY_FOUND, has_private_key
from bulkcert.providers.base import Action, Field
from bulkcert.targets.wording import either, identifiers_of, joined, no_default
from bulkcert.values import shown

_LARGEST_PEM = 2**16  # bytes
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMELESS_FILE = "names a file that"
_NOT_GIVEN = "is empty or missing"
_NO_EXTRA: Mapping[str, Any] = MappingProxyType({})


class UnreadableCell(str):
    """What a cell of a workbook shows, where that may not be what is meant.

    Attributes:
        reason: why it can't be used, as in a `Rejection`.
    """

    reason: str

    def __new__(cls, shown: str, reason: str) -> UnreadableCell:
        """Make a cell that looks like `shown`."""
        cell = super().__new__(cls, shown)
        cell.reason = reason
        return cell


class Row(NamedTuple):
    """One row of a target file.

    Attributes:
        found: one target, or a rejection for each fault.
        cells: the row as it was written: the cells of a table, or an object; None if it could not
            be read as such.
        text: if there are no cells: the lines of the row, as far as they are text.
        unbounded: its lines may contain several rows; nobody can say how many.
    """

    found: Sequence[Target | Rejection]
    cells: Sequence[str] | Mapping[str, Any] | None
    text: str = ""
    unbounded: bool = False


@dataclass(frozen=True, slots=True)
class GoodRows:
    """Consecutive rows of a table, one on each line, of which each is a target.

    Attributes:
        line: the first line.
        cells: the rows as they were written.
        columns: the values of each field, in field order; all rows have the same fields.
        extra: the other columns of each row; empty if there are none.
    """

    line: int
    cells: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[FieldValue]]
    extra: Sequence[Mapping[str, Any]] = ()

    def fields(self) -> Iterator[dict[str, FieldValue]]:
        """Yield the fields of each row."""
        values = zip(*self.columns.values(), strict=True)
        return map(dict, map(zip, repeat(tuple(self.columns)), values))

    def __iter__(self) -> Iterator[Row]:
        extra = self.extra or repeat(_NO_EXTRA)
        targets = map(Target, count(self.line), self.fields(), extra)
        for target, cells in zip(targets, self.cells, strict=False):
            yield Row((target,), cells)


def one_by_one(rows: Iterable[Row | GoodRows]) -> Iterator[Row]:
    """Yield each row by itself."""
    for each in rows:
        if isinstance(each, GoodRows):
            yield from each
        else:
            yield each


def may_be_secret(reason: str) -> bool:
    """Whether a row that was rejected for this reason may contain a part of a private key."""
    return reason.startswith((PRIVATE_KEY_FOUND, _NAMELESS_FILE))


Wanted = Callable[[int], bool]
"""Whether the row that begins on a line is to be read."""


def every_line(line: int) -> bool:
    """Read every row."""
    return True


class RowChecker:
    """Checks rows against an action and the job's parameters.

    Args:
        action: defines the fields, and which of them a row must have.
        parameters: the job's checked parameters; they supply the fields that a row does not give.
        folder: what paths of PEM files are relative to.
        headers: the headers or keys that the file uses for the fields.
    """

    def __init__(
        self, action: Action, parameters: Fields, folder: Path, headers: Iterable[str] = ()
    ) -> None:
        self._folder = folder
        self._headers = {header.casefold() for header in (*action.fields, *headers)}
        self._parsers = {
            name: self._pem_parser(field) if field.pem else field.parse
            for name, field in action.fields.items()
        }
        self._pem = {field.name for field in action.fields.values() if field.pem}
        self._parameters = parameters
        self._required = action.required
        self._identifiers = identifiers_of(action)
        # faults depend only on which fields are given, and a file has few such combinations
        self._incomplete: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    def check(
        self, line: int, given: Mapping[str, object], extra: Mapping[str, Any] = _NO_EXTRA
    ) -> Sequence[Target | Rejection]:
        """Return one target, or a rejection for each fault.

        Args:
            line: the first line of the row.
            given: the values of the row, not yet parsed, in field order.
            extra: its other columns.
        """
        if self._is_header(given):
            return [Rejection(line, "", "repeats the header: were several files joined?")]
        parsers, incomplete = self._parsers, self._faults_of(tuple(given))
        if not incomplete:
            try:
                fields = {name: parsers[name](value) for name, value in given.items()}
            except ValueError:
                pass  # collect all faults below
            else:
                return (Target(line, fields, extra),)
        faults = []
        for name, value in given.items():
            try:
                parsers[name](value)
            except ValueError as reason:
                faults.append(Rejection(line, name, str(reason)))
        return faults + [Rejection(line, *fault) for fault in incomplete]

    def check_columns(
        self, given: Mapping[str, Sequence[str]]
    ) -> Mapping[str, Sequence[FieldValue]] | None:
        """Return the values of many rows at once, or None if `check` may reject one of them.

        Args:
            given: the cells of each field, in field order.
        """
        columns: dict[str, Sequence[FieldValue]] = {}
        may_be_headers = True
        for name, cells in given.items():
            stripped = list(map(str.strip, cells))
            if not any(stripped):
                continue
            if name in self._pem or not all(stripped):
                return None
            if may_be_headers:
                may_be_headers = not self._headers.isdisjoint(map(str.casefold, stripped))
            try:
                columns[name] = list(map(self._parsers[name], cells))
            except ValueError:
                return None
        return None if may_be_headers or self._faults_of(tuple(columns)) else columns

    def _is_header(self, given: Mapping[str, object]) -> bool:
        """Whether the values of a row are the names of fields or columns."""
        for value in given.values():
            if not isinstance(value, str) or value.strip().casefold() not in self._headers:
                return False
        return bool(given)

    def _pem_parser(self, field: Field) -> Callable[[object], FieldValue]:
        return lambda value: field.parse(self._pem_text(value))

    def _pem_text(self, value: object) -> object:
        """Return PEM text unchanged; replace the path of a PEM file by the file's content."""
        if not isinstance(value, str):
            return value
        if "-----BEGIN" not in value:
            value = self._pem_file(value.strip())
        if has_private_key(value):
            raise ValueError(PRIVATE_KEY_FOUND)
        return value

    def _pem_file(self, name: str) -> str:
        """Return the content of a PEM file."""
        # a key or a request without its first line must not be quoted; these have no dots
        file_name = (
            f"the file {shown(name)}, which" if "." in name else "a file that"
        )  # see _NAMELESS_FILE
        try:
            with (self._folder / name).open("rb") as file:
                content = file.read(_LARGEST_PEM + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or "its name contains a NUL"
            raise ValueError(f"names {file_name} cannot be read: {reason}") from None
        if len(content) > _LARGEST_PEM:
            raise ValueError(f"names {file_name} is larger than {_LARGEST_PEM // 1024} KiB")
        try:
            # PowerShell writes what openssl prints as UTF-16
            return content.decode("utf-16" if content[:2] in _UTF_16 else "utf-8-sig")
        except ValueError:
            raise ValueError(
                f"names {file_name} is not PEM; `openssl req -inform DER` converts DER to PEM"
            ) from None

    def _faults_of(self, combination: tuple[str, ...]) -> list[tuple[str, str]]:
        """The same as `_check_given`, which is called once for each combination of fields."""
        faults = self._incomplete.get(combination)
        if faults is None:
            faults = self._incomplete[combination] = self._check_given(combination)
        return faults

    def _check_given(self, given: tuple[str, ...]) -> list[tuple[str, str]]:
        """Return what is missing or too much in rows with these fields, as field and reason."""
        present = {*given, *self._parameters}
        faults = [
            (field.name, _NOT_GIVEN + no_default(field))
            for field in self._required
            if field.name not in present
        ]
        return faults + self._check_identity(present, given)

    def _check_identity(self, present: set[str], given: tuple[str, ...]) -> list[tuple[str, str]]:
        """Require one way to name the device in full.

        If a row names it in several, the first way counts, and the others are only for the reports.
        But a way that [parameters] supplies must be the only one: it is the same for all rows.
        """
        ways = self._identifiers
        named = [name for way in ways for name in way if name in present]
        complete = [way for way in ways if present.issuperset(way)]
        if complete and (set(named) == set(complete[0]) or set(given).issuperset(complete[0])):
            return []
        if not named:
            return [("", f"does not name the device: give {either(ways)}")]
        origin = [f"{name} from [parameters]" for name in named if name not in given]
        hint = f" ({', '.join(origin)})" if origin else ""
        if complete:
            reason = f"names the device in more than one way, by {joined(named)}{hint}"
            return [("", f"{reason}: give either {either(ways)}, not both")]
        begun = next(way for way in ways if present.intersection(way))
        return [
            (name, f"{_NOT_GIVEN}, but is required together with {joined(named)}{hint}")
            for name in begun
            if name not in present
        ]
