"""One call of a provider: what is sent, what comes back, and what sends it.

Plain data and protocols, importable without a network library. `bulkcert.providers.transport` and
`bulkcert.providers.sources` implement `Channel`; the providers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bulkcert.model import Answer

OnDeparture = Callable[[], None]
"""Called when a request leaves."""

Signer = Callable[[], Mapping[str, str]]
"""Returns the headers that authenticate a request. Called when the request leaves, because what
carries a date must be fresh and the request may have waited for a long time."""


class Request(NamedTuple):
    """One request as it goes out, except for what authenticates it.

    Attributes:
        method: HTTP method.
        target: path and query, percent-encoded.
        query: names and decoded values of the query, for signing.
        body: the exact bytes; empty for none.
        headers: headers that belong to the request itself, such as its content type.
    """

    method: str
    target: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Response(NamedTuple):
    """A complete HTTP response.

    Attributes:
        status: HTTP status.
        headers: found in any letter case.
        body: as it arrived, at most `bulkcert.providers.transport.LARGEST_BODY` bytes.
        departed_at: the event loop's time at which the request left.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    departed_at: float


class Pace(Protocol):
    """What a provider needs of the pacer; see `bulkcert.ratelimit.Pacer`."""

    async def depart(self) -> float:
        """Wait for permission to send one request, and return the time of departure."""

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        """Note that a request that left at `departed_at` was throttled, and for how long."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where requests are sent from, and how fast.

    Attributes:
        address: IP address of this machine, or None for the one that the system chooses.
        pace: asked before each request leaves from there.
    """

    address: str | None
    pace: Pace


class Channel(Protocol):
    """Sends requests: over one `Transport`, or over the several of `Sources`."""

    pace: Pace

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | Answer:
        """Send one request; see `bulkcert.providers.transport.Transport.send`."""

    async def close(self) -> None:
        """Close all connections."""
