"""Values as JSON, and times in it, safe where people look at them. Pure.

Names in certificates and messages of a provider are other people's text. On a terminal it must not
act.
"""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson


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
    return "".join(map(_escaped, content.decode())).encode()


def utc(seconds: float) -> str:
    """Format Unix time as RFC 3339 in UTC with milliseconds."""
    fraction, whole = math.modf(seconds)
    # rounded to microseconds first, as datetime does
    second, millisecond = divmod(int(whole) * 1000 + round(fraction * 1e6) // 1000, 1000)
    return f"{_utc_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=1000)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _escaped(character: str) -> str:
    # a line break that is not escaped yet is between two values
    if character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs":
        return character
    utf16 = character.encode("utf-16-be").hex()
    return "".join(f"\\u{utf16[at : at + 4]}" for at in range(0, len(utf16), 4))
