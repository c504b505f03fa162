"""Lines of text from the bytes of a target file.

In: bytes. Out: lines of text, numbered from 1, and the first fault of the
lines that make up a row. Must never keep more than `_LONGEST_ROW` bytes of a row in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Literal

from bulkcert.pem import PRIVATE_KEY_FOUND, has_private_key

Format = Literal["csv", "jsonl"]

_LONGEST_ROW = 2**20  # bytes; a typical row has hundreds, one with a signing request a few thousand
_CHUNK = 2**18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EndlessRowError(Exception):
    """The lines of one row exceed the longest row that is read."""


class Lines:
    """Lines of text, one at a time, none of which can exhaust the memory.

    A line that is not valid text is replaced by what can be decoded, so that quotes still match;
    `fault` says what was wrong.

    Attributes:
        number: of the last line read, from 1.
        fault: the first fault in the lines of the current row; empty if there is none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.fault = ""
        self._stream: io.BufferedReader
        self._room = _LONGEST_ROW
        self._start = 1

    def open(self, raw: io.RawIOBase, form: Format | None) -> Format:
        """Start reading, and return the format. None is detected from the first bytes."""
        self._stream = io.BufferedReader(raw, _CHUNK)
        if form is None:
            start = self._stream.peek().removeprefix(_BYTE_ORDER_MARK).lstrip()
            form = "jsonl" if start.startswith(b"{") else "csv"
        return form

    def begin_row(self) -> int:
        """Start a new row, without faults, and return the number of its first line."""
        self.fault = ""
        self._room = _LONGEST_ROW
        self._start = self.number + 1
        return self._start

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line.

        Raises:
            EndlessRowError: the row is too long, though none of its lines is.
        """
        line = self._stream.readline(_LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _LONGEST_ROW:
            return self._skip(line)
        self._room -= len(line)
        if self._room < 0:
            raise EndlessRowError
        if self.number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            text = line.decode(errors="replace")
            self._note(f"is not valid UTF-8 at byte {error.start + 1}")
        if "\0" in text:
            self._note("contains a NUL byte")
        if has_private_key(text):
            # in any column, used or not: the row goes no further, and nothing quotes it
            self._note(PRIVATE_KEY_FOUND)
        return text

    def _note(self, fault: str) -> None:
        if not self.fault:  # later faults of a row often follow from the first
            where = f" on line {self.number}" if self.number > self._start else ""
            self.fault = fault + where

    def _skip(self, line: bytes) -> str:
        self._note(f"is longer than {_LONGEST_ROW // 2**20} MiB")
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LONGEST_ROW)
        return "\n"
