"""The values of columns that the rules of a job name, as the target file has them.

In: rows of a target file. Out: one text for each of the columns; empty where a row has no value. A
column is named by its header or key, or by the field that [columns] gives it to. Must never take a
column that is not there for one that is empty.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from bulkcert.errors import TargetsError
from bulkcert.job import Job
from bulkcert.targets.extra import kept
from bulkcert.targets.file import TargetFile
from bulkcert.targets.input import name_of
from bulkcert.targets.records import has_target
from bulkcert.targets.row import Row
from bulkcert.targets.wording import listed
from bulkcert.values import shown

_MOST_COMPARED = 200
_LONGEST = 1000  # characters that count


class ChosenColumns:
    """Finds the values of columns.

    Args:
        job: the job.
        places: the columns, and which key of the job file names each.
        targets: the target file.
    """

    def __init__(self, job: Job, places: Mapping[str, str], targets: TargetFile) -> None:
        self._job = job
        self._places = places
        self._columns = job.columns
        self._targets = targets
        self._positions: list[int] | None = None
        self._unseen: set[str] | None = None  # until the first row that is not of a table

    def of(self, row: Row) -> list[str]:
        """Return the values in a good row of the file, while the file is read.

        Raises:
            TargetsError: the table has no such column.
        """
        cells, header = row.cells, self._targets.header
        if header is not None:
            if self._positions is None:
                self._positions = self._find(header)
            assert isinstance(cells, Sequence)
            return [cells[at].strip()[:_LONGEST] for at in self._positions]
        assert isinstance(cells, Mapping)
        if self._unseen is None:
            self._unseen = set(self._places)
        objects = [cells["target"], cells] if has_target(cells) else [cells]
        values = []
        for name in self._places:
            key, value = self._entry(name, objects)
            if key:
                self._unseen.discard(name)
            values.append(_text(value))
        return values

    def require(self) -> None:
        """Make sure that each column was in some row, at the end of a file that is not a table.

        Raises:
            TargetsError: a column was in none.
        """
        if self._unseen:
            raise self._missing("is on no line of", self._unseen, [])

    def _find(self, header: Sequence[str]) -> list[int]:
        """Return the positions of the columns."""
        headers = {name: self._header(name, header) for name in self._places}
        if missing := [name for name in self._places if headers[name] not in header]:
            why = f"is not in the header, line {self._targets.header_line} of"
            raise self._missing(why, missing, header)
        return [header.index(headers[name]) for name in self._places]

    def _header(self, name: str, present: Iterable[str]) -> str:
        return name if name in present else self._columns.get(name, name)

    def _entry(self, name: str, objects: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
        """Return the key and the value of a column; an empty key if it is not there."""
        for each in objects:
            key = self._header(name, each)
            if key in each:
                return key, each[key]
        return "", None

    def _missing(self, why: str, missing: Iterable[str], header: Sequence[str]) -> TargetsError:
        file = name_of(self._targets.source)
        problems = "\n".join(
            f"{self._job.at(self._places[name])} names the column {shown(name)}, which {why} {file}"
            for name in missing
        )
        step = "Correct [rollout] in the job file, or add the column to the target file."
        similar = [
            match
            for name in missing
            for match in difflib.get_close_matches(name, header[:_MOST_COMPARED], 1)
        ]
        if similar:
            step += f" Did you mean {listed(similar)}?"
        elif header:
            step += f" The headers are: {listed(list(header))}"
        return TargetsError(problems, step)


def _text(value: Any) -> str:
    """Return a value of a row as text; empty for none."""
    if value is None:
        return ""
    text = value.strip() if isinstance(value, str) else orjson.dumps(kept(value)).decode()
    return text[:_LONGEST]
