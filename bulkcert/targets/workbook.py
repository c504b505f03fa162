"""Rows of cells from the first sheet of an Excel workbook.

In: a file. Out: the cells of each row with content, as text. Whole numbers are read digit by digit;
what a cell may have lost or changed is an `UnreadableCell`. Must never guess what a cell means, nor
unpack more than the limits below.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator
from itertools import repeat
from types import TracebackType
from typing import Any, BinaryIO, Self

from bulkcert.errors import TargetsError
from bulkcert.pem import PRIVATE_KEY_FOUND, has_private_key
from bulkcert.targets.delimiter import COMMA
from bulkcert.targets.row import UnreadableCell
from bulkcert.values import shown

_LARGEST_SHEET = 2**31  # bytes of XML, which is read as a stream
_LARGEST_PART = 2**28  # of what is kept in memory: the texts, the styles
_LARGEST_ROW = 2**23
_MOST_ROWS = 2**20  # of Excel
_EXACT = 10**15  # a spreadsheet keeps 15 digits
_CHUNK = 2**18
_FORMULA = re.compile(rb"<(\w+:)?f[ />]")

_AS_TEXT = "format the column as text, and enter the value again"


class WorkbookRows:
    """The rows of the first sheet with content: number, cells, and the fault if any.

    A context: it closes the workbook.

    Args:
        name: of the file, for messages.
        file: the workbook.

    Raises:
        TargetsError: it can't be read, or the library for it is not installed.

    Attributes:
        delimiter, text: as in `CsvRows`; a sheet has neither.
        has_types: True: a cell may be an `UnreadableCell`.
        end: number of the last row.
    """

    delimiter, text, has_types = COMMA, "", True

    def __init__(self, name: str, file: BinaryIO) -> None:
        try:
            import openpyxl
        except ImportError:
            raise TargetsError(
                f"{name}: to read an Excel workbook, bulkcert needs openpyxl",
                "Run `pip install 'bulkcert[excel]'`, or save the sheet as CSV in UTF-8.",
            ) from None
        self.end = 0
        self._name = name
        self._workbooks: list[Any] = []
        try:
            formulas = self._checked(file)
            for data_only in [True, False] if formulas else [True]:
                file.seek(0)
                self._workbooks.append(
                    openpyxl.load_workbook(file, read_only=True, data_only=data_only)
                )
        except TargetsError:
            raise
        except Exception as error:
            self._close()
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        rows, width = self._rows(), 0
        while True:
            try:
                row = next(rows, None)
            except TargetsError:
                raise
            except Exception as error:
                raise self._unreadable(error) from error
            if row is None:
                return
            number, cells = row
            self.end = number
            if number > _MOST_ROWS:
                raise self._too_large("the sheet has more rows than Excel allows")
            while cells and not cells[-1].strip():
                cells.pop()
            if not cells:
                continue
            width = width or len(cells)  # of the header
            cells += [""] * (width - len(cells))
            yield number, cells, PRIVATE_KEY_FOUND if any(map(has_private_key, cells)) else ""

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the cells of each row; where there are formulas, with those."""
        values, *formulas = [workbook.worksheets[0] for workbook in self._workbooks]
        for sheet in (values, *formulas):
            sheet.reset_dimensions()  # what a file says about them may be wrong
        others = formulas[0].iter_rows() if formulas else repeat(())
        for number, (row, other) in enumerate(zip(values.iter_rows(), others, strict=False), 1):
            cells = list(map(_text, row))
            for position, cell in enumerate(other):
                if cell.data_type == "f" and row[position].value is None:
                    reason = "is a formula without a result; open and save it in a spreadsheet"
                    cells[position] = UnreadableCell("=", reason)
            yield number, cells

    def _checked(self, file: BinaryIO) -> bool:
        """Check the sizes of all parts before anything is unpacked.

        Returns:
            Whether the first sheets contain formulas.
        """
        file.seek(0)
        formulas = False
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                is_sheet = part.filename.startswith("xl/worksheets/")
                most = _LARGEST_SHEET if is_sheet else _LARGEST_PART
                if part.file_size > most and part.filename.endswith((".xml", ".rels")):
                    raise self._too_large(f"its part {shown(part.filename)} is too large")
                if is_sheet and part.filename.endswith(".xml"):
                    formulas |= self._scanned(archive, part)
        return formulas

    def _scanned(self, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
        """Whether a sheet contains formulas; refuse one whose rows don't fit in memory."""
        formulas, tail, since_row = False, b"", 0
        with archive.open(part) as content:
            while chunk := content.read(_CHUNK):
                window = tail + chunk
                formulas = formulas or _FORMULA.search(window) is not None
                row = max(window.rfind(b"<row"), window.rfind(b":row"))
                since_row = len(window) - row if row >= 0 else since_row + len(chunk)
                if since_row > _LARGEST_ROW:
                    raise self._too_large("a row of a sheet is too large")
                tail = window[-20:]
        return formulas

    def _too_large(self, reason: str) -> TargetsError:
        return TargetsError(
            f"{self._name}: the workbook can't be used: {reason}", "Save the sheet as CSV in UTF-8."
        )

    def _unreadable(self, error: Exception) -> TargetsError:
        return TargetsError(
            f"{self._name}: this can't be read as an Excel workbook: {shown(str(error), 200)}",
            "If it has a password, remove it; or save the sheet as CSV in UTF-8.",
        )

    def _close(self) -> None:
        for workbook in self._workbooks:
            workbook.close()


def _text(cell: Any) -> str:
    """Return a cell as text."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        return UnreadableCell(str(value), "is an error value of the workbook")
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return UnreadableCell(str(value).upper(), f"is a truth value in the workbook; {_AS_TEXT}")
    if isinstance(value, int | float):
        if abs(value) >= _EXACT:
            reason = f"is a number of more than 15 digits, the last of which are lost; {_AS_TEXT}"
            return UnreadableCell(f"{float(value):.5E}", reason)
        if value == int(value):
            return str(int(value))
        return UnreadableCell(repr(value), f"is not a whole number in the workbook; {_AS_TEXT}")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return UnreadableCell(str(value), f"is a date or a time in the workbook; {_AS_TEXT}")
    return UnreadableCell(str(value), f"can't be read from the workbook; {_AS_TEXT}")
