"""Reading the bodies of answers, whichever vendor they come from. Pure; never raises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from bulkcert.providers.call import Response


def json_object(reply: Response) -> dict[str, Any] | None:
    """The body as a JSON object, or None when it is none."""
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def not_json(reply: Response) -> str:
    """What a body is that is no JSON object, for people."""
    if 300 <= reply.status < 400:
        return f"HTTP {reply.status}, a redirect, which is not followed"
    what = "an HTML page" if b"<html" in reply.body[:1000].lower() else "no JSON object"
    return f"HTTP {reply.status} with {what}"


def one_line(value: object, longest: int = 500) -> str:
    """What a provider says, as one printable line of bounded length; empty if it is no text."""
    if not isinstance(value, (str, int, float)):  # `str | int` would be made anew each time
        return ""  # and no deep structure, whose text might overflow the stack
    line = " ".join(str(value).split())
    if not line.isprintable():
        line = "".join(c for c in line if c.isprintable())
    return line[:longest]


def utc(milliseconds: int | None) -> str | None:
    """Milliseconds since 1970 as RFC 3339 in UTC."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
