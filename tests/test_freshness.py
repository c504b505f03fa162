"""A response that a cache has kept settles nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from bulkcert.model import LookupKind, LookupResult
from bulkcert.providers.apsaramq import client as apsaramq
from bulkcert.providers.apsaramq.requests import get_request
from bulkcert.providers.call import CallKind, CallResult, OnDeparture, Request, Response, Signer
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.enos import client as enos
from bulkcert.providers.enos.inventory import read_listing
from bulkcert.providers.enos.requests import list_request
from bulkcert.providers.freshness import kept_copy, unless_kept

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
    result = CallResult(kind, 7, "text", "R", {"old": True}, retry_after_s=3)
    judged = unless_kept(response({"Age": "5"}), result)
    if kind in (CallKind.THROTTLED, CallKind.BUSY, CallKind.IN_DOUBT):
        assert judged is result
    else:
        assert judged == CallResult(CallKind.IN_DOUBT, 7, "answered from a cache, 5 s old", "R")
    assert unless_kept(response({}), result) is result


class NoPace:
    """Stands in for the pacer: nobody has to wait."""

    async def depart(self) -> float:
        return 0.0

    async def pause_over(self) -> None:
        return None

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        return None

    def accepted(self, departed_at: float) -> object:
        return None

    def forfeit(self) -> None:
        return None

    def arrived(self) -> None:
        return None


class Wire:
    """Stands in for the channel: every response comes out of a cache."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.pace = NoPace()

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        content = b'{"status":0,"data":{"accessToken":"t","expire":7200}}'
        is_token = "token" in request.target
        headers = {} if is_token else {"Age": "3", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return Response(200, CIMultiDict(headers), content if is_token else self._body, 0.0)

    async def close(self) -> None:
        return None


async def test_a_look_up_of_enos_that_a_cache_has_answered_has_failed() -> None:
    wire = Wire(b'{"code":0,"msg":"OK","requestId":"R","data":[]}')
    client = enos.Client(wire, "key", "secret", ProviderClock())
    request = list_request("o1", {"assetId": "A1"})
    call = await client.call(request, lambda _: None)
    assert (call.kind, call.message) == (CallKind.IN_DOUBT, "answered from a cache, 3 s old")
    looked_up = read_listing(call)
    assert isinstance(looked_up, LookupResult)
    assert looked_up.kind is LookupKind.FAILED


async def test_a_look_up_of_apsaramq_that_a_cache_has_answered_has_failed() -> None:
    wire, clock = Wire(b'{"RequestId":"R","Data":{}}'), ProviderClock()
    credentials = dict.fromkeys(
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"), "x"
    )
    client = apsaramq.Client(wire, "https://onsmqtt.example.com", credentials, clock=clock)
    request = get_request("i", {"DeviceSn": "1", "CaSn": "2"})
    call = await client.call(request, lambda _: None)
    assert (call.kind, call.message) == (CallKind.IN_DOUBT, "answered from a cache, 3 s old")
    assert not clock.known  # its date is that of the copy
