"""Targets and rejections from JSON Lines: one object per line.

In: lines of text. Out: a target or rejections for each line with content. [columns] that do not fit
the file raise `TargetsError`. Must never choose between two values of one key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bulkcert.errors import TargetsError
from bulkcert.model import Rejection, Target
from bulkcert.targets.columns import ColumnMap
from bulkcert.targets.lines import Lines
from bulkcert.targets.records import (
    REPLACED,
    SERIAL,
    fault_without_certificate,
    has_target,
    is_uncertain,
    rows,
)
from bulkcert.targets.row import RowChecker
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
    """

    name: str
    columns: ColumnMap
    checker: RowChecker
    tally: Tally

    def read(self, lines: Lines) -> Iterator[Target | Rejection]:
        """Yield targets and rejections in file order.

        Raises:
            TargetsError: at the end of the file, if no line had a key that [columns] names.
        """
        any_object = False
        unseen = set(self.columns.mapped.values())
        for line, content, fault in _rows(lines):
            self.tally.rows += 1
            row = fault or _parse(content)
            if isinstance(row, str):
                yield Rejection(line, "", row)
            elif has_target(row):
                unseen.clear()
                for item in rows(row):
                    yield from self._check_record(line, item, row["outcome"])
            else:
                any_object = True
                unseen -= row.keys()
                self.columns.refuse_ambiguity(self.name, row)
                yield from self._check(line, row, content)
        if unseen and any_object:
            keys = "that key" if len(unseen) == 1 else "those keys"
            raise TargetsError(
                f"{self.name}: [columns] in the job file names {listed(sorted(unseen))}, "
                f"but no line has {keys}",
                "Correct [columns] in the job file.",
            )

    def _check_record(
        self, line: int, row: dict[str, Any], outcome: object
    ) -> Sequence[Target | Rejection]:
        """Check a row of a record that a run wrote."""
        self.columns.refuse_ambiguity(self.name, row)
        headers = self.columns.of_a_run.headers
        given = _given({REPLACED: row.get(SERIAL)} | row, headers)
        if is_uncertain(row, self.columns.chosen, outcome):
            given.pop(SERIAL, None)
        if not self.columns.names_no_certificate(given):
            return self.checker.check(line, given)
        if fault := fault_without_certificate(outcome):
            return [Rejection(line, "", fault)]
        self.tally.left_out += 1
        return ()

    def _check(self, line: int, row: dict[str, Any], content: str) -> Sequence[Target | Rejection]:
        if faults := self._key_faults(row, content):
            return [Rejection(line, *fault) for fault in faults]
        return self.checker.check(line, _given(row, self.columns.headers))

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
            else:
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
    return row


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
