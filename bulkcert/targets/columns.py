"""Which header (CSV) or key (JSONL) of a target file contains which field.

In: the action's fields, [columns] of the job file, and the headers of a file. Out: the position of
each field, or what is wrong with the header and how to correct it. Must never accept a header that
only looks like a field: it is reported, with the mapping to add.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from bulkcert.errors import TargetsError
from bulkcert.model import Fields
from bulkcert.providers.base import Action
from bulkcert.targets.delimiter import how_to_separate
from bulkcert.targets.records import certificate_fields, chosen, refuse_ambiguity
from bulkcert.targets.wording import either, identifiers_of, no_default, toml_line
from bulkcert.values import shown

_LONGEST_COMPARED = 100  # characters of an unknown header
_MOST_COMPARED = 200
_SEPARATORS = str.maketrans("", "", " -_")


class ColumnMap:
    """The fields of an action, and the headers or keys that contain them.

    Args:
        action: defines the fields.
        parameters: the job's parameters; a field that they supply needs no column.
        columns: field name to header, from [columns] of the job file.
        made: fields that a generated key decides. In a file that a run wrote they describe the old
            certificate, so they are not taken from there.

    Attributes:
        headers: by field name, in field order. If [columns] gives a header to one field, the field
            with that name is not looked for there.
        mapped: the part of `headers` that comes from [columns].
        known: the values of `headers`.
    """

    def __init__(
        self,
        action: Action,
        parameters: Fields,
        columns: Mapping[str, str],
        made: Collection[str] = (),
    ) -> None:
        self._action, self._columns, self._made = action, columns, made
        taken = set(columns.values())
        self.headers = {
            name: columns.get(name, name)
            for name in action.fields
            if name in columns or name not in taken
        }
        self.mapped = {name: header for name, header in self.headers.items() if name in columns}
        self.known = set(self.headers.values())
        self._parameters = parameters
        self._certificate = certificate_fields(action)
        self._required = action.required
        self._identifiers = identifiers_of(action)
        self._excluded = {_fold(name) for name in action.excluded}
        self._folded = {_fold(name): name for name in action.fields if name not in columns}

    @cached_property
    def of_a_run(self) -> ColumnMap:
        """Return the map for a file that a run wrote."""
        optional = tuple(f for f in self._action.optional if f.name not in self._made)
        action = dataclasses.replace(self._action, optional=optional)
        return ColumnMap(action, self._parameters, self.chosen)

    @property
    def chosen(self) -> Mapping[str, str]:
        """What [columns] says of a file that a run wrote."""
        return chosen(self._columns)

    def names_no_certificate(self, given: Collection[str]) -> bool:
        """Whether a row with these fields lacks the certificate that the action is about."""
        return bool(self._certificate) and self._certificate.isdisjoint(given)

    def refuse_ambiguity(self, name: str, headers: Collection[str]) -> None:
        """Refuse a file with both certificates of a renewal; see `records.refuse_ambiguity`.

        Signing requests beside `[keys]` are refused as well: either could be meant.
        """
        refuse_ambiguity(name, self._action, self._columns, headers)
        for header in headers if self._excluded else ():
            if len(header) <= _LONGEST_COMPARED and _fold(header) in self._excluded:
                raise TargetsError(
                    f"{name}: {shown(header)} can't be used together with [keys] of the job file,"
                    " which makes a new key for each device",
                    f"Remove {shown(header)} from the file to have keys made, or remove [keys] from"
                    " the job file to use what it contains.",
                )

    def positions(self, headers: list[str]) -> dict[str, int]:
        """Return the positions of the fields that a CSV file has, in field order."""
        return {f: headers.index(header) for f, header in self.headers.items() if header in headers}

    def resembled_by(self, header: str) -> str | None:
        """Return the field whose name differs from an unknown header only in case or separators."""
        return self._folded.get(_fold(header)) if len(header) <= _LONGEST_COMPARED else None

    def judge(self, headers: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return the faults of a CSV header, and a mapping (field to header) that may fix them."""
        found = self.positions(headers)
        unknown = [header for header in headers if header not in self.known]
        resembled = {
            field: header
            for header in reversed(unknown)  # so that the first of several wins
            if (field := self.resembled_by(header)) and field not in found
        }
        faults = [
            f"the header {shown(headers[position])} appears more than once"
            for position in found.values()
            if headers.count(headers[position]) > 1
        ]
        faults += [
            f"[columns] maps {field} to the header {shown(header)}, but the file has no such header"
            for field, header in self.mapped.items()
            if field not in found
        ]
        faults += [
            f"the header {shown(header)} looks like {field}; "
            "rename the column or map it under [columns]"
            for field, header in resembled.items()
        ]
        missing = self._missing({*found, *resembled, *self.mapped, *self._parameters})
        return faults + list(missing), resembled | self._similar(missing.values(), unknown)

    def _missing(self, present: set[str]) -> dict[str, list[str]]:
        """Return the faults of rows with the fields `present`, and the fields that would help."""
        missing = {
            f"the column {field.name} is missing{no_default(field)}": [field.name]
            for field in self._required
            if field.name not in present
        }
        if not any(present.issuperset(way) for way in self._identifiers):
            missing[f"no column names the device: add {either(self._identifiers)}"] = [
                name for way in self._identifiers for name in way if name not in present
            ]
        return missing

    @staticmethod
    def _similar(missing: Iterable[list[str]], unknown: list[str]) -> dict[str, str]:
        """Find the most similar unknown header for each missing field, if any is similar."""
        short = (header for header in unknown[:_MOST_COMPARED] if len(header) <= _LONGEST_COMPARED)
        by_fold = {_fold(header): header for header in short}
        similar = {
            name: difflib.get_close_matches(_fold(name), by_fold, n=1)
            for names in missing
            for name in names
        }
        return {name: by_fold[folds[0]] for name, folds in similar.items() if folds}


def how_to_correct(
    headers: list[str],
    mapping: dict[str, str],
    text: str,
    delimiter: str,
    *,
    encoding: str,
    to_section: bool,
) -> str:
    """Return the next step for a header with faults.

    Args:
        headers: the header.
        mapping: from `ColumnMap.judge`.
        text: the line with the header.
        delimiter: the sign that it was separated by.
        encoding: what the file is probably in; empty for UTF-8.
        to_section: the job file has a section [format].
    """
    if headers[0].startswith(("{", "[")):
        return "This looks like JSON. Write one object per line, and use a name ending in .jsonl."
    if advice := how_to_separate(text, delimiter, encoding=encoding, to_section=to_section):
        return advice
    if not mapping:
        return "Correct the header, or map the columns in the job file under [columns]."
    lines = "\n".join(toml_line(*pair) for pair in mapping.items())
    return (
        "Correct the header, or, if this is what the columns mean, add to the job file:\n"
        f"[columns]\n{lines}"
    )


def _fold(header: str) -> str:
    """Reduce a header to what counts in comparisons: not case, not separators."""
    return header.translate(_SEPARATORS).casefold()
