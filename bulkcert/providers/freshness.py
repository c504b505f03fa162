"""Was a response made for its request, or kept from an earlier one? Pure.

A look-up is to show what the attempt before it has done. A cache between us and the provider may
answer it with what it kept from before that attempt; then a renewal that was executed looks as if
it was not, and would be sent again. Requests ask every cache not to (RFC 9111, 5.2.1.4), but not
every cache listens. Then its response settles nothing. Only GET is commonly kept, but a change that
a cache has answered was not executed either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bulkcert.providers.call import CallKind, CallResult, Response

_VERDICTS = ("Cache-Status", "X-Cache", "X-Cache-Status", "X-Proxy-Cache", "CF-Cache-Status")
_KEPT = re.compile(r"(?:tcp_(?!refresh)\w*)?hit|stale|updating")
_STAYS = (CallKind.IN_DOUBT, CallKind.BUSY, CallKind.THROTTLED)
"""Results that settle nothing anyway. To wait when a cache asks for it can't be wrong."""


def kept_copy(headers: Mapping[str, str]) -> str:
    """Describe, for people, a response that a cache has kept; empty if it shows no sign of one.

    A cache that has asked the provider whether its copy is still good calls that a revalidation,
    not a hit.
    """
    age = headers.get("Age", "").strip()
    if age.isascii() and age.isdigit() and (age_s := int(age[:9])):  # RFC 9111, 5.1
        return f"answered from a cache, {age_s} s old"
    for name in _VERDICTS:
        if verdict := headers.get(name):
            words = re.split(r"[\s,;]+", verdict.lower())
            if any(_KEPT.fullmatch(word) for word in words):
                return f"answered from a cache ({name})"
    return ""


def unless_kept(response: Response, result: CallResult) -> CallResult:
    """The result of a call; in doubt if a cache has answered instead of the provider.

    Then a look-up has failed and is made again, a reading step is repeated, and a change is looked
    up.
    """
    if result.kind in _STAYS:
        return result
    kept = kept_copy(response.headers)
    return result.unreadable(kept) if kept else result
