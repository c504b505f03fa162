"""Rows of cells from lines of CSV.

In: lines of text. Out: the cells of each row with content, and what is wrong with it; or those of
many rows at once, where nothing is. Must never join, split or repair cells.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator

from bulkcert.targets.delimiter import COMMA, declared
from bulkcert.targets.lines import Block, EndlessRowError, Lines


class CsvRows:
    """The rows of a CSV file with content: number of the first line, cells, and the fault if any.

    Args:
        lines: the lines of the file.
        delimiter: what separates the cells, unless the first line declares it.

    Attributes:
        delimiter: what separates the cells.
        has_types: False: all cells are text.
    """

    has_types = False

    def __init__(self, lines: Lines, delimiter: str = "") -> None:
        self._lines = lines
        self.delimiter = delimiter or COMMA

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        return self.until(sys.maxsize)

    def until(self, last: int) -> Iterator[tuple[int, list[str], str]]:
        """Yield the next rows, up to the one that this line belongs to."""
        lines, reader = self._lines, self._reader(self._lines)
        while lines.number < last:
            line, fault = lines.begin_row(), ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, EndlessRowError) as error:
                cells, fault = [], _fault(error)
            if line == 1 and (sign := declared(lines.text)):
                self.delimiter = sign
                reader = self._reader(lines)
                continue
            fault = lines.fault or fault
            if fault or (cells and (cells[0].strip() or any(map(str.strip, cells)))):
                yield line, cells, fault

    def block(self) -> tuple[Block, list[list[str]]]:
        """Look at the next rows; `skip` takes them.

        Returns:
            Their lines; and the cells of each line, or nothing if a line is not a row, or one has a
            fault.
        """
        block = self._lines.block()
        try:
            rows = list(self._reader(block.text.split("\n")[:-1]))
        except csv.Error:
            rows = []
        return block, rows if len(rows) == block.lines else []

    def skip(self, block: Block) -> None:
        """Take the rows of a block as read."""
        self._lines.skip(block)

    @property
    def end(self) -> int:
        """The last line of the current row."""
        return self._lines.number

    @property
    def text(self) -> str:
        """The lines of the current row."""
        return self._lines.text

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        # strict: text after a closing quote is a fault, not something to guess at
        return csv.reader(lines, strict=True, skipinitialspace=True, delimiter=self.delimiter)


def _fault(error: csv.Error | EndlessRowError) -> str:
    """Describe a syntax error in plain words."""
    problem = str(error)
    if isinstance(error, EndlessRowError) or "end of data" in problem:
        return 'has a quote (") that is opened but never closed'
    if "larger than field limit" in problem:
        return (
            f'has a cell of more than {csv.field_size_limit()} characters, or a quote (") '
            "that is opened but never closed"
        )
    if "expected after" in problem:
        return 'has text after a closing quote (")'
    if "new-line" in problem:
        return "contains a lone carriage return (CR); lines must end in LF or CRLF"
    return f"is not valid CSV: {problem}"
