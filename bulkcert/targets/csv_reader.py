"""Targets and rejections from lines of CSV with a header.

In: lines of text. Out: a target or rejections for each row with content. A header that cannot be
used raises `TargetsError`. Must never accept a row with more or fewer cells than the header.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bulkcert.errors import TargetsError
from bulkcert.model import Rejection, Target
from bulkcert.pem import PRIVATE_KEY_FOUND
from bulkcert.targets.columns import ColumnMap, how_to_correct
from bulkcert.targets.lines import EndlessRowError, Lines
from bulkcert.targets.records import fault_without_certificate, is_of_a_run, spelled
from bulkcert.targets.row import RowChecker
from bulkcert.targets.tally import Tally
from bulkcert.targets.wording import listed


@dataclass(frozen=True, slots=True)
class CsvReader:
    """Reads a target file in CSV.

    Attributes:
        name: of the file, for messages.
        columns: which header contains which field.
        checker: checks the values of a row.
        tally: counts the rows, and collects unused headers.
    """

    name: str
    columns: ColumnMap
    checker: RowChecker
    tally: Tally

    def read(self, lines: Lines) -> Iterator[Target | Rejection]:
        """Yield targets and rejections in file order.

        Raises:
            TargetsError: the header cannot be used.
        """
        rows = _rows(lines)
        header = next(rows, None)
        if header is None:
            return
        positions, width, outcome = self._read_header(*header)
        check, tally = self.checker.check, self.tally
        for line, cells, fault in rows:
            tally.rows += 1
            found: Sequence[Target | Rejection]
            if fault:
                found = (Rejection(line, "", fault),)
            elif len(cells) != width:
                number = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                found = (Rejection(line, "", f"has {number}, but the header has {width}"),)
            else:
                given: dict[str, object] = {}
                for name, position in positions:
                    cell = cells[position]
                    if cell and not cell.isspace():
                        given[name] = cell
                if outcome is None or not self.columns.names_no_certificate(given):
                    found = check(line, given)
                elif fault := fault_without_certificate(cells[outcome]):
                    found = (Rejection(line, "", fault),)
                else:
                    tally.left_out += 1
                    found = ()
            if lines.number > line and not lines.fault.startswith(PRIVATE_KEY_FOUND):
                found = _with_end(found, lines.number)
            yield from found

    def _read_header(
        self, line: int, cells: list[str], fault: str
    ) -> tuple[list[tuple[str, int]], int, int | None]:
        """Read the header.

        Returns:
            The position of each field in a row, in field order; the number of cells; and the
            position of the outcome in a file that a run wrote, or None.
        """
        if fault:
            raise TargetsError(
                f"{self.name}: line {line}, which should be the header, {fault}",
                "Save the file as CSV in UTF-8; if it is compressed, its name must end in .gz.",
            )
        headers, columns = [cell.strip() for cell in cells], self.columns
        if of_a_run := is_of_a_run(headers):
            headers, columns = [spelled(header) for header in headers], columns.of_a_run
        columns.refuse_ambiguity(self.name, headers)
        faults, mapping = columns.judge(headers)
        if faults:
            start = "The only header is" if len(headers) == 1 else "The headers are"
            raise TargetsError(
                "\n".join(f"{self.name}: {fault}" for fault in faults)
                + f"\n{start}: {listed(headers)}",
                how_to_correct(headers, mapping),
            )
        positions = columns.positions(headers)
        if of_a_run:
            return list(positions.items()), len(headers), headers.index("outcome")
        used = {headers[position] for position in positions.values()}
        for header in headers:
            if header not in used:
                self.tally.note_unused(header)
        return list(positions.items()), len(headers), None


def _rows(lines: Lines) -> Iterator[tuple[int, list[str], str]]:
    """Yield the rows with content: number of the first line, cells, and the fault if any."""
    # strict: text after a closing quote is a fault, not something to guess at
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    while True:
        line, fault = lines.begin_row(), ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, EndlessRowError) as error:
            cells, fault = [], _fault(error)
        fault = lines.fault or fault
        if fault or len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells, fault


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


def _with_end(found: Sequence[Target | Rejection], end: int) -> list[Target | Rejection]:
    """Add to rejections where the row ends: a stray quote merges many rows into one."""
    hint = f'; the row continues to line {end}: is a quote (") missing?'
    return [
        item._replace(reason=item.reason + hint) if isinstance(item, Rejection) else item
        for item in found
    ]
