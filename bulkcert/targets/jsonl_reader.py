"""Targets and rejections from JSON Lines: one object per line.

In: lines of text. Out: a target or rejections for each line with content. [columns] that do not fit
the file raise `TargetsError`. Must never choose between two values of one key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bulkcert.errors import TargetsError
from bulkcert.model import Rejection
from bulkcert.pem import PRIVATE_KEY_FOUND, has_private_key
from bulkcert.targets.columns import ColumnMap
from bulkcert.targets.extra import ExtraColumns, kept
from bulkcert.targets.lines import Lines
from bulkcert.targets.records import (
    REPLACED,
    SERIAL,
    fault_without_certificate,
    has_target,
    is_uncertain,
    rows,
)
from bulkcert.targets.rejected import REJECTED, STILL_REJECTED, TEXT, refuse_left_out
from bulkcert.targets.row import Row, RowChecker, Wanted, every_line
from bulkcert.targets.tally import Tally
from bulkcert.targets.wording import listed, toml_line
from bulkcert.values import shown

_PAIRS = json.JSONDecoder(object_pairs_hook=list)


@dataclass(frozen=True, slots=True)
class JsonlReader:
    """Reads a target file in JSON Lines.

    Attributes:
        name: of the file, for messages.
        columns: which key contains which field.
        checker: checks the values of a row.
        tally: counts the rows, and collects unused keys.
        extra: which of the other keys are kept.
    """

    name: str
    columns: ColumnMap
    checker: RowChecker
    tally: Tally
    extra: ExtraColumns

    def read(self, lines: Lines, wanted: Wanted = every_line) -> Iterator[Row]:
        """Yield the rows in file order.

        Args:
            lines: the lines of the file.
            wanted: whether a line is to be read; called in file order.

        Raises:
            TargetsError: at the end of the file, if no line had a key that [columns] names.
        """
        any_object = False
        unseen = set(self.columns.mapped.values())
        for line, content, fault in _rows(lines):
            if not wanted(line):
                continue
            self.tally.rows += 1
            row = fault or _parse(content)
            if isinstance(row, str):
                yield Row((Rejection(line, "", row),), None, content)
            elif has_target(row):
                unseen.clear()
                yield from self._check_record(line, row)
            else:
                any_object = True
                unseen -= row.keys()
                refuse_left_out(self.name, row)
                self.columns.refuse_ambiguity(self.name, row)
                yield self._check(line, row, content)
        if unseen and any_object and wanted is every_line:
            keys = "that key" if len(unseen) == 1 else "those keys"
            raise TargetsError(
                f"{self.name}: [columns] in the job file names {listed(sorted(unseen))}, "
                f"but no line has {keys}",
                "Correct [columns] in the job file.",
            )

    def _check_record(self, line: int, record: dict[str, Any]) -> Iterator[Row]:
        """Check the rows of a record that a run wrote."""
        extra = self._extra_of(record["target"], self.columns.of_a_run)
        for row in rows(record):
            # the record of this row alone
            written = {**record, "target": row, "result": None}
            self.columns.refuse_ambiguity(self.name, row)
            headers = self.columns.of_a_run.headers
            given = _given({REPLACED: row.get(SERIAL)} | row, headers)
            if is_uncertain(row, self.columns.chosen, record["outcome"]):
                given.pop(SERIAL, None)
            if not self.columns.names_no_certificate(given):
                yield Row(self.checker.check(line, given, extra), written)
            elif fault := fault_without_certificate(record["outcome"]):
                yield Row((Rejection(line, "", fault),), written)
            else:
                self.tally.without_certificates += 1

    def _check(self, line: int, row: dict[str, Any], content: str) -> Row:
        if row.get(REJECTED[TEXT]):
            return Row((Rejection(line, "", STILL_REJECTED),), row)
        if faults := self._key_faults(row, content):
            # as written: an object in memory has each key once
            return Row([Rejection(line, *fault) for fault in faults], None, content)
        given, columns = _given(row, self.columns.headers), self.columns
        if row.keys() <= columns.known:
            return Row(self.checker.check(line, given), row)
        return Row(self.checker.check(line, given, self._extra_of(row, columns)), row)

    def _extra_of(self, row: Mapping[str, Any], columns: ColumnMap) -> dict[str, Any]:
        """Return what is kept of the keys that are not used."""
        return {
            name: kept(value)
            for key, value in row.items()
            if key not in columns.known
            and (name := self.extra.name(key))
            and self.tally.keep_extra(name)
        }

    def _key_faults(self, row: dict[str, Any], content: str) -> list[tuple[str, str]]:
        """Return what is wrong with the keys of a row, as pairs of field and reason."""
        columns = self.columns
        faults = []
        # each pair has a colon, so with as many colons as distinct keys no key can be repeated
        if content.count(":") != len(row):
            repeated = _repeated_keys(content)
            if repeated is None:
                return [("", "is nested too deeply")]
            faults += [
                (field, "is given more than once")
                for field, key in columns.headers.items()
                if key in repeated
            ]
        if row.keys() <= columns.known:
            return faults
        for key in row:
            if key in columns.known:
                continue
            field = columns.resembled_by(key)
            if field and columns.headers.get(field) not in row:
                fix = f"rename the key or map it under [columns]: {toml_line(field, key)}"
                faults.append((field, f"is missing, but the key {shown(key)} looks like it; {fix}"))
            elif key not in REJECTED:
                self.tally.note_unused(key)
        return faults


def _given(row: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, object]:
    """Return the values of a row by field, in field order."""
    return {
        name: value
        for name, key in headers.items()
        # as in CSV, empty text is not a value: files converted from CSV contain it
        if (value := row.get(key)) is not None
        and not (isinstance(value, str) and not value.strip())
    }


def _rows(lines: Lines) -> Iterator[tuple[int, str, str]]:
    """Yield the lines with content: number, text, and the fault if any."""
    line = lines.begin_row()
    for content in lines:
        if lines.fault or (content and not content.isspace()):
            yield line, content, lines.fault
        line = lines.begin_row()


def _parse(content: str) -> dict[str, Any] | str:
    """Return the object in a line, or what is wrong with the line."""
    try:
        row = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return f"is not valid JSON: {error.msg}, at character {error.pos + 1}"
    if not isinstance(row, dict):
        return "is not a JSON object; each line must be one, such as {...}"
    if "\\u" in content and any(map(has_private_key, _texts(row))):
        return PRIVATE_KEY_FOUND  # it was escaped
    return row


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a JSON value, however deep."""
    open_values = [value]
    while open_values:
        match open_values.pop():
            case str(text):
                yield text
            case list(items):
                open_values += items
            case dict(members):
                open_values += [*members, *members.values()]


def _repeated_keys(content: str) -> set[str] | None:
    """Return the keys that an object has more than once, or None if it is nested too deeply."""
    try:
        pairs = _PAIRS.decode(content)
    except RecursionError:
        return None
    seen: set[str] = set()
    repeated: set[str] = set()
    for key, _ in pairs:
        (repeated if key in seen else seen).add(key)
    return repeated
