"""What the responses of Beacon mean. One table, to compare with the vendor's pages. Pure.

A response is judged by the code in its body, never by the HTTP status alone. One that fits nothing
leaves open what happened: the request may have been executed.
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.decoding import json_object, not_json, one_line

NOT_FOUND = "not_found"

KINDS: dict[str, CallKind] = {
    "bad_request": CallKind.REFUSED,
    NOT_FOUND: CallKind.REFUSED,
    "conflict": CallKind.DISPUTED,  # the certificate's status does not permit it: look
    "rate_limited": CallKind.THROTTLED,
    "internal": CallKind.IN_DOUBT,
    "unknown_key": CallKind.UNUSABLE,
    "bad_signature": CallKind.UNUSABLE,
    "unknown_account": CallKind.UNUSABLE,
}
"""By code. A code that is not listed is DISPUTED: a refusal for a reason that we don't know."""


def judge(response: Response) -> CallResult:
    """Judge a response. OK only means that there is no error; `data` is the whole body then."""
    body = json_object(response)
    if body is None:
        kind = CallKind.THROTTLED if response.status == 429 else CallKind.IN_DOUBT
        return CallResult(kind, response.status, not_json(response))
    request_id = one_line(body.get("request_id")) or None
    error = body.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        code = one_line(error["code"], 100)
        kind = KINDS.get(code, CallKind.DISPUTED)
        wait_s = retry_after_s(response.headers) if kind is CallKind.THROTTLED else None
        message = one_line(error.get("message"))
        return CallResult(kind, code, message, request_id, retry_after_s=wait_s)
    if error is not None or response.status != 200 or request_id is None:
        message = f"HTTP {response.status} with JSON that is not Beacon's"
        return CallResult(CallKind.IN_DOUBT, response.status, message, request_id)
    return CallResult(CallKind.OK, "ok", "", request_id, body)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the header Retry-After, which Beacon sends in seconds."""
    value = headers.get("Retry-After", "").strip()
    return float(value[:9]) if value.isascii() and value.isdigit() else None
