"""The form of ApsaraMQ's responses: success, refusal, and over the rate limit.

In: a call, with a document or a code. Out: a response with its HTTP status, headers and body, in
the format that the call asks for: JSON, or XML for a V1 call that names no format. Errors are
`{RequestId, HostId, Code, Message, Recommend}`. Nothing here decides which response is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any
from xml.sax.saxutils import escape

import orjson

from bulkcert.simulator.apsaramq import signature
from bulkcert.simulator.apsaramq.refusals import GATEWAY, SERVICE
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.exchange import JSON_TYPE, REDIRECTED, Call, Response, retry_after

PROVIDER = "apsaramq"
"""The vendor's name in the ledger."""

_XML_TYPE = "text/xml;charset=utf-8"  # the only type that the vendor's SDK reads as XML
_XML_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

Headers = tuple[tuple[str, str], ...]


class Responses:
    """Makes responses, each with a request ID of its own."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._request_ids = count(1)

    def success(self, call: Call, document: dict[str, Any]) -> Response:
        """A successful call."""
        document = {"RequestId": self._request_id(), **document}
        return self._response(call, "OK", 200, f"{call.action}Response", document)

    def refusal(self, call: Call, code: str, detail: str = "") -> Response:
        """A refusal by the service or the gateway, whichever the code belongs to."""
        if refusal := SERVICE.get(code):
            by_pages = self._behaviour.mq_statuses == "pages"
            message, status = refusal.message, refusal.status if by_pages else refusal.noticed
        else:
            message, status = GATEWAY.get(code, ("Refused", 400))
            if self._behaviour.mq_gateway_statuses == "400":
                status = 400
        return self._error(call, code, message + detail, status, ())

    def throttled(self, call: Call, header: str) -> Response:
        """A call over the rate limit.

        Args:
            call: the call.
            header: what the headers say about it; a value of `Behaviour.mq_throttle_headers`.
        """
        behaviour = self._behaviour
        code = behaviour.mq_throttle_code
        message = SERVICE[code].message if code in SERVICE else GATEWAY[code][0]
        wait_ms = behaviour.retry_after * 1000
        headers: Headers = ()
        if header == "x-acs-retry-after":
            headers = (("x-acs-retry-after", str(wait_ms)),)
        elif header == "x-ratelimit":
            value = f"Limit:{behaviour.limit},Remain:0,TimeLeft:{wait_ms},Reset:{wait_ms}"
            headers = (("x-ratelimit-user-api", value),)
        elif header == "retry-after":
            headers = (retry_after(behaviour),)
        if behaviour.mq_throttle_status == "302":
            headers = (*headers, ("Location", f"{REDIRECTED}{PROVIDER}"))
        return self._error(call, code, message, int(behaviour.mq_throttle_status), headers)

    def _error(
        self, call: Call, code: str, message: str, status: int, headers: Headers
    ) -> Response:
        document = {
            "RequestId": self._request_id(),
            "HostId": "onsmqtt.simulator.invalid",
            "Code": code,
            "Message": message,
            "Recommend": f"https://api.simulator.invalid/troubleshoot?q={code}&product=OnsMqtt",
        }
        return self._response(call, code, status, "Error", document, headers)

    def _response(
        self,
        call: Call,
        code: str,
        status: int,
        name: str,
        document: dict[str, Any],
        headers: Headers = (),
    ) -> Response:
        """A response in the format that the call asks for; `name` is the name of the document."""
        headers = (*headers, ("x-acs-request-id", document["RequestId"]))
        if _asks_for_xml(call) or (self._behaviour.mq_gateway_xml and code in GATEWAY):
            body = "".join((_XML_DECLARATION, *_xml(name, document))).encode()
            return Response(code, status, body, _XML_TYPE, headers)
        return Response(code, status, orjson.dumps(document), JSON_TYPE, headers)

    def _request_id(self) -> str:
        seed = self._behaviour.seed & 0xFFFFFFFF
        return f"{seed:08X}-0000-4000-8000-{next(self._request_ids):012X}"


def _asks_for_xml(call: Call) -> bool:
    """Whether a call is of the older kind, and does not ask for JSON."""
    return not signature.is_v3(call.request) and (call.query.get("Format") or "").upper() != "JSON"


def _xml(name: str, value: Any) -> Iterator[str]:
    """An element, or one for each item of a list."""
    if isinstance(value, list):
        for item in value:
            yield from _xml(name, item)
        return
    yield f"<{name}>"
    if isinstance(value, dict):
        for child, inner in value.items():
            yield from _xml(child, inner)
    else:
        yield escape(str(value))
    yield f"</{name}>"
