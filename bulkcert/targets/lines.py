"""Lines of text from the bytes of a target file.

In: bytes. Out: lines of text, numbered from 1, with the text and the first fault of the lines that
make up a row; or many lines at once, where none of them has a fault. Must never keep more than
`_LONGEST_ROW` bytes of a row in memory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from bulkcert.pem import PRIVATE_KEY_FOUND, has_private_key, private_key_goes_on
from bulkcert.targets.encoding import Recoded, narrow_encoding

_LONGEST_ROW = 2**20  # bytes; a typical row has hundreds, one with a signing request a few thousand
_CHUNK = 2**18
_BLOCK = 2**14  # bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s]*|[A-Za-z-]+:.*\s*")
"""A line inside a private key: base64, or a header."""


class EndlessRowError(Exception):
    """The lines of one row exceed the longest row that is read."""


class Block(NamedTuple):
    """Lines that have not been read yet.

    Attributes:
        size: how many bytes they are.
        lines: how many lines.
        text: what they say; empty if one of them has a fault.
    """

    size: int
    lines: int
    text: str


class Lines:
    """Lines of text, one at a time, none of which can exhaust the memory.

    A line that is not valid text is replaced by what can be decoded, so that quotes still match;
    `fault` says what was wrong.

    Args:
        content: the bytes.
        encoding: what they are in.

    Attributes:
        number: of the last line read, from 1.
        fault: the first fault in the lines of the current row; empty if there is none.
        seems: the encoding that the first line which is not UTF-8 is probably in; empty if all are.
    """

    def __init__(self, content: io.BufferedReader[Any], encoding: str = "utf-8") -> None:
        self.number = 0
        self.fault = ""
        self.seems = ""
        if encoding != "utf-8":
            content = io.BufferedReader(Recoded(content, encoding), _CHUNK)
        self._stream = content
        self._encoding = encoding
        self._room = _LONGEST_ROW
        self._start = 1
        self._row: list[str] = []
        self._in_key = False

    @property
    def text(self) -> str:
        """The lines of the current row."""
        return "".join(self._row)

    def begin_row(self) -> int:
        """Start a new row, without faults, and return the number of its first line."""
        self.fault = ""
        self._row.clear()
        self._room = _LONGEST_ROW
        self._start = self.number + 1
        return self._start

    def block(self) -> Block:
        """Look at the next lines, as far as they are in memory. It begins a row."""
        content = self._stream.peek()[:_BLOCK]
        size = content.rfind(b"\n") + 1
        try:
            text = content[:size].decode()
        except UnicodeDecodeError:
            text = ""
        if self._in_key or "\0" in text or has_private_key(text):
            text = ""
        return Block(size, content.count(b"\n"), text)

    def skip(self, block: Block) -> None:
        """Take these lines as read."""
        self._stream.read(block.size)
        self.number += block.lines

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
            self._note(self._undecodable(line, error.start))
        if "\0" in text:
            self._note("contains a NUL byte")
        if self._in_key or has_private_key(text):
            self._note_key(text)
        self._row.append(text)
        return text

    def _undecodable(self, line: bytes, start: int) -> str:
        if self._encoding != "utf-8":
            return f"is not valid {self._encoding} at character {len(line[:start].decode()) + 1}"
        self.seems = self.seems or narrow_encoding(line)
        return f"is not valid UTF-8 at byte {start + 1}"

    def _note_key(self, text: str) -> None:
        """Refuse a line with a private key, or inside one.

        In any column, used or not: the row goes no further, and nothing quotes it.
        """
        if has_private_key(text):
            self._in_key = private_key_goes_on(text)
        elif not _KEY_BODY.fullmatch(text):
            self._in_key = False
            return
        if not self.fault.startswith(PRIVATE_KEY_FOUND):
            self.fault = ""  # no other fault matters as much
            self._note(PRIVATE_KEY_FOUND)

    def _note(self, fault: str) -> None:
        if not self.fault:  # later faults of a row often follow from the first
            where = f" on line {self.number}" if self.number > self._start else ""
            self.fault = fault + where

    def _skip(self, line: bytes) -> str:
        self._note(f"is longer than {_LONGEST_ROW // 2**20} MiB")
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LONGEST_ROW)
        return "\n"
