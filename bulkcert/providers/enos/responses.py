"""What the answers of EnOS mean. One table, to be held beside the vendor's pages.

Judged by the code in the body, never by the HTTP status alone: business errors come with status
200. Three envelopes are in use: `{code, msg, requestId, data}` by the services, `{status, msg,
business, data}` by the token service, `{message}` by the gateway. What fits none of them leaves
open what happened.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bulkcert.model import Answer, AnswerKind
from bulkcert.providers.call import Response
from bulkcert.providers.clock import unix_time
from bulkcert.providers.decoding import json_object, not_json, one_line

KINDS: dict[int, AnswerKind] = {
    0: AnswerKind.DONE,
    429: AnswerKind.THROTTLED,
    1001: AnswerKind.REFUSED,  # repeated request with a duplicated encryption
    1002: AnswerKind.UNUSABLE,  # appKey does not exist
    1003: AnswerKind.UNUSABLE,  # encryption is not valid: wrong secret
    1004: AnswerKind.REFUSED,  # invalid parameter
    1005: AnswerKind.IN_DOUBT,  # internal service exception
    1204: AnswerKind.REFUSED,  # failed to refresh the access token
    # The gateway stopped the request because of its token: empty, expired, and the `apim_status`
    # family of older clients.
    1202: AnswerKind.NOT_SENT,
    1203: AnswerKind.NOT_SENT,
    4011: AnswerKind.NOT_SENT,
    4012: AnswerKind.NOT_SENT,
    11404: AnswerKind.REFUSED,  # device cannot be found
    11833: AnswerKind.REFUSED,  # certificate is bound to another device
    # One code for all of validation and most of state, "has been revoked" among it.
    99400: AnswerKind.DISPUTED,
    99403: AnswerKind.REFUSED,  # missing permission
    99404: AnswerKind.DISPUTED,  # object does not exist
    99500: AnswerKind.IN_DOUBT,  # internal error of certificate, product or IoT Hub service
}
"""For all others see `kind_of`."""

GATEWAY_KINDS: dict[int, AnswerKind] = {
    400: AnswerKind.REFUSED,  # Cannot process request body
    403: AnswerKind.UNUSABLE,  # Your IP address is not allowed
    404: AnswerKind.UNUSABLE,  # no such API behind this endpoint
    413: AnswerKind.REFUSED,  # Request size limit exceeded
}
"""HTTP status of an answer in the gateway's own envelope; all others leave it open."""


def code_of(body: Mapping[str, Any]) -> int | None:
    """The number that says how it went, whichever envelope it is in."""
    for name in ("status", "code", "apim_status"):
        number = body.get(name)
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
            return int(number)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return None


def judge(reply: Response) -> Answer:
    """Turn a reply into an answer; `Answer.result` is the envelope's `data`, unchecked.

    An answer of kind NOT_SENT means that the gateway did not accept the token.
    """
    body = json_object(reply)
    if reply.status == 429:
        said = body.get("message") if body else None
        return Answer(
            AnswerKind.THROTTLED,
            429,
            one_line(said) or "Too Many Requests",
            retry_after_s=retry_after_s(reply.headers),
        )
    if reply.status == 401:
        return Answer(AnswerKind.NOT_SENT, 401, "the gateway does not accept the access token")
    if body is None:
        return Answer(AnswerKind.IN_DOUBT, reply.status, not_json(reply))
    code = code_of(body)
    if code is not None:
        kind = kind_of(code, reply.status)
        return Answer(
            kind,
            code,
            one_line(body.get("msg") or body.get("message")),
            one_line(body.get("requestId")) or None,
            body.get("data"),
            retry_after_s(reply.headers) if kind is AnswerKind.THROTTLED else None,
        )
    if "message" in body:
        kind = GATEWAY_KINDS.get(reply.status, AnswerKind.IN_DOUBT)
        return Answer(kind, reply.status, one_line(body["message"]))
    return Answer(
        AnswerKind.IN_DOUBT, reply.status, f"HTTP {reply.status} with JSON that has no code"
    )


def kind_of(code: int, status: int) -> AnswerKind:
    """What a code means, in an answer with this HTTP status."""
    if code == 0 and not 200 <= status < 300:
        return AnswerKind.IN_DOUBT  # it contradicts itself
    if code in KINDS:
        return KINDS[code]
    # Not listed: it was refused, but who knows why. Servers that break answer with a code too.
    broken = status >= 500 or 500 <= code < 600
    return AnswerKind.IN_DOUBT if broken else AnswerKind.DISPUTED


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The header Retry-After in seconds, given as seconds or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    at_s = unix_time(value)
    if at_s is None:
        return None
    now_s = unix_time(headers.get("Date", ""))  # by the clock that made the other date
    return max(0.0, at_s - (time.time() if now_s is None else now_s))
