"""A target file as an iterable of targets and rejections.

In: a path or standard input, the action, the job's parameters and its [columns]. Out: as described
in the package's docstring. Must never report a digest before the whole file has been read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from bulkcert.errors import TargetsError
from bulkcert.model import Fields, Rejection, Target
from bulkcert.providers.base import Action
from bulkcert.targets.columns import ColumnMap
from bulkcert.targets.csv_reader import CsvReader
from bulkcert.targets.input import name_of, opened, unreadable
from bulkcert.targets.jsonl_reader import JsonlReader
from bulkcert.targets.lines import Format, Lines
from bulkcert.targets.row import RowChecker
from bulkcert.targets.tally import Tally

_EXTENSIONS: dict[str, tuple[Format, bool]] = {
    ".csv": ("csv", False),
    ".csv.gz": ("csv", True),
    ".jsonl": ("jsonl", False),
    ".jsonl.gz": ("jsonl", True),
}


class TargetFile:
    """A target file. Each iteration reads it again (standard input can be read only once).

    Args:
        source: the file, or None for standard input.
        action: defines which fields there are.
        parameters: the job's checked parameters; they supply the fields that a row does not give.
        columns: field name to the header (CSV) or key (JSONL) that the file uses for it.
        stdin: what to read when `source` is None; by default the standard input of the process.
        format: the format, if the file name does not show it; compression is then detected from
            the content.

    Attributes:
        sha256: digest of the content, decompressed for .gz; empty until all has been read.
    """

    def __init__(
        self,
        source: Path | None,
        action: Action,
        parameters: Fields,
        columns: Mapping[str, str],
        stdin: BinaryIO | None = None,
        format: Format | None = None,  # noqa: A002 - the usual word for it
    ) -> None:
        self.source = source
        self.sha256 = ""
        self._name = name_of(source)
        self._stdin = stdin
        self._format = format
        self._columns = ColumnMap(action, parameters, columns)
        self._checker = RowChecker(
            action, parameters, source.parent if source else Path(), self._columns.known
        )
        self._tally = Tally()

    @property
    def lines(self) -> int:
        """Rows read so far, good and bad, without the header and lines without content."""
        return self._tally.rows

    @property
    def left_out(self) -> int:
        """Rows read so far that a run wrote about devices without certificates."""
        return self._tally.left_out

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """Unknown headers or keys found so far: the first 50, shortened, safe to print."""
        return self._tally.unused_columns

    def __iter__(self) -> Iterator[Target | Rejection]:
        """Yield targets and rejections in file order.

        Raises:
            TargetsError: the file is unusable as a whole; ignore what was yielded before.
        """
        self.sha256, self._tally = "", Tally()
        form, zipped = self._stored_as()
        with opened(self.source, self._stdin, zipped) as raw:
            lines = Lines()
            try:
                form = lines.open(raw, form)
                reader = CsvReader if form == "csv" else JsonlReader
                yield from reader(self._name, self._columns, self._checker, self._tally).read(lines)
            except _DAMAGED as error:
                raise _damaged(self._name, f" after line {lines.number}", error) from error
            except OSError as error:
                raise unreadable(self._name, error) from error
        if not self.lines:
            raise TargetsError(
                f"{self._name}: no targets found: the file is empty or has only a header",
                "Check that this is the right file and that it is complete.",
            )
        self.sha256 = raw.hexdigest()

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
