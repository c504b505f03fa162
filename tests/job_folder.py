"""A folder with a job file, its target file, and what a run left in the run directory.

In: a job as a document, rows of a target file. Out: the files, and the reports read back. Nothing
here starts a run or knows a simulator; `harness` does.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""One row of a target file or a fleet, one entry of a ledger, or one JSON object of a report."""


class JobFolder:
    """A job and its targets in a folder.

    Args:
        folder: an existing folder.
        document: the job file as a document.
        rows: the rows of the target file.

    Attributes:
        document: see above; change it with `write`.
        rows: see above; change them with `write_targets`.
        run_dir: the directory that `bulkcert run` chooses, unless a test sets another one.
    """

    def __init__(self, folder: Path, document: Mapping[str, Any], rows: Iterable[Row]) -> None:
        self.folder = folder
        self.document = dict(document)
        self.rows = list(rows)
        self.job_file = folder / "job.toml"
        self.run_dir = folder / "runs" / "job"
        self.write_targets(self.rows)
        self.write()

    @property
    def target_file(self) -> Path:
        """The target file of the job."""
        return self.folder / str(self.document["targets"])

    def write(self, **sections: Any) -> None:
        """Write the job file with some sections or values changed.

        A section is merged into the one of that name: keys that it does not name stay.
        """
        for name, value in sections.items():
            old = self.document.get(name)
            merged = isinstance(old, dict) and isinstance(value, Mapping)
            self.document[name] = {**old, **value} if merged else value
        self.job_file.write_text(toml(self.document))

    def write_targets(self, rows: Iterable[Row]) -> None:
        """Write the target file: CSV or JSON Lines, by its name."""
        self.rows = list(rows)
        if self.target_file.suffix == ".jsonl":
            write_json_lines(self.target_file, self.rows)
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with self.target_file.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def write_rows(self, rows: Iterable[Sequence[object]], header: str = "assetId,certSn") -> None:
        """Write the target file as CSV, cell by cell; `rows` stay what they were."""
        write_csv(self.target_file, rows, header)

    def results(self) -> list[Row]:
        """The content of `results.jsonl`."""
        return read_json_lines(self.run_dir / "results.jsonl")

    def outcomes(self) -> list[str]:
        """The outcome of each operation, in target order."""
        return [result["outcome"] for result in self.results()]

    def outcome_counts(self) -> Counter[str]:
        """The number of operations with each outcome."""
        return Counter(self.outcomes())

    def summary(self) -> Row:
        """The content of `summary.json`."""
        return dict(json.loads((self.run_dir / "summary.json").read_text()))


def devices(count: int, prefix: str = "A") -> Iterator[tuple[str, int]]:
    """The cells of a target file for EnOS: devices `A0000`, `A0001`, … with a certificate each."""
    return ((f"{prefix}{number:04}", 1000 + number) for number in range(count))


def write_csv(path: Path, rows: Iterable[Sequence[object]], header: str = "assetId,certSn") -> Path:
    """Write a target file or a fleet."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json_lines(path: Path, rows: Iterable[Row]) -> Path:
    """Write a target file, a fleet or a ledger, one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_json_lines(path: Path) -> list[Row]:
    """Read one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def toml(document: Mapping[str, Any]) -> str:
    """Format a job as TOML: values first, then a section for each table."""
    plain = {name: value for name, value in document.items() if not isinstance(value, Mapping)}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items()]
    for section, table in document.items():
        if isinstance(table, Mapping):
            lines += [f"[{section}]"]
            lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"
