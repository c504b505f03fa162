"""A response that a cache has kept settles nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from bulkcert.providers.call import CallKind, CallResult, Request, Response
from bulkcert.providers.freshness import kept_copy, unless_kept

GET, POST = Request("GET", "/"), Request("POST", "/")

KEPT = [
    ({"Age": "3"}, "answered from a cache, 3 s old"),
    ({"age": " 86400 "}, "answered from a cache, 86400 s old"),
    ({"Age": "9" * 50}, "answered from a cache, 999999999 s old"),
    ({"X-Cache": "HIT"}, "answered from a cache (X-Cache)"),
    ({"X-Cache": "Hit from cloudfront"}, "answered from a cache (X-Cache)"),
    ({"X-Cache": "MISS, HIT"}, "answered from a cache (X-Cache)"),
    ({"X-Cache": "TCP_MEM_HIT dirn:2:1"}, "answered from a cache (X-Cache)"),
    ({"Age": "0", "X-Cache-Status": "Hit"}, "answered from a cache (X-Cache-Status)"),
    ({"X-Cache-Status": "STALE"}, "answered from a cache (X-Cache-Status)"),
    ({"CF-Cache-Status": "UPDATING"}, "answered from a cache (CF-Cache-Status)"),
    (
        {"Cache-Status": "Origin; hit; ttl=100, CDN; fwd=miss"},
        "answered from a cache (Cache-Status)",
    ),
]
FRESH = [
    {},
    {"Age": "0"},
    {"Age": "-3"},
    {"Age": "soon"},
    {"X-Cache": "MISS"},
    {"X-Cache": "RefreshHit from cloudfront"},
    {"X-Cache": "TCP_REFRESH_HIT"},
    {"X-Cache-Status": "REVALIDATED"},
    {"Cache-Status": "CDN; fwd=stale; fwd-status=304"},
    {"Cache-Status": "white; fwd=miss"},
    {"X-Cache-Lookup": "HIT from proxy"},
]


def response(headers: Mapping[str, str]) -> Response:
    return Response(200, CIMultiDict(headers), b"{}", 0.0)


@pytest.mark.parametrize(("headers", "said"), KEPT)
def test_a_response_that_a_cache_has_kept_is_recognized(headers: dict[str, str], said: str) -> None:
    assert kept_copy(response(headers).headers) == said


@pytest.mark.parametrize("headers", FRESH)
def test_any_other_response_counts_as_fresh(headers: dict[str, str]) -> None:
    assert kept_copy(response(headers).headers) == ""


@pytest.mark.parametrize("kind", CallKind)
def test_a_kept_copy_leaves_open_what_was_asked(kind: CallKind) -> None:
    """Whatever it says; except that to wait when asked to can't be wrong."""
    result = CallResult(kind, 7, "text", "R", {"old": True})
    judged = unless_kept(GET, response({"Age": "5"}), result)
    if kind in (CallKind.THROTTLED, CallKind.IN_DOUBT):
        assert judged is result
    else:
        assert judged == CallResult(CallKind.IN_DOUBT, 7, "answered from a cache, 5 s old", "R")


def test_only_what_a_cache_may_answer_is_looked_at() -> None:
    result = CallResult(CallKind.OK, 0, "OK", "R", {})
    assert unless_kept(POST, response({"Age": "5"}), result) is result
    assert unless_kept(GET, response({}), result) is result
