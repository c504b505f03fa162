"""The form of ApsaraMQ's responses: success, refusal, and over the rate limit.

In: a document, or a code. Out: a response with its HTTP status, headers and JSON body. Errors are
`{RequestId, HostId, Code, Message, Recommend}`. Nothing here decides which response is right.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from bulkcert.simulator.apsaramq.refusals import GATEWAY, SERVICE
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.exchange import REDIRECTED, Response

PROVIDER = "apsaramq"
"""The vendor's name in the ledger."""

Headers = tuple[tuple[str, str], ...]


class Responses:
    """Makes responses, each with a request ID of its own."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._request_ids = count(1)

    def success(self, document: dict[str, Any]) -> Response:
        """A successful call."""
        request_id = self._request_id()
        body = orjson.dumps({"RequestId": request_id, **document})
        return Response("OK", 200, body, headers=(("x-acs-request-id", request_id),))

    def refusal(self, code: str) -> Response:
        """A refusal by the service or the gateway, whichever the code belongs to."""
        if refusal := SERVICE.get(code):
            by_pages = self._behaviour.mq_statuses == "pages"
            message, status = refusal.message, refusal.status if by_pages else refusal.noticed
        else:
            message, status = GATEWAY.get(code, ("Refused", 400))
            if self._behaviour.mq_gateway_statuses == "400":
                status = 400
        return self._error(code, message, status, ())

    def throttled(self, header: str) -> Response:
        """A call over the rate limit.

        Args:
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
        if behaviour.mq_throttle_status == "302":
            headers = (*headers, ("Location", f"{REDIRECTED}{PROVIDER}"))
        return self._error(code, message, int(behaviour.mq_throttle_status), headers)

    def _error(self, code: str, message: str, status: int, headers: Headers) -> Response:
        request_id = self._request_id()
        document = {
            "RequestId": request_id,
            "HostId": "onsmqtt.simulator.invalid",
            "Code": code,
            "Message": message,
            "Recommend": f"https://api.simulator.invalid/troubleshoot?q={code}&product=OnsMqtt",
        }
        headers = (*headers, ("x-acs-request-id", request_id))
        return Response(code, status, orjson.dumps(document), headers=headers)

    def _request_id(self) -> str:
        seed = self._behaviour.seed & 0xFFFFFFFF
        return f"{seed:08X}-0000-4000-8000-{next(self._request_ids):012X}"
