"""Which fault a request meets, how long its response takes, and what the fault does to it.

In: a call. Out: a draw, and a response. A draw depends on the seed, the call, and how many times
the same call was seen before. It never depends on timing, the order of arrival or other calls, so
a scenario is the same at any concurrency of the client.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from bulkcert.simulator.behaviour import FAULTS, Behaviour
from bulkcert.simulator.exchange import (
    JSON_TYPE,
    REDIRECTED,
    Call,
    Delivery,
    Response,
    Vendor,
    html_page,
)

_UNIT = 2.0**-32
_LARGE_HEADER = 1 << 14


class Draw(NamedTuple):
    """What was drawn for a request.

    Attributes:
        fault: name of the fault, or None.
        latency_s: seconds from arrival to response.
        variant: from 0 to 1; selects one of the forms that a fault has.
    """

    fault: str | None
    latency_s: float
    variant: float


class Faults:
    """Draws a fault and a latency for every call.

    Keeps one counter per distinct call, unless nothing varies and there is nothing to draw.

    Attributes:
        no_fault: the draw without a fault and with the basic latency.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        shares = [getattr(behaviour, name) for name in FAULTS]
        self._borders = [
            (border, name)
            for border, share, name in zip(accumulate(shares), shares, FAULTS, strict=True)
            if share
        ]
        varied = behaviour.latency_spread or behaviour.latency_tail_share
        self._constant = not (self._borders or varied)
        self._actions = frozenset(filter(None, behaviour.faults_on.split(",")))
        self.no_fault = Draw(None, behaviour.latency, 0.0)
        self._seen: dict[bytes, int] = {}

    def draw(self, call: Call) -> Draw:
        """Draw for a call; a repetition of the same call gets a draw of its own."""
        if self._constant:
            return self.no_fault
        name = f"{call.action}\0{call.device}\0{call.cert_sn}".encode()
        key = blake2b(name, digest_size=8).digest()
        times = self._seen[key] = self._seen.get(key, 0) + 1
        seed = b"%d\0%d\0" % (self._behaviour.seed, times)
        digest = blake2b(seed + name, digest_size=16).digest()
        which, spread, tail, variant = (
            int.from_bytes(digest[at : at + 4], "big") * _UNIT for at in (0, 4, 8, 12)
        )
        fault = self._fault(which) if not self._actions or call.action in self._actions else None
        return Draw(fault, self._latency_s(spread, tail), variant)

    def _fault(self, which: float) -> str | None:
        return next((name for border, name in self._borders if which < border), None)

    def _latency_s(self, spread: float, tail: float) -> float:
        behaviour = self._behaviour
        latency_s = behaviour.latency + spread * behaviour.latency_spread
        if tail < behaviour.latency_tail_share:
            latency_s += behaviour.latency_tail
        return latency_s


async def respond_with(fault: str | None, variant: float, vendor: Vendor, call: Call) -> Response:
    """Have the vendor respond to a call, with a fault that strikes before or after execution."""
    if fault in _BEFORE:
        return replace(_BEFORE[fault](vendor, call), fault=fault)
    response = await vendor.respond(call)
    match fault:
        case None:
            return response
        case "error_after":
            response = vendor.internal_error(call)
        case "cut_after":
            response = replace(response, delivery=Delivery.CUT)
        case "cut_inside":
            response = replace(response, delivery=Delivery.CUT_INSIDE)
        case "page_after":
            response = replace(html_page(502), code=response.code)
        case "byte_by_byte":
            response = replace(response, delivery=Delivery.DRIPPING)
        case "gzip_anyway":
            headers = (*response.headers, ("Content-Encoding", "gzip"))
            response = replace(response, body=gzip.compress(response.body), headers=headers)
        case "large_header":
            headers = (*response.headers, ("X-Trace", "0" * _LARGE_HEADER))
            response = replace(response, headers=headers)
        case "surplus":
            response = replace(response, delivery=Delivery.TWICE)
        case "json_cut_short" | "wrong_types" | "contradiction" if (
            response.content_type != JSON_TYPE
        ):
            return response
        case "contradiction":
            response = replace(response, body=_contradicting(response.body))
        case "json_cut_short":
            response = replace(response, body=response.body[: len(response.body) // 2])
        case "wrong_types":
            response = replace(response, body=_with_wrong_types(response.body, variant))
        case "huge_body":
            response = replace(response, delivery=Delivery.HUGE)
    return replace(response, fault=fault)


def _redirect(vendor: Vendor, call: Call) -> Response:
    location = ("Location", f"{REDIRECTED}{vendor.provider}")
    return replace(html_page(302), headers=(location,))


def _contradicting(body: bytes) -> bytes:
    """The same document, and what it would say if the opposite were true."""
    document = orjson.loads(body)
    if "RequestId" in document:  # ApsaraMQ: a code next to a result
        document |= {"Code": "FindDeviceBySnError", "DeviceSn": document.get("DeviceSn", "0")}
    else:  # EnOS: its services say `code`, its token service says `status`
        document |= {"code": 99400, "status": 0}
    return orjson.dumps(document)


def _with_wrong_types(body: bytes, variant: float) -> bytes:
    """Well-formed JSON of types that no client expects."""
    document = orjson.loads(body)
    forms: tuple[Callable[[], Any], ...] = (
        lambda: {name: [value] for name, value in document.items()},
        lambda: dict.fromkeys(document, None),
        lambda: dict.fromkeys(document, True),
        lambda: dict.fromkeys(document, ()),
        lambda: dict.fromkeys(document, "OK"),
        lambda: dict.fromkeys(document, 0.5),
        list,
        lambda: [document],
        lambda: "OK",
        lambda: None,
        lambda: 0,
    )
    return orjson.dumps(forms[int(variant * len(forms))]())


_BEFORE: dict[str | None, Callable[[Vendor, Call], Response]] = {
    "throttle": lambda vendor, call: vendor.throttled(call, wait=False),
    "throttle_retry_after": lambda vendor, call: vendor.throttled(call, wait=True),
    "error_before": lambda vendor, call: vendor.internal_error(call),
    "cut_before": lambda vendor, call: Response(None, 502, delivery=Delivery.CUT),
    "page_before": lambda vendor, call: html_page(502),
    "token_expired": lambda vendor, call: vendor.token_expired(call),
    "system_overflow": lambda vendor, call: vendor.overloaded(call, wait=False),
    "overload_retry_after": lambda vendor, call: vendor.overloaded(call, wait=True),
    "page_late": lambda vendor, call: html_page(504),
    "html_ok": lambda vendor, call: html_page(200),
    "redirect": _redirect,
}
"""Faults that strike instead of the execution."""
