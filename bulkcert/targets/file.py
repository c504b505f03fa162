"""A target file as an iterable of targets and rejections.

In: a path or standard input, the action, the job's parameters, its [columns] and its [format]. Out:
as described in the package's docstring. Must never report a digest before the whole file has been
read.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from bulkcert.errors import TargetsError
from bulkcert.job import UTF_8_WITH_COMMAS, CsvFormat, Job
from bulkcert.model import Fields, Rejection, Target
from bulkcert.providers.base import Action
from bulkcert.targets.columns import ColumnMap
from bulkcert.targets.csv_reader import CsvRows
from bulkcert.targets.delimiter import COMMA, seeming, what_to_add
from bulkcert.targets.encoding import seeming_encoding, wide_encoding
from bulkcert.targets.extra import ExtraColumns
from bulkcert.targets.input import name_of, opened, unreadable
from bulkcert.targets.jsonl_reader import JsonlReader
from bulkcert.targets.lines import Lines
from bulkcert.targets.records import own_columns
from bulkcert.targets.row import GoodRows, Row, RowChecker, Wanted, every_line, one_by_one
from bulkcert.targets.start import ZIP, Format, format_of, is_record, is_written_by_us
from bulkcert.targets.table import Table
from bulkcert.targets.tally import Tally
from bulkcert.targets.workbook import WorkbookRows

_EXTENSIONS: dict[str, tuple[Format, bool]] = {
    ".csv": ("csv", False),
    ".csv.gz": ("csv", True),
    ".jsonl": ("jsonl", False),
    ".jsonl.gz": ("jsonl", True),
    ".xlsx": ("xlsx", False),
}
_OTHERS: dict[Format, str] = {
    "jsonl": "JSON Lines are always UTF-8",
    "xlsx": "a workbook has its own",
}
_CHUNK = 2**18
_UTF_8 = ("", "utf-8", "utf-8-sig")


class TargetFile:
    """A target file. Each iteration reads it again; for standard input, see `repeatable`.

    Args:
        source: the file, or None for standard input.
        action: defines which fields there are.
        parameters: the job's checked parameters; they supply the fields that a row does not give.
        columns: field name to the header (CSV) or key (JSONL) that the file uses for it.
        stdin: what to read when `source` is None; by default the standard input of the process.
        format: the format, if the file name does not show it; compression is then detected from
            the content.
        csv_format: how the file is written if it is CSV.
        extra: which columns are kept although the job does not use them.
        made: see `ColumnMap`.

    Attributes:
        sha256: digest of the content, decompressed for .gz; empty until all has been read.
        header: the columns of the table; None for JSON Lines.
        advice: what to do about lines that are not UTF-8; empty if there are none.
    """

    def __init__(
        self,
        source: Path | None,
        action: Action,
        parameters: Fields,
        columns: Mapping[str, str],
        stdin: BinaryIO | None = None,
        format: Format | None = None,  # noqa: A002 - the usual word for it
        *,
        csv_format: CsvFormat = UTF_8_WITH_COMMAS,
        extra: ExtraColumns | None = None,
        made: Collection[str] = (),
    ) -> None:
        self.source = source
        self.sha256 = ""
        self.header: list[str] | None = None
        self.advice = ""
        self._name = name_of(source)
        self._stdin = stdin
        self._format = format
        self._csv_format = csv_format
        self._columns = ColumnMap(action, parameters, columns, made)
        self._checker = RowChecker(
            action, parameters, source.parent if source else Path(), self._columns.known
        )
        self._extra = extra or ExtraColumns(action.fields)
        self._tally = Tally()
        self._rows_of_table: Table | None = None
        self._copy: BinaryIO | None = None

    @classmethod
    def of(cls, job: Job, stdin: BinaryIO | None = None) -> Self:
        """The target file of a job."""
        fields = {name for action in job.provider.actions.values() for name in action.fields}
        return cls(
            job.targets,
            job.action,
            job.parameters,
            job.columns,
            stdin,
            csv_format=job.format,
            extra=ExtraColumns(fields, own_columns(job.provider)),
            made=job.action.key_fields.get(job.keys.generate, ()) if job.keys else (),
        )

    @property
    def lines(self) -> int:
        """Rows read so far, good and bad, without the header and lines without content."""
        return self._tally.rows

    @property
    def header_line(self) -> int:
        """The line of the header; 0 for JSON Lines."""
        return self._rows_of_table.header_line if self._rows_of_table else 0

    @property
    def without_certificates(self) -> int:
        """Rows read so far that a run wrote about devices without certificates."""
        return self._tally.without_certificates

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Unknown headers or keys found so far: the first 50, shortened, safe to print."""
        return self._tally.unused_columns

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Those of them that are kept for the reports."""
        return self._tally.extra_columns

    def __iter__(self) -> Iterator[Target | Rejection]:
        """Yield targets and rejections in file order; see `rows`."""
        for row in self.rows():
            yield from row.found

    def rows(self) -> Iterator[Row]:
        """Yield the rows in file order, one by one; see `read`."""
        return one_by_one(self.read())

    def read(self) -> Iterator[Row | GoodRows]:
        """Yield the rows in file order, many at once where all are good.

        Raises:
            TargetsError: the file is unusable as a whole; ignore what was yielded before.
        """
        self.sha256, self.header, self.advice, self._tally = "", None, "", Tally()
        sha256 = yield from self._read(every_line, self._tally)
        if not self.lines:
            raise TargetsError(
                f"{self._name}: no targets found: the file is empty or has only a header",
                "Check that this is the right file and that it is complete.",
            )
        self.sha256 = sha256

    def rows_again(self, wanted: Wanted) -> Iterator[Row]:
        """Read rows of the file a second time; see `repeatable`.

        Args:
            wanted: whether the row that begins on a line is to be read; called in file order.

        Raises:
            TargetsError: the file has changed since; ignore what was yielded before.
        """
        # only whole files are read many rows at once
        rows = cast("Generator[Row, None, str]", self._read(wanted, Tally()))
        sha256 = yield from rows
        if sha256 != self.sha256:
            raise TargetsError(
                f"{self._name}: the file was changed while it was read",
                "Wait until it is complete, then run the same command again.",
            )

    @contextlib.contextmanager
    def repeatable(self) -> Iterator[None]:
        """Return a context in which the file can be read several times, whatever it is."""
        if self.source is not None and self.source.is_file():
            yield
            return
        with tempfile.TemporaryFile() as copy, opened(self.source, self._stdin, False) as content:
            try:
                shutil.copyfileobj(content, copy)
            except OSError as error:
                raise unreadable(self._name, error) from error
            self._copy = cast(BinaryIO, copy)
            try:
                yield
            finally:
                self._copy = None

    def _read(self, wanted: Wanted, tally: Tally) -> Generator[Row | GoodRows, None, str]:
        """Yield the rows that are wanted, and return the digest of the whole content."""
        form, zipped = self._stored_as()
        if self._copy is not None:
            self._copy.seek(0)
        with opened(None if self._copy else self.source, self._copy or self._stdin, zipped) as raw:
            position = _Position()
            try:
                content = io.BufferedReader(raw, _CHUNK)
                start = content.peek()
                form = form or format_of(start)
                self._check_format(form, start)
                if form == "csv":
                    yield from self._read_csv(content, start, wanted, tally, position)
                elif form == "jsonl":
                    position.lines = Lines(content)
                    reader = JsonlReader(
                        self._name, self._columns, self._checker, tally, self._extra
                    )
                    yield from reader.read(position.lines, wanted)
                else:
                    raw.drain()
                    table = self._table(tally, "Check the first row of the first sheet.")
                    with WorkbookRows(self._name, raw.stored) as rows:
                        yield from table.read(rows, wanted)
            except _DAMAGED as error:
                raise _damaged(self._name, position.where, error) from error
            except OSError as error:
                raise unreadable(self._name, error) from error
        return raw.hexdigest()

    def _read_csv(
        self,
        content: io.BufferedReader[Any],
        start: bytes,
        wanted: Wanted,
        tally: Tally,
        at: _Position,
    ) -> Iterator[Row | GoodRows]:
        how = UTF_8_WITH_COMMAS if is_written_by_us(start) else self._csv_format
        encoding = "utf-8" if how.encoding in _UTF_8 else how.encoding
        if encoding == "utf-8" and (wide := wide_encoding(start)):
            raise self._in_wide_encoding(wide, start)
        lines = at.lines = Lines(content, encoding)
        table = self._table(tally, lambda: self._how_to_save(lines.seems))
        table.encoding = seeming_encoding(start) if encoding == "utf-8" else ""
        try:
            yield from table.read(CsvRows(lines, how.delimiter), wanted)
        finally:
            if lines.seems:
                self.advice = f"Some lines are not UTF-8. {self._how_to_save(lines.seems)}"

    def _table(self, tally: Tally, next_step: str | Callable[[], str]) -> Table:
        self.header = []
        self._rows_of_table = Table(
            name=self._name,
            columns=self._columns,
            checker=self._checker,
            tally=tally,
            extra=self._extra,
            header=self.header,
            next_step=next_step if callable(next_step) else lambda: next_step,
            has_format=bool(self._csv_format),
        )
        return self._rows_of_table

    def _check_format(self, form: Format, start: bytes) -> None:
        """Refuse a [format] for what is not CSV, and content that is not what its name says.

        Raises:
            TargetsError: there is something to refuse.
        """
        if form != "csv" and self._csv_format and not is_record(start):
            raise TargetsError(
                f"{self._name}: [format] in the job file is for CSV; {_OTHERS[form]}",
                "Remove [format] from the job file, or use a CSV file.",
            )
        if form == "jsonl" and wide_encoding(start):
            raise TargetsError(
                f"{self._name}: the file is not UTF-8", "Save it as JSON Lines in UTF-8."
            )
        if form == "csv" and start.startswith(ZIP):
            raise TargetsError(
                f"{self._name}: this is not CSV, but looks like an Excel workbook",
                "Use a name that ends in .xlsx, or save the sheet as CSV in UTF-8.",
            )

    def _in_wide_encoding(self, encoding: str, start: bytes) -> TargetsError:
        header = start.decode(encoding, "replace").lstrip("\ufeff").partition("\n")[0]
        sign = seeming(header)
        lines = what_to_add(
            delimiter="" if sign in (COMMA, self._csv_format.delimiter) else sign,
            encoding=encoding,
            to_section=bool(self._csv_format),
        )
        return TargetsError(
            f"{self._name}: the file seems to be {encoding.upper()}, not UTF-8",
            f"Save it as CSV in UTF-8, or {lines}",
        )

    def _how_to_save(self, seems: str) -> str:
        save = "Save the file as CSV in UTF-8"
        if not seems:
            return f"{save}; if it is compressed, its name must end in .gz."
        lines = what_to_add(encoding=seems, to_section=bool(self._csv_format))
        return f"{save}, or, if it is {seems.upper()}, as it seems, {lines}"

    def _stored_as(self) -> tuple[Format | None, bool | None]:
        """The format, and whether it is compressed; None where the content must show it."""
        if self.source is None or self._format:
            return self._format, None
        name = self.source.name.lower()
        for extension, stored_as in _EXTENSIONS.items():
            if name.endswith(extension):
                return stored_as
        raise TargetsError(
            f"{self._name}: the file name does not show the format",
            f"Use a name that ends in one of {', '.join(_EXTENSIONS)}.",
        )


class _Position:
    """How far a file has been read."""

    lines: Lines | None = None

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f" after line {self.lines.number if self.lines else 0}"


_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""What is raised for gzip data that can't be decompressed."""


def _damaged(name: str, where: str, error: Exception) -> TargetsError:
    return TargetsError(
        f"{name}: the gzip data is cut short or damaged{where}: {error}",
        "Create or copy the file again; `gzip -t` checks whether it is intact.",
    )


def digest(source: Path | None, stdin: BinaryIO | None = None) -> str:
    """Compute the `sha256` of a `TargetFile` of this source, without checking its rows.

    Raises:
        TargetsError: the file cannot be read.
    """
    with opened(source, stdin) as raw:
        try:
            raw.drain()
        except _DAMAGED as error:
            raise _damaged(name_of(source), "", error) from error
        except OSError as error:
            raise unreadable(name_of(source), error) from error
    return raw.hexdigest()
