"""Sends from one or several source addresses, each over connections of its own. For any provider.

In goes what a `Transport` takes, out comes what it returns. It never sends faster from an address
than its pace allows, and never goes on sending from an address that gets no answers:

A provider that blocks an address does not say so; its requests are refused, reset or never
answered. So an address is *silent* when ten requests in a row have failed that were all
begun after the first of them had failed. What was open at that moment does not count: one cut may
end a hundred connections at once. From then on it only gets one request at a time, a
second apart, and the first answer ends its silence.

* An address of which five such requests have failed, while others were answered before each of
  them, is given up, and the operator is told. That takes seconds, and an outage of the provider
  can't look like it: then nobody is answered.
* When all addresses have been silent for the job's patience, the run stops. Whether the provider is
  down or has blocked them can't be told apart from here.

The circuit breaker of the run sees the same failures as shares of all answers; it is slower, and
knows of no addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from bulkcert.errors import ProviderUnusableError
from bulkcert.model import Answer
from bulkcert.providers.base import Setup, Source
from bulkcert.providers.call import Channel, OnDeparture, Request, Response, Signer
from bulkcert.providers.transport import Transport, check_local
from bulkcert.timings import SourceTimings


@dataclass(slots=True, eq=False)
class _Lane:
    """One address, and how it fares.

    Attributes:
        sent: requests begun so far.
        open: those of them that have not come back.
        failing_since: the loop's time of the first failure since the last answer.
        failures: how many have failed since of those that were begun since.
        probing: one request is on its way to see whether the silence is over.
        probe_at: when the next one may be.
        others_answered: another address was answered since the last probe.
        failed_probes: how many have failed after others were answered.
    """

    address: str | None
    transport: Transport
    timings: SourceTimings
    sent: int = 0
    open: int = 0
    failing_since: float | None = None
    failures: int = 0
    probing: bool = False
    probe_at: float = 0.0
    others_answered: bool = False
    failed_probes: int = 0

    @property
    def silent(self) -> bool:
        return self.failures >= self.timings.failures_to_trip

    def answered(self) -> None:
        self.failing_since, self.failures, self.failed_probes = None, 0, 0

    def failed(self, begun_at: float, now: float) -> None:
        if self.failing_since is None:
            self.failing_since = now
        elif begun_at >= self.failing_since:
            self.failures += 1
            if self.failures == self.timings.failures_to_trip:
                self.others_answered = False
                self.probe_at = now + self.timings.probe_every_s

    def probe_failed(self, now: float) -> None:
        self.failed_probes += self.others_answered
        self.others_answered = False
        self.probe_at = now + self.timings.probe_every_s


class Lanes:
    """Spreads requests over the source addresses of a job.

    Args:
        setup: where to send.
        sources: from where, and how fast.

    Raises:
        JobError: the CA file can't be used.
    """

    def __init__(self, setup: Setup, sources: Sequence[Source]) -> None:
        self.pace = setup.pace
        self._tell = setup.tell
        self._patience_s = setup.patience_s
        self._all = [
            _Lane(source.address, _transport(setup, source), setup.timings.sources)
            for source in sources
        ]
        self._used = list(self._all)
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._silent_since: float | None = None

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | Answer:
        """Send one request by the address with the fewest open; see `Transport.send`.

        Raises:
            ProviderUnusableError: no address has been answered for long.
        """
        lane = await self._next_lane()
        probes = lane.silent
        lane.probing |= probes
        lane.sent += 1
        lane.open += 1
        begun_at = _now()
        try:
            reply = await lane.transport.send(request, on_departure, sign)
        finally:
            lane.open -= 1
            if probes:
                lane.probing = False
                self._news.set()
        self._take_note(lane, reply, begun_at, probes)
        return reply

    async def close(self) -> None:
        """Close all connections."""
        for lane in self._all:
            await lane.transport.close()

    async def _next_lane(self) -> _Lane:
        """Wait until some address may be used, and choose it."""
        async with self._turn:
            while True:
                self._refuse_to_go_on()
                if lane := self._choose():
                    return lane
                await self._until_probe()

    def _choose(self) -> _Lane | None:
        working = [lane for lane in self._used if not lane.silent]
        if len(working) < len(self._used):
            now = _now()
            for lane in self._used:
                if lane.silent and not lane.probing and now >= lane.probe_at:
                    return lane
        # One that is slow to answer, or to let go, has more open than the others.
        return min(working, key=lambda lane: (lane.open, lane.sent), default=None)

    async def _until_probe(self) -> None:
        """Wait until a silent address may be tried, or a trial is over."""
        self._news.clear()
        due = min((lane.probe_at for lane in self._used if not lane.probing), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else due - _now()):
                await self._news.wait()

    def _refuse_to_go_on(self) -> None:
        silent_s = 0.0 if self._silent_since is None else _now() - self._silent_since
        if silent_s >= self._patience_s:
            raise ProviderUnusableError(
                f"No source address has been answered for {silent_s:.0f} s: the provider is down,"
                " or has blocked them.",
                "Ask the provider, or send from another address (connection.source_addresses)."
                " Then run the same command: it goes on from here.",
            )

    def _take_note(
        self, lane: _Lane, reply: Response | Answer, begun_at: float, probes: bool
    ) -> None:
        if not isinstance(reply, Answer) and _is_from_provider(reply):
            lane.answered()
            self._silent_since = None
            for other in self._used:
                other.others_answered |= other is not lane
        elif probes:
            lane.probe_failed(_now())
            if lane.failed_probes >= lane.timings.probes_to_give_up and lane in self._used:
                self._give_up(lane)
        else:
            lane.failed(begun_at, _now())
        if self._silent_since is None and all(used.silent for used in self._used):
            self._silent_since = _now()

    def _give_up(self, lane: _Lane) -> None:
        self._used.remove(lane)
        left = ", ".join(str(other.address) for other in self._used)
        self._tell(
            f"Source address {lane.address} gets no answers any more, the others do: it may be"
            f" blocked. Nothing more is sent from it; going on from {left}."
        )


def channel(setup: Setup) -> Channel:
    """What a job sends by: lanes, if there is an address to choose or to save.

    Raises:
        JobError: an address is not one of this machine's, or the CA file can't be used.
    """
    sources = setup.sources or (Source(None, setup.pace),)
    for source in sources:
        if source.address is not None:
            check_local(source.address)
    if len(sources) > 1 or setup.blocks_sources:
        return Lanes(setup, sources)
    return _transport(setup, sources[0])


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_from_provider(reply: Response) -> bool:
    """Whether the provider itself has answered: in JSON. A page comes from something before it."""
    return reply.body.lstrip()[:1] == b"{"


def _transport(setup: Setup, source: Source) -> Transport:
    return Transport(
        setup.endpoint,
        source.pace,
        timeout_s=setup.timeout_s,
        ca_file=setup.ca_file,
        local_address=source.address,
        connect_timeout_s=setup.timings.connect_timeout_s,
    )
