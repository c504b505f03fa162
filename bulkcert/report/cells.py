"""Values as cells of CSV, safe where people look at them. Pure.

Names in certificates and messages of a provider are other people's text. A spreadsheet must not
execute it.
"""

from __future__ import annotations

import io
import re
from typing import Any

from bulkcert.json_lines import as_json
from bulkcert.values import printable

_FORMULA = re.compile("[=+@＝＋－＠-]")
"""How a cell begins that a spreadsheet takes for a formula; some know the full-width forms too."""

_PEM = re.compile(r"-----BEGIN [A-Z ]+-----\r?\n[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----\s*")


_ACTIVE = re.compile("[=＝(|!]")
"""What a formula needs that does more than show an error: it calls or refers to something."""


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
