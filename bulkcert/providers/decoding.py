"""Reads the bodies of responses, whichever vendor they come from. Pure; never raises."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import orjson

from bulkcert.providers.call import Response
from bulkcert.values import INT64_MAX

LONGEST_MESSAGE = 500
LONGEST_ID = 100
"""Of codes and request ids."""
LONGEST_TEXT = 100_000
"""Of texts that are kept as they are, such as certificates."""
LONGEST_AS_RECEIVED = 2000
_MOST_MEMBERS = 50


def json_object(response: Response) -> dict[str, Any] | None:
    """The body as a JSON object; None if it is something else."""
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def not_json(response: Response) -> str:
    """Describe, for people, a response whose body is not a JSON object."""
    if 300 <= response.status < 400:
        return f"HTTP {response.status}, a redirect, which is not followed"
    what = "an HTML page" if b"<html" in response.body[:1000].lower() else "no JSON object"
    return f"HTTP {response.status} with {what}"


def one_line(value: object, longest: int = LONGEST_MESSAGE) -> str:
    """What a provider says, as one printable line of bounded length; empty if it is not text."""
    # A tuple, because `str | int | float` would be built anew on each call. Nothing nested is
    # converted: the text of a deep structure might overflow the stack.
    if not isinstance(value, (str, int, float)):
        return ""
    line = " ".join(str(value).split())
    if not line.isprintable():
        line = "".join(c for c in line if c.isprintable())
    return line[:longest]


def integer(value: object) -> int | None:
    """A whole number of at most 64 bits, given as a number or as its decimal digits; None if it is
    something else, such as a truth value or a fraction."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    # bool is a subclass of int
    return value if type(value) is int and -INT64_MAX - 1 <= value <= INT64_MAX else None


def truth(value: object) -> bool | None:
    """A truth value, or the text of one; None if it is something else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def bounded_text(value: object, longest: int = LONGEST_TEXT) -> str:
    """Text as it came, or the digits of a whole number; empty if it is something else, is longer
    than `longest`, or can't be stored."""
    if type(value) is int:
        value = str(value) if value.bit_length() < 1000 else ""
    if not isinstance(value, str) or len(value) > longest:
        return ""
    try:
        value.encode()  # JSON can contain half of a surrogate pair
    except UnicodeEncodeError:
        return ""
    return value


def storable(value: object, depth: int = 2) -> Any:
    """What can be recorded of a value that decides nothing: scalars of bounded size, in lists and
    objects down to `depth`; None for everything else."""
    match value:
        case None | bool():
            return value
        case int():
            return value if integer(value) is not None else bounded_text(value)
        case float():
            return value if math.isfinite(value) else None
        case str():
            return one_line(value)
        case list() if depth:
            return [storable(item, depth - 1) for item in value[:_MOST_MEMBERS]]
        case dict() if depth:
            members = list(value.items())[:_MOST_MEMBERS]
            return {one_line(name, LONGEST_ID): storable(item, depth - 1) for name, item in members}
        case _:
            return None


def as_received(value: object) -> str:
    """The JSON of something that can't be read, for the reports."""
    try:
        content = orjson.dumps(value)
    except TypeError:  # nested too deeply, or a number of more than 64 bits
        content = orjson.dumps(storable(value))
    return one_line(content.decode(), LONGEST_AS_RECEIVED)


def utc(milliseconds: int | None) -> str | None:
    """Milliseconds since 1970 as RFC 3339 in UTC; None stays None."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
