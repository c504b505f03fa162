"""What server and services pass to each other: a request, the call in it, the reply to it.

In: the raw parts of an HTTP request. Out: plain data. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus

JSON_TYPE = "application/json;charset=UTF-8"
HTML_TYPE = "text/html"
REDIRECTED = "/redirected/"
"""Where redirects lead: a path that looks like success, so that following them shows."""


class Request(NamedTuple):
    """An HTTP request as it came. `at_us` is its arrival, Unix time in microseconds."""

    at_us: int
    source: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Call:
    """What a request asks for.

    Attributes:
        request: the request itself.
        action: what is asked for, in the ledger's words.
        device: the identification as it was sent, such as `assetId=A1`; empty if there was none.
        cert_sn: the certificate's serial number as it was sent, or None.
        query: the decoded parameters of the query; the first of each name.
        document: the JSON of the body, or None.
        effect: what it has changed about a certificate so far; "none" while nothing is changed.
        issued: the serial number of a certificate that it brought about.
    """

    request: Request
    action: str
    device: str = ""
    cert_sn: int | str | None = None
    query: dict[str, str | None] = field(default_factory=dict)
    document: Any = None
    effect: str = "none"
    issued: int | None = None


class Delivery(Enum):
    """How a reply goes out."""

    WHOLE = "as it should"
    CUT = "the connection is cut instead"
    RESET = "the same, by a reset"
    CUT_INSIDE = "the connection is cut in the middle of the body"
    DRIPPING = "one byte at a time"
    HUGE = "padded to a huge body"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, before it goes out.

    Attributes:
        code: the vendor's code in it; the HTTP status of a gateway's answer; None for a cut.
        status: HTTP status.
        fault: why the reply is not an honest one, for the ledger.
        hold_s: seconds that it is held back on top of the latency.
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
    """A certificate as a test wants to see it.

    Attributes:
        status: valid, revoked, expired (EnOS); active, inactive (ApsaraMQ).
        reason: number of the reason of a revocation.
        pem: its text, if it was issued here and has been made by now.
    """

    cert_sn: int | str
    status: str
    reason: int | None = None
    pem: str | None = None


class Service(Protocol):
    """One vendor."""

    provider: str

    def gate(self, request: Request) -> Reply | None:
        """Turn a request away at arrival, by its head alone, if it is over a limit."""

    def read(self, request: Request) -> Call:
        """Find out what a request asks for. Never fails; what is missing is left empty."""

    async def answer(self, call: Call) -> Reply:
        """Check a call, execute it, and answer it. What it changes, it changes before it waits."""

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The certificates of a device, as far as the vendor has heard of it."""

    def too_large(self) -> Reply:
        """The answer to a request whose body is too large."""

    def throttled(self, call: Call, *, retry_after: bool) -> Reply:
        """The answer to a call that came too soon."""

    def overloaded(self, call: Call) -> Reply:
        """The answer of a service that is under too much load altogether."""

    def internal_error(self, call: Call) -> Reply:
        """The answer that leaves open whether the call was executed."""

    def token_expired(self, call: Call) -> Reply:
        """The answer to a credential whose time is over."""


def page_reply(status: int) -> Reply:
    """An HTML page, as a proxy on the way makes them."""
    title = f"{status} {HTTPStatus(status).phrase}"
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>\r\n"
    )
    return Reply(status, status, page.encode(), HTML_TYPE)


def parse_query(query: str) -> dict[str, str | None]:
    """Decode a query. Of a repeated name the first value counts; a name without `=` has None."""
    parameters: dict[str, str | None] = {}
    for part in query.split("&"):
        if part:
            name, equals, value = part.partition("=")
            if "%" in part or "+" in part:
                name, value = unquote_plus(name), unquote_plus(value)
            parameters.setdefault(name, value if equals else None)
    return parameters
