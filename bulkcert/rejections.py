"""The rows of a target file that are not carried out: each in a file, with the reason.

In: rows, as they were written. Out: `rejected.csv`, in which they can be corrected and which can
then be a target file; for JSON Lines, `rejected.jsonl` besides; `repeated.csv`. Must never copy a
private key, nor write a row in a way in which it would mean something else.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bulkcert import durable
from bulkcert.errors import RunDirectoryError, TargetsError, TargetsRejectedError
from bulkcert.json_lines import as_json
from bulkcert.model import Rejection
from bulkcert.pem import has_private_key
from bulkcert.quantities import count
from bulkcert.rundir import RunDirectory
from bulkcert.targets.rejected import REJECTED
from bulkcert.targets.row import Row, UnreadableCell, may_be_secret

FIRST_SHOWN = 20
"""Number of rejections that are kept in memory, to be shown."""

_LONGEST_TEXT = 30_000  # characters; a cell of Excel has room for 32,767
_NOT_COPIED = "not copied: it may contain a private key"
_KEY_LINE = re.compile(r"^[A-Za-z0-9+/=]{40,}\s*$", re.MULTILINE)


class RowFile:
    """One file of rows: all of them on disk, the first few reasons in memory.

    The file is created with the first row, and a file of an earlier check is removed. If it can't
    be written, collecting goes on, so that the operator at least sees the first few.

    Args:
        directory: the run directory, created together with the file.
        path: the file in it, whose name ends in `.csv`.
        columns: names of the columns for line, field, reason and text, before those of the row.
        keep: leave the file of an earlier check as it is, and write nothing.

    Attributes:
        path: the file.
        usable: the file that can be a target file once its rows are corrected.
        rows: number of rows so far.
        total: number of reasons so far.
        first: the first few.
        write_error: why the file could not be written, or empty.
    """

    def __init__(
        self,
        directory: RunDirectory,
        path: Path,
        columns: Sequence[str] = REJECTED,
        *,
        keep: bool = False,
    ) -> None:
        self.path = self.usable = path
        self.rows = self.total = 0
        self.first: list[Rejection] = []
        self.write_error = ""
        self._directory, self._columns = directory, columns
        self._objects = path.with_suffix(".jsonl")
        self._keep = keep
        self._csv: IO[str] | None = None
        self._jsonl: IO[bytes] | None = None
        with self._keep_write_error():
            for file in () if keep else (path, self._objects):
                file.unlink(missing_ok=True)
        self.write_error = ""

    def add(self, row: Row, reasons: Sequence[Rejection], header: Sequence[str] | None) -> None:
        """Add one row.

        Args:
            row: the row.
            reasons: why it is here; at least one.
            header: the columns of the target file; None if it has none.
        """
        with self._keep_write_error():
            if not self.write_error and not self._keep:
                self._write(row, reasons, header)
        self.rows += 1
        self.total += len(reasons)
        self.first += reasons[: FIRST_SHOWN - len(self.first)]

    def close(self) -> None:
        """Close the files."""
        with self._keep_write_error():
            for file in (self._csv, self._jsonl):
                if file is not None:
                    file.close()

    def _write(self, row: Row, reasons: Sequence[Rejection], header: Sequence[str] | None) -> None:
        kept = [name for name in header or () if name not in self._columns]
        if self._csv is None:
            self._directory.create()
            descriptor = durable.create(self.path, 0o666)
            self._csv = os.fdopen(descriptor, "w", newline="", encoding="utf-8")
            csv.writer(self._csv).writerow([*self._columns, *kept])
            if header is None and self._columns is REJECTED:
                self._jsonl = os.fdopen(durable.create(self._objects, 0o666), "wb")
                self.usable = self._objects
        about = [
            str(reasons[0].line),
            ", ".join(dict.fromkeys(reason.field for reason in reasons if reason.field)),
            "; ".join(reason.fault for reason in reasons),
        ]
        cells, text = self._cells(row, reasons, header or ())
        csv.writer(self._csv).writerow([*about, text, *cells])
        if self._jsonl is not None:
            entry: dict[str, Any] = dict(zip(self._columns, about, strict=False))
            entry[self._columns[0]] = reasons[0].line
            if isinstance(row.cells, Mapping) and text != _NOT_COPIED:
                entry |= {n: value for n, value in row.cells.items() if n not in self._columns}
            else:
                entry[self._columns[-1]] = text
            self._jsonl.write(as_json(entry) + b"\n")

    def _cells(
        self, row: Row, reasons: Sequence[Rejection], header: Sequence[str]
    ) -> tuple[list[str], str]:
        """Return the cells of a row, and the text of what is not in them."""
        cells, text = row.cells, row.text
        empty = [""] * sum(name not in self._columns for name in header)
        if isinstance(cells, Mapping):
            cells, text = None, as_json(cells).decode()
        secret = any(may_be_secret(reason.reason) for reason in reasons)
        content = text if cells is None else "\n".join(cells)
        if secret or has_private_key(content) or (cells is None and _KEY_LINE.search(text)):
            return empty, _NOT_COPIED
        if cells is None:
            text = text.rstrip("\r\n")
            cut = len(text) > _LONGEST_TEXT
            # never empty: that would say that the row is in its columns
            return empty, f"{text[:_LONGEST_TEXT]}…" if cut else text or "not text"
        named = [pair for pair in zip(header, cells, strict=True) if pair[0] not in self._columns]
        bad = [f"{n}: {cell}" for n, cell in named if isinstance(cell, UnreadableCell)]
        return ["" if isinstance(c, UnreadableCell) else c for _, c in named], "; ".join(bad)

    @contextmanager
    def _keep_write_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.write_error = error.strerror or str(error)
        except RunDirectoryError as error:
            self.write_error = error.problem


def is_same_file(first: Path | None, second: Path) -> bool:
    """Whether two paths are the same file, which exists."""
    try:
        return first is not None and first.samefile(second)
    except (OSError, ValueError):
        return False


def usable_rows(directory: Path) -> Path:
    """Return the file in a run directory in which its bad rows can be corrected."""
    path = RunDirectory(directory).rejected
    objects = path.with_suffix(".jsonl")
    return objects if objects.exists() else path


def command_for_corrected(job_file: Path | None, directory: Path) -> str:
    """Return the command that does the corrected rows of a run, in the next run of the job.

    Args:
        job_file: the job; None if it has no file.
        directory: the run directory.
    """
    folder = directory.absolute()
    job = job_file.absolute() if job_file else Path("JOB")
    words = ["bulkcert", "run", job, "--targets", usable_rows(folder), "--new"]
    if folder.parent != job.parent / "runs":
        words += ["--run-dir", folder]
    return shlex.join(map(str, words))


def refuse_own_output(source: Path | None, directory: RunDirectory) -> None:
    """Refuse to overwrite the target file with a list of its own rows.

    Raises:
        TargetsError: it is in the way.
    """
    if any(is_same_file(source, path) for path in (directory.repeated, directory.protected)):
        raise TargetsError(
            f"{source} lists rows that the run in {directory.path} leaves out; it is not a target"
            " file.",
            "Name the target file.",
        )
    own = (directory.rejected, directory.rejected.with_suffix(".jsonl"))
    if any(is_same_file(source, path) for path in own):
        raise TargetsError(
            f"{source} contains the rejected rows of the run in {directory.path}; as the"
            " target file of that run, it would be overwritten.",
            "Corrected rows are the next run of the job, once this one is over: add --new.",
        )


def refusal(
    job_file: Path | None, advice: str, rejected: RowFile, unbounded: Rejection | None
) -> TargetsRejectedError:
    """Build the error for a target file with bad rows.

    Args:
        job_file: the job, for the next command.
        advice: what to do about the file besides.
        rejected: its bad rows.
        unbounded: the first that can't be left out, if that was asked for.
    """
    total = rejected.total
    problem = f"The target file has {count(total, 'error')}"
    path = rejected.path.absolute()
    where = f"{path} lists {'it' if total == 1 else 'all of them'}."
    if rejected.write_error:
        where = f"{path} can't be written: {rejected.write_error}."
    steps = [f"{where} Fix the target file, then run the same command again."]
    if unbounded:
        problem += (
            f". The row on line {unbounded.line} may contain several rows, so nobody can say what"
            " --skip-rejected would leave out"
        )
    elif not rejected.write_error:
        steps += [
            "Or leave the bad rows out with --skip-rejected, correct them in"
            f" {rejected.usable.name}, and do them in a run of their own:",
            f"  {command_for_corrected(job_file, path.parent)}",
        ]
    return TargetsRejectedError(
        f"{problem}; nothing was sent.",
        "\n".join(filter(None, [*steps, advice])),
        first=rejected.first,
        total=total,
    )


def no_targets(without_certificates: int, rejected: RowFile, protected: RowFile) -> TargetsError:
    """Build the error for a target file that leaves nothing to do.

    Args:
        without_certificates: rows about devices that have none.
        rejected: its bad rows.
        protected: its rows that must not be touched.
    """
    if protected.rows:
        also = (
            f" The other {count(rejected.rows, 'row is', 'rows are')} bad." if rejected.rows else ""
        )
        return TargetsError(
            f"No target may be touched; nothing was sent.{also}",
            f"{protected.path.absolute()} lists them.",
        )
    if rejected.rows:
        return TargetsRejectedError(
            "All rows of the target file are bad; nothing was sent.",
            f"{rejected.path.absolute()} lists them. Fix the target file, then run the same command"
            " again.",
            first=rejected.first,
            total=rejected.total,
        )
    only = "only devices without certificates" if without_certificates else "no targets"
    return TargetsError(f"The target file contains {only}.", "Add at least one row.")


def skip_options(left_out: int, protected: int) -> tuple[str, ...]:
    """The options of the command line with which rows are left out.

    Args:
        left_out: number of rows that are left out.
        protected: those of them that must not be touched; the others are bad.
    """
    bad = ("--skip-rejected",) if left_out > protected else ()
    return (*bad, "--skip-protected") if protected else bad
