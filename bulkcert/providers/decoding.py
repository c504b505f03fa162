"""Reads the bodies of responses, whichever vendor they come from. Pure.

What decides nothing is read leniently: a byte order mark, another character set, a raw line break
in a message or a compression that nobody asked for must not make a plain response unreadable. What
can't be read is described, with the provider's code if there is one.
"""

from __future__ import annotations

import codecs
import json
import math
import re
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

_CHARSETS = {"gbk", "gb2312", "gb18030", "big5", "iso8859-1", "cp1252", "shift_jis", "euc_kr"}
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_ODD = re.compile(rb"%s|(?P<lone>%s)|\\.|(?P<raw>[\0-\x1f])" % (_PAIR, _LONE), re.DOTALL)
_CODE = re.compile(rb'"(?:[Cc]ode|status|apim_status)"\s*:\s*"?([A-Za-z0-9][\w.-]{0,60})')


def json_object(response: Response) -> dict[str, Any] | None:
    """The body as a JSON object; None if it is something else."""
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = _leniently(response)
    return body if isinstance(body, dict) else None


def _leniently(response: Response) -> Any:
    """Read JSON that only its characters make invalid; None if it is something else."""
    text = text_of(response).encode(errors="replace")
    try:
        return orjson.loads(_STRING.sub(lambda string: _ODD.sub(_escaped, string[0]), text))
    except orjson.JSONDecodeError:
        return None


def _escaped(odd: re.Match[bytes]) -> bytes:
    if odd["raw"]:
        return b"\\u%04x" % ord(odd["raw"])
    return b"\\ufffd" if odd["lone"] else odd[0]


def text_of(response: Response) -> str:
    """The body as text, whichever character set it came in, without a byte order mark."""
    body, content_type = response.body, response.headers.get("Content-Type", "")
    declared = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.IGNORECASE | re.ASCII)
    for charset in (json.detect_encoding(body), declared[1] if declared else "", "gb18030"):
        try:
            known = codecs.lookup(charset).name
            if known in _CHARSETS or known.startswith("utf-"):
                return body.decode(known)
        except (LookupError, UnicodeError):
            continue
    return body.decode("latin-1")


def not_json(response: Response) -> str:
    """Describe, for people, a response whose body is not a JSON object."""
    if 300 <= response.status < 400:
        return f"HTTP {response.status}, a redirect, which is not followed"
    return f"HTTP {response.status} with {response.flaw or _described(response)}"


def _described(response: Response) -> str:
    start = response.body[:1000].lstrip().lower()
    if b"<html" in response.body[:1000].lower():
        return "an HTML page"
    if start.startswith(b"{"):
        code = _CODE.search(response.body)
        return "broken JSON" + (f", code {code[1].decode()}" if code else "")
    kind = one_line(response.headers.get("Content-Type", "").partition(";")[0], 60)
    return "no JSON object" + (f" but {kind}" if kind and "json" not in kind.lower() else "")


def is_refusal(status: int) -> bool:
    """Whether something in front of the service has refused the request, given the HTTP status of a
    response that is not the service's own."""
    return 400 <= status < 500 and status not in (401, 408, 425, 429)


def one_line(value: object, longest: int = LONGEST_MESSAGE) -> str:
    """What a provider says, as one printable line of bounded length; empty if it is not text."""
    # A tuple, because `str | int | float` would be built anew on each call. Nothing nested is
    # converted: the text of a deep structure might overflow the stack.
    if not isinstance(value, (str, int, float)):
        return ""
    line = str(value)
    if len(line) <= longest and line.isprintable() and "  " not in line and line == line.strip():
        return line  # nearly always, and nothing else to do
    line = " ".join(line.split())
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
