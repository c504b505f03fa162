"""What the responses of EnOS mean. One table, to compare with the vendor's pages. Pure.

A response is judged by the code in its body, never by the HTTP status alone: business errors come
with status 200. Three envelopes are in use: `{code, msg, requestId, data}` by the services,
`{status, msg, business, data}` by the token service, `{message}` by the gateway. A response that
fits none of them leaves open what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.clock import retry_after_s
from bulkcert.providers.decoding import is_refusal, json_object, not_json, one_line

KINDS: dict[int, CallKind] = {
    0: CallKind.OK,
    429: CallKind.THROTTLED,
    1001: CallKind.REFUSED,  # repeated request with a duplicated encryption
    1002: CallKind.UNUSABLE,  # appKey does not exist
    1003: CallKind.UNUSABLE,  # encryption is not valid: wrong secret
    1004: CallKind.REFUSED,  # invalid parameter
    1005: CallKind.IN_DOUBT,  # internal service exception
    1204: CallKind.REFUSED,  # failed to refresh the access token
    # The gateway rejected the request because of its token: empty, expired, and the `apim_status`
    # family of older clients.
    1202: CallKind.NOT_SENT,
    1203: CallKind.NOT_SENT,
    4011: CallKind.NOT_SENT,
    4012: CallKind.NOT_SENT,
    11404: CallKind.REFUSED,  # device cannot be found
    11833: CallKind.REFUSED,  # certificate is bound to another device
    # One code for all validation errors and most errors of state, such as "has been revoked".
    99400: CallKind.DISPUTED,
    99403: CallKind.REFUSED,  # missing permission
    99404: CallKind.DISPUTED,  # object does not exist
    99500: CallKind.IN_DOUBT,  # internal error of certificate, product or IoT Hub service
}
"""For all other codes see `kind_of`."""

ACCOUNT_WIDE = frozenset({99403})
"""Refusals whose reason may concern all requests."""

GATEWAY_KINDS: dict[int, CallKind] = {
    400: CallKind.REFUSED,  # Cannot process request body
    403: CallKind.REFUSED,  # Your IP address is not allowed
    404: CallKind.REFUSED,  # no such API behind this endpoint
    413: CallKind.REFUSED,  # Request size limit exceeded
}
"""By HTTP status, for responses in the gateway's own envelope; all others leave it open."""

GATEWAY_ACCOUNT_WIDE = frozenset({403, 404})
"""Likewise; but a firewall may dislike a single request."""


def code_of(body: Mapping[str, Any]) -> int | None:
    """The number that says how the request went, whichever envelope it is in."""
    for name in ("status", "code", "apim_status"):
        number = body.get(name)
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
            return int(number)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return None


def judge(response: Response, now_s: float) -> CallResult:
    """Judge a response. `CallResult.data` is the envelope's `data`, unchecked.

    The kind NOT_SENT means that the gateway did not accept the token.

    Args:
        response: any response.
        now_s: the provider's time, for a response without a `Date`.
    """
    wait_s = retry_after_s(response.headers, now_s)
    return _judged(response).asked_to_wait(response.status, wait_s)


def _judged(response: Response) -> CallResult:
    body = json_object(response)
    if response.status == 429:
        text = body.get("message") if body else None
        return CallResult(CallKind.THROTTLED, 429, one_line(text) or "Too Many Requests")
    if response.status == 401:
        return CallResult(CallKind.NOT_SENT, 401, "the gateway does not accept the access token")
    if body is None:
        kind, account_wide = CallKind.IN_DOUBT, False
        if is_refusal(response.status):
            kind, account_wide = CallKind.DISPUTED, True
        return CallResult(kind, response.status, not_json(response), account_wide=account_wide)
    code = code_of(body)
    if code is not None:
        return CallResult(
            kind_of(code, response.status),
            code,
            one_line(body.get("msg") or body.get("message")),
            one_line(body.get("requestId")) or None,
            body.get("data"),
            account_wide=code in ACCOUNT_WIDE,
        )
    if "message" in body:
        kind = GATEWAY_KINDS.get(response.status, CallKind.IN_DOUBT)
        return CallResult(
            kind,
            response.status,
            one_line(body["message"]),
            account_wide=response.status in GATEWAY_ACCOUNT_WIDE,
        )
    return CallResult(
        CallKind.IN_DOUBT, response.status, f"HTTP {response.status} with JSON that has no code"
    )


def kind_of(code: int, status: int) -> CallKind:
    """What a code means, in a response with this HTTP status."""
    if code == 0 and not 200 <= status < 300:
        return CallKind.IN_DOUBT  # it contradicts itself
    if code in KINDS:
        return KINDS[code]
    # Not listed: refused, for a reason that we don't know. Broken servers respond with a code too.
    broken = status >= 500 or 500 <= code < 600
    return CallKind.IN_DOUBT if broken else CallKind.DISPUTED
