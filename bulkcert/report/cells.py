"""Values as JSON and as cells of CSV, safe where people look at them. Pure.

Names in certificates and messages of a provider are other people's text. On a terminal it must not
act, and a spreadsheet must not execute it.
"""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import orjson

from bulkcert.values import printable

_FORMULA = re.compile("[=+@＝＋－＠-]")
"""How a cell begins that a spreadsheet takes for a formula; some know the full-width forms too."""

_PEM = re.compile(r"-----BEGIN [A-Z ]+-----\r?\n[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----\s*")


_ACTIVE = re.compile("[=＝(|!]")
"""What a formula needs that does more than show an error: it calls or refers to something."""


def as_json(value: Any, *, indent: bool = False) -> bytes:
    """Format a value as JSON, without characters that act on a terminal.

    They are written as escapes, which mean the same.

    Args:
        value: the value.
        indent: write it on several lines instead of one.
    """
    content = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0)
    if content.isascii() and b"\x7f" not in content:  # orjson has escaped the other ASCII ones
        return content
    return "".join(map(_json_escaped, content.decode())).encode()


def cell(value: Any) -> Any:
    """Format a value as a cell for people to read: one line, and never a formula.

    PEM is left as it is; a list or an object becomes JSON.
    """
    if isinstance(value, dict | list | bool):
        return as_json(value).decode()
    if not isinstance(value, str) or _PEM.fullmatch(value):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) else text


def identifier_cell(value: Any) -> Any:
    """Format a value that says what to act on as a cell that can be read back.

    A device may be called `-1` or `@home`, so the first character alone does not make it a formula.
    What is changed here can't be read back, and is refused then: it is never taken for another
    device.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and _ACTIVE.search(text) else text


def drained(buffer: io.StringIO) -> bytes:
    """Empty a buffer, and return what was in it as UTF-8."""
    content = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return content


def _json_escaped(character: str) -> str:
    # a line break that is not escaped yet is between two values
    if character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs":
        return character
    utf16 = character.encode("utf-16-be").hex()
    return "".join(f"\\u{utf16[at : at + 4]}" for at in range(0, len(utf16), 4))
