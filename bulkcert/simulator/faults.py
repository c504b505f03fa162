"""Which fault a request meets, how long its answer takes, and what the fault makes of the answer.

In: a call. Out: a draw, and a reply. Draws are made from the seed, the call and how often the same
call was drawn for before: never from timing, the order of arrival or what other calls did. So a
scenario is the same whatever the client's concurrency is.
"""

from __future__ import annotations

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
    Reply,
    Service,
    page_reply,
)

_UNIT = 2.0**-32


class Draw(NamedTuple):
    """What was drawn for a request; `variant` (0 to 1) chooses among the forms of a fault."""

    fault: str | None
    latency_s: float
    variant: float


class Faults:
    """Draws for every call. It remembers a number per distinct call, if there is need to draw."""

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
        self.untouched = Draw(None, behaviour.latency, 0.0)
        self._seen: dict[bytes, int] = {}

    def draw(self, call: Call) -> Draw:
        """Draw for one more sighting of this call."""
        if self._constant:
            return self.untouched
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


async def reply_with(fault: str | None, variant: float, service: Service, call: Call) -> Reply:
    """Have a call answered by its service, with a fault before or after that."""
    if fault in _BEFORE:
        return replace(_BEFORE[fault](service, call), fault=fault)
    reply = await service.answer(call)
    match fault:
        case None:
            return reply
        case "error_after":
            reply = service.internal_error(call)
        case "cut_after":
            reply = replace(reply, delivery=Delivery.CUT)
        case "cut_inside":
            reply = replace(reply, delivery=Delivery.CUT_INSIDE)
        case "page_after":
            reply = replace(page_reply(502), code=reply.code)
        case "byte_by_byte":
            reply = replace(reply, delivery=Delivery.DRIPPING)
        case "json_cut_short" | "wrong_types" if reply.content_type != JSON_TYPE:
            return reply
        case "json_cut_short":
            reply = replace(reply, body=reply.body[: len(reply.body) // 2])
        case "wrong_types":
            reply = replace(reply, body=_with_wrong_types(reply.body, variant))
        case "huge_body":
            reply = replace(reply, delivery=Delivery.HUGE)
    return replace(reply, fault=fault)


def _redirect(service: Service, call: Call) -> Reply:
    location = ("Location", f"{REDIRECTED}{service.provider}")
    return replace(page_reply(302), headers=(location,))


def _with_wrong_types(body: bytes, variant: float) -> bytes:
    """JSON that is well-formed, and of types that nobody expects."""
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


_BEFORE: dict[str | None, Callable[[Service, Call], Reply]] = {
    "throttle": lambda service, call: service.throttled(call, retry_after=False),
    "throttle_retry_after": lambda service, call: service.throttled(call, retry_after=True),
    "error_before": lambda service, call: service.internal_error(call),
    "cut_before": lambda service, call: Reply(None, 502, delivery=Delivery.CUT),
    "page_before": lambda service, call: page_reply(502),
    "token_expired": lambda service, call: service.token_expired(call),
    "system_overflow": lambda service, call: service.overloaded(call),
    "html_ok": lambda service, call: page_reply(200),
    "redirect": _redirect,
}
