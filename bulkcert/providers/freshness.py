"""Was a response made for its request, or kept from an earlier one? Pure.

A look-up is to show what the attempt before it has done. A cache between us and the provider may
answer it with what it kept from before that attempt; then a renewal that was executed looks as if
it was not, and would be sent again. We ask every cache not to (RFC 9111, 5.2.1.4), but not every
cache listens. Then its response settles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bulkcert.providers.call import CallKind, CallResult, Request, Response

NO_CACHE = ("Cache-Control", "no-cache")
"""The header of requests that only read."""

_VERDICTS = ("Cache-Status", "X-Cache", "X-Cache-Status", "X-Proxy-Cache", "CF-Cache-Status")
_OPEN = (
    CallKind.IN_DOUBT,
    CallKind.THROTTLED,
)  # what is open already, and a wait that is asked for
_KEPT = re.compile(r"(?:tcp_(?!refresh)\w*)?hit|stale|updating")


def only_reads(request: Request) -> bool:
    """Whether a request changes nothing, so that a cache may answer it."""
    return request.method == "GET"


def kept_copy(headers: Mapping[str, str]) -> str:
    """Describe, for people, a response that a cache has kept; empty if it shows no sign of one.

    A cache that has asked the provider whether its copy is still good calls that a revalidation,
    not a hit.
    """
    age = headers.get("Age", "").strip()
    if age.isascii() and age.isdigit() and (age_s := int(age[:9])):  # RFC 9111, 5.1
        return f"answered from a cache, {age_s} s old"
    for name in _VERDICTS:
        words = re.split(r"[\s,;]+", headers.get(name, "").lower())
        if any(_KEPT.fullmatch(word) for word in words):
            return f"answered from a cache ({name})"
    return ""


def unless_kept(request: Request, response: Response, result: CallResult) -> CallResult:
    """The result of a call; in doubt if it only reads and a cache has answered.

    Then a look-up has failed and is made again, and a reading step is repeated.
    """
    if not only_reads(request) or result.kind in _OPEN:
        return result
    kept = kept_copy(response.headers)
    return result.unreadable(kept) if kept else result
