"""One call of a provider: what is sent, what comes back, what that means, and what sends it.

Plain data and protocols, importable without a network library. `bulkcert.providers.transport` and
`bulkcert.providers.sources` implement `Channel`; the providers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult

OnDeparture = Callable[[str], None]
"""Called when a request leaves, with the IP address of this machine that it leaves from."""

Signer = Callable[[], Mapping[str, str]]
"""Returns the headers that authenticate a request; they replace others of the same name. Called
when the request leaves, because what carries a date must be fresh and the request may have waited
for a long time."""


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
        body: decompressed, at most `bulkcert.providers.transport.LARGEST_BODY` bytes.
        departed_at: the event loop's time at which the request left.
        flaw: why the body could not be decompressed, in words that fit after "with"; it is empty
            then.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    departed_at: float
    flaw: str = ""


class CallKind(Enum):
    """What the outcome of one call means, whatever it was for."""

    __hash__ = object.__hash__

    OK = "the service did what it was asked to do; `data` is its answer"
    REFUSED = "not executed, and never will be"
    DISPUTED = "refused, but perhaps only because the wanted state already holds"
    IN_DOUBT = "may have been executed"
    BUSY = "may have been executed; the provider asks to wait, so it does not count as an attempt"
    NOT_SENT = "never reached the service"
    THROTTLED = "turned away for now, not executed"
    UNUSABLE = "no request of anybody will work: the run must stop"


_ATTEMPT = {
    CallKind.OK: AttemptKind.DONE,
    CallKind.REFUSED: AttemptKind.REFUSED,
    CallKind.DISPUTED: AttemptKind.DISPUTED,
    CallKind.IN_DOUBT: AttemptKind.IN_DOUBT,
    CallKind.BUSY: AttemptKind.IN_DOUBT,
    CallKind.NOT_SENT: AttemptKind.NOT_SENT,
    CallKind.THROTTLED: AttemptKind.THROTTLED,
}
_FAILED_LOOKUP = {
    CallKind.REFUSED: LookupKind.UNCLEAR,
    CallKind.DISPUTED: LookupKind.UNCLEAR,
    CallKind.IN_DOUBT: LookupKind.FAILED,
    CallKind.BUSY: LookupKind.THROTTLED,
    CallKind.NOT_SENT: LookupKind.NOT_SENT,
    CallKind.THROTTLED: LookupKind.THROTTLED,
}


class CallResult(NamedTuple):
    """What came of one call.

    Attributes:
        kind: what it means.
        code: the provider's code, or the HTTP status if there was none, or None.
        message: the provider's text, or what went wrong on the way.
        request_id: the provider's id of the request, for its support.
        data: the answer of the service, not yet checked.
        retry_after_s: how long the provider asked to wait, in seconds.
        account_wide: refused for a reason that may concern every request of the account, not only
            this one.
    """

    kind: CallKind
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    data: Any = None
    retry_after_s: float | None = None
    account_wide: bool = False

    def asked_to_wait(self, status: int, wait_s: float | None) -> CallResult:
        """The same call, with what a header of its response says about waiting.

        Args:
            status: HTTP status of the response.
            wait_s: how long the provider asks to wait; None if it does not.
        """
        if wait_s is None or self.kind not in (CallKind.THROTTLED, CallKind.IN_DOUBT):
            return self
        busy = self.kind is CallKind.IN_DOUBT and status == 503
        kind = CallKind.BUSY if busy else self.kind
        return self._replace(kind=kind, retry_after_s=max(wait_s, self.retry_after_s or 0.0))

    def as_attempt(self, result: Any = None) -> AttemptResult:
        """The result of an attempt that consisted of this call; not for `UNUSABLE`, which stops
        the run."""
        return AttemptResult(
            _ATTEMPT[self.kind],
            self.code,
            self.message,
            self.request_id,
            result,
            counts=self.kind is not CallKind.BUSY,
            account_wide=self.account_wide,
        )

    def as_failed_lookup(self, what: str) -> LookupResult:
        """The result of a look-up whose call did not succeed.

        Args:
            what: names the call in "WHAT was refused".
        """
        kind = _FAILED_LOOKUP[self.kind]
        message = self.message
        if kind is LookupKind.UNCLEAR:
            message = f"{what} was refused: {self.code} {message}"
        return LookupResult(
            kind, self.code, message, self.request_id, account_wide=self.account_wide
        )

    def unreadable(self, problem: str) -> CallResult:
        """The same call, now that its data turned out not to be what was asked for."""
        return CallResult(CallKind.IN_DOUBT, self.code, problem, self.request_id)

    def __str__(self) -> str:
        return f"{self.code} {self.message}" if self.code is not None else self.message


class Pace(Protocol):
    """What a provider needs of the pacer; see `bulkcert.ratelimit.Pacer`."""

    async def depart(self) -> float:
        """Wait for permission to send one request, and return the time of departure."""

    async def pause_over(self) -> None:
        """Wait until nobody has to pause; for a request whose body must be fresh."""

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        """Note that a request that left at `departed_at` was throttled, and for how long."""

    def accepted(self, departed_at: float) -> object:
        """Note that a request that left at `departed_at` was not throttled."""

    def forfeit(self) -> None:
        """Give up a slot of the ceiling for a request that has left and may still be on the way."""

    def arrived(self) -> None:
        """Get a slot back in a second: the request has arrived by now."""


class Permit(Protocol):
    """Whether this process may send at all; see `bulkcert.hosts.lease.Lease`."""

    def begin_write(self) -> bool:
        """Whether a request may be written now. If so, `end_write` follows."""

    def end_write(self) -> None:
        """The request is in the kernel, or never will be."""


def heed(pace: Pace, departed_at: float, result: CallResult) -> None:
    """Report to the pacer what a response says about the pace.

    Args:
        pace: the pacer.
        departed_at: when the request left.
        result: what the response means.
    """
    if result.kind is CallKind.THROTTLED or result.retry_after_s is not None:
        pace.throttled(departed_at, result.retry_after_s)
    elif result.kind in (CallKind.OK, CallKind.REFUSED, CallKind.DISPUTED):
        pace.accepted(departed_at)


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
    ) -> Response | CallResult:
        """Send one request; see `bulkcert.providers.transport.Transport.send`."""

    async def close(self) -> None:
        """Close all connections."""

    def abort(self) -> None:
        """Break all connections at once. What the kernel has not sent by then is never sent."""
