"""Targets and rejections from a table: CSV, or the sheet of a workbook.

In: rows of cells, the first of which is the header. Out: a `Row` for each further one, or
`GoodRows` for many. A header that cannot be used raises `TargetsError`. Must never accept a row
with more or fewer cells than the header, nor call rows good of which one, read by itself, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkcert.errors import TargetsError
from bulkcert.model import Rejection, Target
from bulkcert.pem import PRIVATE_KEY_FOUND
from bulkcert.quantities import count
from bulkcert.targets.columns import ColumnMap, how_to_correct
from bulkcert.targets.csv_reader import CsvRows
from bulkcert.targets.extra import ExtraColumns, kept
from bulkcert.targets.records import fault_without_certificate, is_of_a_run, spelled
from bulkcert.targets.rejected import (
    REJECTED,
    STILL_REJECTED,
    TEXT,
    is_rejected,
    refuse_left_out,
)
from bulkcert.targets.row import GoodRows, Row, RowChecker, UnreadableCell, Wanted, every_line
from bulkcert.targets.tally import Tally
from bulkcert.targets.wording import listed

_MOST_DOUBLED = 6
"""After blocks with bad rows, up to so many times as many rows are read one by one: to try in vain
takes time, too."""


class Cells(Protocol):
    """Rows of cells; see `bulkcert.targets.csv_reader.CsvRows`."""

    delimiter: str
    has_types: bool

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]: ...

    @property
    def end(self) -> int: ...

    @property
    def text(self) -> str: ...


@dataclass(slots=True)
class Table:
    """Reads a target file that is a table.

    Attributes:
        name: of the file, for messages.
        columns: which header contains which field.
        checker: checks the values of a row.
        tally: counts the rows, and collects unused headers.
        extra: which of the other columns are kept.
        next_step: what to do about a header that can't be read.
        encoding: what the file is probably in; empty for UTF-8.
        has_format: the job has a section [format].
        header: the header, once it has been read.
        header_line: its line.
    """

    name: str
    columns: ColumnMap
    checker: RowChecker
    tally: Tally
    extra: ExtraColumns
    next_step: Callable[[], str]
    encoding: str = ""
    has_format: bool = False
    header: list[str] = field(default_factory=list)
    header_line: int = 0
    _fields: list[tuple[str, int]] = field(default_factory=list)
    _others: list[tuple[str, int]] = field(default_factory=list)
    _outcome: int | None = None
    _text: int | None = None

    def read(self, rows: Cells, wanted: Wanted = every_line) -> Iterator[Row | GoodRows]:
        """Yield the rows in file order.

        Rows of CSV are checked column by column, a block at a time, as long as all are good. Where
        one may not be, the rows of a block are read one by one: only that finds faults.

        Args:
            rows: the header, then the others.
            wanted: whether the row that begins on a line is to be read; called in file order.

        Raises:
            TargetsError: the header cannot be used.
        """
        items = iter(rows)
        header = next(items, None)
        if header is None:
            return
        self._read_header(*header, rows)
        if (
            isinstance(rows, CsvRows)
            and wanted is every_line
            and self._outcome is None
            and self._text is None
        ):
            yield from self._read_blocks(rows)
        else:
            yield from self._read_each(rows, items, wanted)

    def _read_blocks(self, rows: CsvRows) -> Iterator[Row | GoodRows]:
        failed = 0  # blocks in succession
        while True:
            start = rows.end
            block, cells = rows.block()
            if cells and (good := self._good(start + 1, cells)):
                rows.skip(block)
                self.tally.rows += block.lines
                failed = 0
                yield good
                continue
            one_by_one = max(1, block.lines * 2 ** min(failed, _MOST_DOUBLED))
            failed += bool(block.lines)
            yield from self._read_each(rows, rows.until(start + one_by_one), every_line)
            if rows.end == start:
                return

    def _good(self, line: int, rows: list[list[str]]) -> GoodRows | None:
        """Return rows if all are good, or None if one may not be."""
        if set(map(len, rows)) != {len(self.header)}:
            return None
        cells = list(zip(*rows, strict=True))
        columns = self.checker.check_columns({name: cells[at] for name, at in self._fields})
        if columns is None:
            return None
        names = [name for name, _ in self._others]
        others = [map(kept, cells[at]) for _, at in self._others]
        extra = [dict(zip(names, values, strict=True)) for values in zip(*others, strict=True)]
        return GoodRows(line, rows, columns, extra)

    def _read_each(
        self, rows: Cells, items: Iterable[tuple[int, list[str], str]], wanted: Wanted
    ) -> Iterator[Row]:
        width, outcome, text = len(self.header), self._outcome, self._text
        fields, others = self._fields, self._others
        check, tally, has_types = self.checker.check, self.tally, rows.has_types
        all_wanted, row_of = wanted is every_line, Row._make
        for line, cells, fault in items:
            if not (all_wanted or wanted(line)):
                continue
            tally.rows += 1
            if fault or len(cells) != width:
                yield self._unreadable(line, fault or _wrong_width(len(cells), width), rows)
                continue
            if text is not None and cells[text].strip():
                yield Row((Rejection(line, "", STILL_REJECTED),), cells)
                continue
            given: dict[str, object] = {}
            for name, position in fields:
                cell = cells[position]
                if cell and not cell.isspace():
                    given[name] = cell
            if has_types and (unreadable := _unreadable_cells(line, given)):
                used = {position for _, position in fields}
                yield Row(unreadable, [c if at in used else str(c) for at, c in enumerate(cells)])
                continue
            if outcome is not None and self.columns.names_no_certificate(given):
                if fault := fault_without_certificate(cells[outcome]):
                    yield Row((Rejection(line, "", fault),), cells)
                else:
                    tally.without_certificates += 1
                continue
            if others:
                found = check(line, given, {name: kept(cells[at]) for name, at in others})
            else:
                found = check(line, given)
            if isinstance(found[0], Rejection) and rows.end > line:
                unbounded = any(_is_broken(cells[position]) for _, position in fields)
                yield Row(_with_end(found, rows.end), cells, "", unbounded)
            else:
                yield row_of((found, cells, "", False))

    def _unreadable(self, line: int, fault: str, rows: Cells) -> Row:
        found: Sequence[Target | Rejection] = (Rejection(line, "", fault),)
        several = rows.end > line
        if several and not fault.startswith(PRIVATE_KEY_FOUND):
            found = _with_end(found, rows.end)
        return Row(found, None, rows.text, several)

    def _read_header(self, line: int, cells: list[str], fault: str, rows: Cells) -> None:
        """Find out which column is what."""
        if fault:
            raise TargetsError(
                f"{self.name}: line {line}, which should be the header, {fault}", self.next_step()
            )
        headers, columns = [cell.strip() for cell in cells], self.columns
        refuse_left_out(self.name, headers)
        self.header[:], self.header_line = headers, line
        if of_a_run := is_of_a_run(headers):
            headers, columns = [spelled(header) for header in headers], columns.of_a_run
        columns.refuse_ambiguity(self.name, headers)
        faults, mapping = columns.judge(headers)
        if faults:
            start = "The only header is" if len(headers) == 1 else "The headers are"
            raise TargetsError(
                "\n".join(f"{self.name}: {fault}" for fault in faults)
                + f"\n{start}: {listed(headers)}",
                how_to_correct(
                    headers,
                    mapping,
                    rows.text,
                    rows.delimiter,
                    encoding=self.encoding,
                    to_section=self.has_format,
                ),
            )
        self._fields = list(columns.positions(headers).items())
        used = {position for _, position in self._fields}
        if is_rejected(headers):
            self._text = headers.index(REJECTED[TEXT]) if REJECTED[TEXT] in headers else None
            used |= {headers.index(name) for name in REJECTED if name in headers}
        self._outcome = headers.index("outcome") if of_a_run else None
        named = {headers[position] for position in used}
        for position, header in enumerate(headers):
            if header and header not in named:
                named.add(header)  # the first of several counts
                name = self.extra.name(header, of_a_run=of_a_run)
                if not of_a_run:
                    self.tally.note_unused(header)
                if name and self.tally.keep_extra(name):
                    self._others.append((name, position))


def _wrong_width(cells: int, width: int) -> str:
    return f"has {count(cells, 'cell')}, but the header has {width}"


def _unreadable_cells(line: int, given: Mapping[str, object]) -> list[Rejection]:
    return [
        Rejection(line, name, cell.reason)
        for name, cell in given.items()
        if isinstance(cell, UnreadableCell)
    ]


def _is_broken(cell: str) -> bool:
    """Whether a cell has several lines and is not PEM: rows may have been swallowed by a quote."""
    return "\n" in cell.strip() and "-----BEGIN" not in cell


def _with_end(found: Sequence[Target | Rejection], end: int) -> list[Target | Rejection]:
    """Add to rejections where the row ends: a stray quote merges many rows into one."""
    hint = f'; the row continues to line {end}: is a quote (") missing?'
    return [
        item._replace(reason=item.reason + hint) if isinstance(item, Rejection) else item
        for item in found
    ]
