"""Values as JSON and as cells of CSV, safe where people look at them. Pure.

Names in certificates and messages of a provider are other people's text. On a terminal it must not
act, and a spreadsheet must not execute it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import orjson

from bulkcert.values import printable

_FORMULA = re.compile("[=+@＝＋－＠-]")
"""How a cell begins that a spreadsheet takes for a formula; some know the full-width forms too."""

_PEM = re.compile(r"-----BEGIN [A-Z ]+-----\r?\n[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----\s*")


def as_json(value: Any) -> bytes:
    """Format a value as JSON in one line, without characters that act on a terminal.

    They are written as escapes, which mean the same.
    """
    line = orjson.dumps(value)
    if line.isascii() and b"\x7f" not in line:  # orjson has escaped the other ASCII ones
        return line
    text = line.decode()
    return line if text.isprintable() else "".join(map(_json_escaped, text)).encode()


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


def _json_escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    utf16 = character.encode("utf-16-be").hex()
    return "".join(f"\\u{utf16[at : at + 4]}" for at in range(0, len(utf16), 4))
