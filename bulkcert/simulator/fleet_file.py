"""Read a fleet file: the devices and certificates that exist when the simulator starts.

In: a CSV or JSON Lines file, the headers that it uses for some fields, and the fields that all rows
share. Out: its rows by field, one at a time. What a row means is up to the vendor that it belongs
to.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class FleetFile:
    """A file of devices and certificates, such as the target file of a job.

    Attributes:
        columns: field name to the header or key that the file uses for it.
        common: fields of all rows; a row's own take precedence, unless they are empty.
    """

    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows of the file by field name, numbered from 1.

        Raises:
            OSError: the file can't be read.
            ValueError: see `read_rows`; or no row has a column that `columns` names.
        """
        unseen = set(self.columns.values())
        names = {header: name for name, header in self.columns.items()}
        for number, row in read_rows(self.path):
            unseen.difference_update(row)
            fields = {names.get(header, header): value for header, value in row.items()}
            if self.common:
                own = {name: value for name, value in fields.items() if value not in ("", None)}
                fields = {**self.common, **own}
            yield number, fields
        if unseen:
            raise ValueError(f"{self.path} has no column {sorted(unseen)[0]!r}")


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a `.csv` or `.jsonl` file, numbered from 1; either may be compressed (`.gz`).

    Raises:
        OSError: the file can't be read.
        ValueError: the file has another suffix, or a line does not have the suffix's format.
    """
    name = path.name.removesuffix(".gz")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as raw:
        if name.endswith(".csv"):
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            lines = csv.reader(text)
            header = next(lines, [])
            for number, line in enumerate(lines, 1):
                yield number, dict(zip(header, line, strict=False))
        elif name.endswith(".jsonl"):
            for number, content in enumerate(raw, 1):
                if content := content.removeprefix(b"\xef\xbb\xbf").strip():
                    yield number, orjson.loads(content)
        else:
            raise ValueError(f"{path} is neither .csv nor .jsonl (nor either with .gz)")
