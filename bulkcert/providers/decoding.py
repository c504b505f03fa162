"""Reads the bodies of responses, whichever vendor they come from. Pure; never raises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from bulkcert.providers.call import Response


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


def one_line(value: object, longest: int = 500) -> str:
    """What a provider says, as one printable line of bounded length; empty if it is not text."""
    # A tuple, because `str | int | float` would be built anew on each call. Nothing nested is
    # converted: the text of a deep structure might overflow the stack.
    if not isinstance(value, (str, int, float)):
        return ""
    line = " ".join(str(value).split())
    if not line.isprintable():
        line = "".join(c for c in line if c.isprintable())
    return line[:longest]


def utc(milliseconds: int | None) -> str | None:
    """Milliseconds since 1970 as RFC 3339 in UTC; None stays None."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
