"""Content in other encodings than UTF-8: converted where [format] names one, recognized elsewhere.

In: bytes. Out: the same text in UTF-8, or the encoding that bytes are probably in. What can't be
decoded becomes bytes that are not UTF-8, so that the line with them is found later and nothing is
guessed. Must never keep more than a chunk in memory.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import Any

_CHUNK = 2**18
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MARK = "\udfff"
_ACCENTED = re.compile(
    rb"(?<![\x80-\xff])[\xc0-\xff](?![\x80-\xff@-Z\[-~])|[a-z][\xc0-\xff]{1,2}[a-z]|"
    rb"(?<![\x80-\xff])[\xc0-\xff][a-z]{2}"
)
_UNDECODABLE = "bulkcert.undecodable"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Replace what can't be decoded by a lone surrogate, which UTF-8 does not have."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _MARK, error.end


codecs.register_error(_UNDECODABLE, _mark)


class Recoded(io.RawIOBase):
    """Passes content on in UTF-8.

    Args:
        content: the content.
        encoding: what it is in.
    """

    def __init__(self, content: io.BufferedReader[Any], encoding: str) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder(encoding)(_UNDECODABLE)
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            chunk = self._content.read1(_CHUNK)
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, self._ended)
            except UnicodeError:  # such as UTF-16 without a byte order mark
                text, self._ended = _MARK, True
            self._ready = memoryview(text.encode("utf-8", "surrogatepass"))
        ready = self._ready[: len(buffer)]
        buffer[: len(ready)] = ready
        self._ready = self._ready[len(ready) :]
        return len(ready)


def wide_encoding(start: bytes) -> str:
    """Return the encoding of several bytes per character that content begins in; empty if none."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    line = start[:200]
    half = len(line) // 2
    # in UTF-16, every second byte of the names of fields is zero
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if half and line[first::2].count(0) > 0.8 * half and not line[1 - first :: 2].count(0):
            return encoding
    return ""


def seeming_encoding(start: bytes) -> str:
    """Return the encoding that content is probably in, from its start; empty for UTF-8."""
    try:
        start.decode()
    except UnicodeDecodeError as error:
        if error.end == len(start) or error.start > len(start) - 4:
            return ""  # the start ends within a character
        return narrow_encoding(start)
    return ""


def narrow_encoding(line: bytes) -> str:
    """Return the encoding that a line which is not UTF-8 is probably in.

    Chinese text consists of pairs of bytes, most of them from 0x80 up. A letter with an accent is a
    single one, and stands beside other letters.

    Returns:
        An empty text if it does not look like text.
    """
    if _CONTROL.search(line):
        return ""
    if _ACCENTED.search(line):
        return "cp1252"
    try:
        line.decode("gb18030")
    except UnicodeDecodeError:
        return "cp1252"
    return "gb18030"
