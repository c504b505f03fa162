"""What the server and the vendors pass to each other: a request, its call, and the response.

In: the raw parts of an HTTP request. Out: plain data. Nothing here decides anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus

from bulkcert.simulator.behaviour import Behaviour

JSON_TYPE = "application/json;charset=UTF-8"
HTML_TYPE = "text/html"
REDIRECTED = "/redirected/"
"""Where redirects point. It responds with success, so a client that follows one is noticed."""


class Request(NamedTuple):
    """An HTTP request as received.

    Attributes:
        at_us: arrival, Unix time in microseconds.
        source: IP address of the client.
        query: the query string, still encoded.
    """

    at_us: int
    source: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Call:
    """What a request asks for, and what it has changed so far.

    Attributes:
        request: the request itself.
        action: the action requested, as the ledger names it.
        device: the device as the request names it, such as `assetId=A1`; empty if it names none.
        cert_sn: the certificate's serial number as sent, or None.
        scope: the organization or instance that the request names; empty if it names none.
        query: the decoded query parameters; the first value of each name.
        document: the JSON document in the body, or None.
        effect: what the call changed about a certificate; "none" until it changes something.
        issued: serial number of the certificate that the call created, or None.
    """

    request: Request
    action: str
    device: str = ""
    cert_sn: int | str | None = None
    scope: str = ""
    query: dict[str, str | None] = field(default_factory=dict)
    document: Any = None
    effect: str = "none"
    issued: int | None = None


class Delivery(Enum):
    """How a response is sent."""

    WHOLE = "normally"
    CUT = "not at all: the connection is cut instead"
    RESET = "not at all: the connection is reset instead"
    CUT_INSIDE = "up to the middle of the body, then the connection is cut"
    DRIPPING = "one byte at a time"
    TWICE = "followed by a copy that nobody asked for"
    HUGE = "padded to a huge body"


@dataclass(frozen=True, slots=True)
class Response:
    """A response before it is sent.

    Attributes:
        code: the vendor's code in the response; the HTTP status if a gateway responds; None if
            nothing is sent at all.
        status: HTTP status.
        fault: name of the fault that changed or replaced the response, for the ledger.
        hold_s: seconds to hold the response back, on top of the latency.
    """

    code: int | str | None
    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()
    fault: str | None = None
    delivery: Delivery = Delivery.WHOLE
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CertificateState:
    """The state of a certificate, as tests read it.

    Attributes:
        cert_sn: serial number; text for ApsaraMQ.
        status: valid, revoked or expired (EnOS); active or inactive (ApsaraMQ).
        reason: number of the revocation reason, or None.
        pem: the certificate, if the simulator issued it and it is ready.
    """

    cert_sn: int | str
    status: str
    reason: int | None = None
    pem: str | None = None


class Vendor(Protocol):
    """One vendor's API: its gateway and the services behind it.

    Attributes:
        provider: the vendor's name in the ledger.
    """

    provider: str

    def gate(self, request: Request) -> Response | None:
        """Turn away a request that is over a limit. Sees the head only: the body is not read yet.

        Returns:
            The refusal, or None to let the request in.
        """

    def read(self, request: Request) -> Call:
        """Find out what a request asks for. Never fails; leaves what is missing empty."""

    async def respond(self, call: Call) -> Response:
        """Check a call, execute it and respond. All changes are made before the first await."""

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The certificates of a device, as far as requests have mentioned it."""

    def too_large(self) -> Response:
        """The response to a request whose body is too large."""

    def throttled(self, call: Call, *, wait: bool) -> Response:
        """The response to a call that exceeds the rate limit; `wait`: it says how long."""

    def overloaded(self, call: Call, *, wait: bool) -> Response:
        """The response of a service that is overloaded as a whole; `wait`: it says how long."""

    def internal_error(self, call: Call) -> Response:
        """The response that leaves open whether the call was executed."""

    def token_expired(self, call: Call) -> Response:
        """The response to an expired credential."""


def retry_after(behaviour: Behaviour) -> tuple[str, str]:
    """The header Retry-After. A date counts from the `Date` of the same response."""
    if behaviour.retry_after_form == "seconds":
        return "Retry-After", str(behaviour.retry_after)
    end_s = math.ceil(time.time() + behaviour.dates_ahead) + behaviour.retry_after
    return "Retry-After", formatdate(end_s, usegmt=True)


def html_page(status: int) -> Response:
    """An HTML page such as a proxy between client and vendor returns."""
    title = f"{status} {HTTPStatus(status).phrase}"
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>\r\n"
    )
    return Response(status, status, page.encode(), HTML_TYPE)


def parse_query(query: str) -> dict[str, str | None]:
    """Decode a query string. The first value of a repeated name counts; without `=` it is None."""
    parameters: dict[str, str | None] = {}
    for part in query.split("&"):
        if part:
            name, equals, value = part.partition("=")
            if "%" in part or "+" in part:
                name, value = unquote_plus(name), unquote_plus(value)
            parameters.setdefault(name, value if equals else None)
    return parameters
