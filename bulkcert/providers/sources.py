"""Sends from one or several source addresses, each over its own connections. For any provider.

In: the requests of a job. Out: what a `Transport` returns for them. Never sends faster from an
address than its pace allows, and never keeps sending from an address that gets no responses.

A provider that blocks an address does not say so: requests from it are refused, reset, or never
answered. Each source has its own circuit breaker:

* When a request has failed, and then ten in a row that were begun after that, the source is
  *tripped*. Requests in flight at the first failure do not count: one cut may end a hundred
  connections at once.
* A tripped source gets one probe at a time, a second apart; while it is in flight the source is
  *half-open*. The first response closes the breaker again.
* A source is given up after five failed probes, if other sources got responses before each of them.
  The operator is notified. That takes seconds, and an outage of the provider does not look like it:
  in an outage no source gets a response.
* When all sources have been tripped for as long as the job allows, the run stops. From here, a
  provider that is down and one that has blocked all addresses look the same.

The circuit breaker of the run sees the same failures as shares of all results. It is slower, and
knows nothing about addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bulkcert.errors import ProviderUnusableError
from bulkcert.providers.call import (
    CallResult,
    Channel,
    OnDeparture,
    Pace,
    Permit,
    Request,
    Response,
    Signer,
    Source,
)
from bulkcert.providers.decoding import text_of
from bulkcert.providers.transport import Transport, check_source_address
from bulkcert.timings import SourceTimings, Timings


@dataclass(slots=True, eq=False)
class _Breaker:
    """The circuit breaker of one source.

    Attributes:
        address: see `Source`.
        channel: sends from that address.
        sent: requests begun so far.
        in_flight: requests begun that have not come back.
        failing_since: the loop's time of the first failure since the last response.
        failures: failed requests among those begun since then.
        half_open: a probe is in flight.
        probe_at: when the next probe may be sent.
        others_respond: another source has got a response since the last probe.
        failed_probes: failed probes, each of them after another source got a response.
    """

    address: str | None
    channel: Channel
    timings: SourceTimings
    sent: int = 0
    in_flight: int = 0
    failing_since: float | None = None
    failures: int = 0
    half_open: bool = False
    probe_at: float = 0.0
    others_respond: bool = False
    failed_probes: int = 0

    @property
    def tripped(self) -> bool:
        return self.failures >= self.timings.failures_to_trip

    def close(self) -> None:
        """The source got a response."""
        self.failing_since, self.failures, self.failed_probes = None, 0, 0

    def request_failed(self, begun_at: float, now: float) -> None:
        if self.failing_since is None:
            self.failing_since = now
        elif begun_at >= self.failing_since:
            self.failures += 1
            if self.failures == self.timings.failures_to_trip:
                self.others_respond = False
                self.probe_at = now + self.timings.probe_every_s

    def probe_failed(self, now: float) -> None:
        self.failed_probes += self.others_respond
        self.others_respond = False
        self.probe_at = now + self.timings.probe_every_s


class Sources:
    """Spreads requests over several source addresses.

    Args:
        channels: each address with what sends from it. None stands for the address that the system
            chooses.
        pace: the pace of all of them together.
        patience_s: the run stops when all sources have been tripped for this many seconds.
        notify: called with what the operator should know at once, in one sentence or two.
        explain: called with details: a source is tripped, or responds again.
        timings: when a source is tripped, and when it is given up.
    """

    def __init__(
        self,
        channels: Sequence[tuple[str | None, Channel]],
        pace: Pace,
        *,
        patience_s: float,
        notify: Callable[[str], object],
        explain: Callable[[str], object] = lambda text: None,
        timings: SourceTimings = SourceTimings(),
    ) -> None:
        self.pace = pace
        self._notify = notify
        self._explain = explain
        self._patience_s = patience_s
        self._all = [_Breaker(address, channel, timings) for address, channel in channels]
        self._in_use = list(self._all)
        self._turn = asyncio.Lock()
        self._probe_returned = asyncio.Event()
        self._all_tripped_since: float | None = None

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        """Send one request from the source with the fewest in flight; see `Transport.send`.

        Raises:
            ProviderUnusableError: no source has got a response for too long.
        """
        source = await self._next_source()
        probes = source.tripped
        source.half_open |= probes
        source.sent += 1
        source.in_flight += 1
        begun_at = _now()
        try:
            response = await source.channel.send(request, on_departure, sign)
        finally:
            source.in_flight -= 1
            if probes:
                source.half_open = False
                self._probe_returned.set()
        if not isinstance(response, CallResult) and _is_from_provider(response):
            self._responded(source)
        else:
            self._failed(source, begun_at, probes)
        return response

    async def close(self) -> None:
        """Close all connections."""
        for source in self._all:
            await source.channel.close()

    def abort(self) -> None:
        """Break all connections at once; see `Transport.abort`."""
        for source in self._all:
            source.channel.abort()

    async def _next_source(self) -> _Breaker:
        """Wait until a source may be used, and choose it."""
        async with self._turn:
            while True:
                self._check_patience()
                if source := self._choose():
                    return source
                await self._wait_for_probe()

    def _choose(self) -> _Breaker | None:
        closed = [source for source in self._in_use if not source.tripped]
        if len(closed) < len(self._in_use):
            now = _now()
            for source in self._in_use:
                if source.tripped and not source.half_open and now >= source.probe_at:
                    return source
        # A source that is slow to get responses, or slowed by its pace, has more in flight.
        return min(closed, key=lambda source: (source.in_flight, source.sent), default=None)

    async def _wait_for_probe(self) -> None:
        """Wait until a tripped source may be probed, or a probe has come back."""
        self._probe_returned.clear()
        due = min(
            (source.probe_at for source in self._in_use if not source.half_open), default=None
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else due - _now()):
                await self._probe_returned.wait()

    def _check_patience(self) -> None:
        since = self._all_tripped_since
        tripped_s = 0.0 if since is None else _now() - since
        if tripped_s >= self._patience_s:
            raise ProviderUnusableError(
                f"No source address has got a response for {tripped_s:.0f} s: the provider is down,"
                " or it has blocked them.",
                "Ask the provider, or send from another address (connection.source_addresses)."
                " Then run the same command: it continues from here.",
            )

    def _responded(self, source: _Breaker) -> None:
        if source.tripped:
            self._explain(f"source address {_name(source)} responds again")
        source.close()
        self._all_tripped_since = None
        for other in self._in_use:
            other.others_respond |= other is not source

    def _failed(self, source: _Breaker, begun_at: float, probes: bool) -> None:
        if probes:
            source.probe_failed(_now())
            if source.failed_probes >= source.timings.probes_to_give_up and source in self._in_use:
                self._give_up(source)
        else:
            was_tripped = source.tripped
            source.request_failed(begun_at, _now())
            if source.tripped and not was_tripped:
                self._explain(
                    f"source address {_name(source)} does not respond: only a probe every"
                    f" {source.timings.probe_every_s:g} s is sent from it"
                )
        if self._all_tripped_since is None and all(source.tripped for source in self._in_use):
            self._all_tripped_since = _now()

    def _give_up(self, source: _Breaker) -> None:
        self._in_use.remove(source)
        others = [str(other.address) for other in self._in_use]
        respond = "addresses still respond" if len(others) > 1 else "address still responds"
        self._notify(
            f"Source address {source.address} has stopped responding; the other {respond}."
            f" It may be blocked. Nothing more is sent from it; continuing from"
            f" {', '.join(others)}."
        )


def _name(source: _Breaker) -> str:
    return source.address or "of the system's choice"


def open_channel(
    endpoint: str,
    sources: Sequence[Source],
    pace: Pace,
    *,
    timeout_s: float,
    patience_s: float,
    notify: Callable[[str], object],
    explain: Callable[[str], object] = lambda text: None,
    blocks_sources: bool,
    ca_file: Path | None = None,
    proxy: str = "",
    permit: Permit | None = None,
    timings: Timings = Timings(),
) -> Channel:
    """Make what a job sends through. Nothing is sent yet.

    Args:
        endpoint: base URL without trailing slash.
        sources: where requests are sent from, at least one.
        pace: the pace of all sources together.
        timeout_s: seconds that a response may take, from the moment its request left.
        patience_s, notify, explain: see `Sources`.
        blocks_sources: the provider blocks an address that sends too much, so even a single address
            needs a circuit breaker of its own.
        ca_file: PEM file with a CA to trust besides the system's.
        proxy: URL of an HTTP proxy to send through; empty for none.
        permit: asked directly before each request is written; None if this process may always send.
        timings: when to time out connecting, and when to trip a source.

    Raises:
        JobError: an address can't be used, or the CA file can't.
    """
    for source in sources:
        if source.address is not None:
            check_source_address(source.address)
    channels = [
        (
            source.address,
            Transport(
                endpoint,
                source.pace,
                timeout_s=timeout_s,
                ca_file=ca_file,
                local_address=source.address,
                proxy=proxy,
                permit=permit,
                timings=timings,
            ),
        )
        for source in sources
    ]
    if len(channels) == 1 and not blocks_sources:
        return channels[0][1]
    return Sources(
        channels,
        pace,
        patience_s=patience_s,
        notify=notify,
        explain=explain,
        timings=timings.sources,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_from_provider(response: Response) -> bool:
    """Whether the provider itself has responded, which it does in JSON, or perhaps in XML. An HTML
    page comes from something in front of it, which may be blocking us; unless it throttles, or says
    when to come back."""
    waits = response.status == 429 or (response.status == 503 and "Retry-After" in response.headers)
    if waits or response.body.lstrip()[:1] == b"{":
        return True
    text = text_of(response)[:1000].lstrip().lower()
    return text.startswith("{") or (text.startswith("<") and "<requestid>" in text)
