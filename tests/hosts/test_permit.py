"""What a process may write, and that nothing of it survives when the process has lost its lease."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from http_proxy import HttpProxy
from processes import LIMIT_S
from raw_server import (
    Authority,
    Client,
    Heard,
    Pace,
    Server,
    Writer,
    answer,
    client_of,
    not_sent,
    say_nothing,
)

from bulkcert.interpreter import python_environment
from bulkcert.providers.call import CallKind, CallResult, Response
from bulkcert.providers.sources import Sources
from bulkcert.timings import HostTimings, LatenessTimings, Timings

pytestmark = pytest.mark.system

LARGE = 100_000
"""Bytes of a request that the kernel takes at once, while a server that reads nothing does not."""

PATIENT = Timings(
    lateness=LatenessTimings(kernel_gives_up_s=60),
    hosts=HostTimings(ttl_s=100, grace_s=21, user_timeout_s=60),
)
"""The kernel goes on until a slow machine gets to read."""


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and warnings are errors here."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Permit:
    """Permits everything but the first requests, and records what happens."""

    refuses: int = 0
    writing: int = 0
    events: list[str] = field(default_factory=list)

    def begin_write(self) -> bool:
        self.refuses -= 1
        if self.refuses >= 0:
            self.events.append("refused")
            return False
        self.events.append("begin")
        self.writing += 1
        return True

    def end_write(self) -> None:
        self.events.append("end")
        self.writing -= 1
        assert self.writing >= 0


async def has_left(client: Client) -> None:
    """Wait until a request is written, as far as the kernel takes it."""
    async with asyncio.timeout(LIMIT_S):
        while not client.departures:  # noqa: ASYNC110 - an event would add nothing
            await asyncio.sleep(0.001)
    for _ in range(10):  # the write follows in the next steps of the event loop
        await asyncio.sleep(0)


# ---- from the permit to the kernel


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_permit_lasts_until_the_request_is_in_the_kernel(
    method: str, tls: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit, real = Permit(), socket.socket.send

    def send(self: socket.socket, data: bytes) -> int:
        sent = real(self, data)
        if permit.writing and self.getpeername()[1] == server.port:
            permit.events.append("kernel")
        return sent

    context = authority.server_context() if tls else None
    async with (
        Server(answer, tls=context) as server,
        client_of(server.endpoint, ca_file=authority.file, permit=permit) as client,
    ):
        monkeypatch.setattr(socket.socket, "send", send)
        for _ in range(3):
            assert isinstance(await client.send(method), Response)
        assert permit.events == ["begin", "kernel", "end"] * 3
        assert server.accepted == 1


async def test_without_a_permit_nothing_is_written() -> None:
    permit = Permit(refuses=1000)
    async with Server(answer) as server, client_of(server.endpoint, permit=permit) as client:
        reply = await client.send()
        assert not_sent(reply)
        assert isinstance(reply, CallResult)
        assert reply.message == "no connection: this host has to stand still"
        assert client.departures == []
        await asyncio.sleep(0.01)
        assert server.executed == []
        assert permit.writing == 0


async def test_a_request_that_lost_its_permit_takes_another_turn() -> None:
    permit, pace = Permit(refuses=2), Pace()
    async with Server(answer) as server, client_of(server.endpoint, pace, permit=permit) as client:
        assert isinstance(await client.send(), Response)
        assert permit.events == ["refused", "refused", "begin", "end"]
        assert pace.asked == 3
        assert len(server.executed) == len(client.departures) == 1


async def test_a_permit_ends_when_the_request_fails_before_it_is_written() -> None:
    permit = Permit()

    def sign() -> Mapping[str, str]:
        raise ValueError("no key")

    async with Server(answer) as server, client_of(server.endpoint, permit=permit) as client:
        assert isinstance(await client.send(sign=sign), CallResult)
        assert permit.events == ["begin", "end"]
        assert isinstance(await client.send(), Response)


async def test_a_permit_ends_when_the_request_is_cancelled_before_it_is_written() -> None:
    permit = Permit()

    def sign() -> Mapping[str, str]:
        sending.cancel()
        return {}

    async with Server(answer) as server, client_of(server.endpoint, permit=permit) as client:
        sending = asyncio.create_task(client.send(sign=sign))
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert permit.events == ["begin", "end"]


@pytest.mark.parametrize("ends_by", ["a response", "an abort"])
async def test_what_the_kernel_does_not_take_is_still_being_written(
    ends_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit, takes = Permit(), False

    def patient(name: str) -> None:
        real = getattr(socket.socket, name)

        def send(self: socket.socket, data: bytes) -> int:
            if self.getpeername()[1] == server.port and not takes:
                raise BlockingIOError
            return int(real(self, data))

        monkeypatch.setattr(socket.socket, name, send)

    async with Server(answer) as server, client_of(server.endpoint, permit=permit) as client:
        patient("send")
        patient("sendmsg")
        sending = asyncio.create_task(client.send())
        await has_left(client)
        still_writing = permit.writing == 1
        takes = ends_by == "a response"
        if not takes:
            client.transport.abort()
        assert isinstance(await sending, Response if takes else CallResult)
        assert still_writing
        assert permit.events == ["begin", "end"]


# ---- an abort, and the death of the process


class Peer:
    """A server that reads nothing until it is asked to."""

    def __init__(self) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def received(self) -> int:
        """Read until the connection ends; return the number of bytes."""
        connected, _ = self._listening.accept()
        read = 0
        with connected, contextlib.suppress(ConnectionResetError):
            connected.settimeout(LIMIT_S)
            while piece := connected.recv(65536):
                read += len(piece)
        return read

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()


@pytest.mark.parametrize("how", ["aborted", "closed"])
async def test_what_the_kernel_has_not_sent_dies_with_an_abort(how: str) -> None:
    with Peer() as peer:
        async with client_of(peer.endpoint, timings=PATIENT) as client:
            sending = asyncio.create_task(client.send(body=bytes(LARGE)))
            await has_left(client)
            if how == "aborted":
                client.transport.abort()
                reply = await sending
                assert isinstance(reply, CallResult)
                assert reply.kind is CallKind.IN_DOUBT
            else:
                sending.cancel()
                await asyncio.wait([sending])
        received = await asyncio.to_thread(peer.received)
        assert (received < LARGE) is (how == "aborted")


@pytest.mark.parametrize("through", ["plain", "TLS", "a proxy"])
async def test_an_abort_ends_all_connections(through: str, authority: Authority) -> None:
    """Those that rest, too."""

    async def behave(heard: Heard, writer: Writer) -> None:
        await (say_nothing if heard.target == "/silent" else answer)(heard, writer)

    context = None if through == "plain" else authority.server_context()
    async with Server(behave, tls=context) as server, HttpProxy().serving() as url:
        proxy = url if through == "a proxy" else ""
        async with client_of(
            server.endpoint, permit=Permit(), ca_file=authority.file, proxy=proxy
        ) as client:
            silent = [asyncio.create_task(client.send(target="/silent")) for _ in range(3)]
            assert isinstance(await client.send(), Response)
            client.transport.abort()
            for reply in await asyncio.gather(*silent):
                assert isinstance(reply, CallResult)
                assert reply.kind is CallKind.IN_DOUBT
            await server.alone()
            assert server.accepted == 4
            assert isinstance(await client.send(), Response)  # on a new connection


async def test_several_sources_are_aborted_together() -> None:
    aborted: list[str] = []

    class Channel:
        pace = Pace()

        def __init__(self, address: str) -> None:
            self.address = address

        def abort(self) -> None:
            aborted.append(self.address)

    channels = [("A", Channel("A")), ("B", Channel("B"))]
    sources = Sources(channels, Pace(), patience_s=1, notify=print)  # type: ignore[arg-type]
    sources.abort()
    assert aborted == ["A", "B"]


@pytest.mark.parametrize("permit", ["Always()", "None"])
def test_what_the_kernel_has_not_sent_dies_with_the_process(permit: str) -> None:
    """Without a permit, the kernel goes on; so the test can see the difference."""
    program = """
        import asyncio, sys, time
        from bulkcert.providers.call import Request
        from bulkcert.providers.transport import Transport
        from bulkcert.timings import *

        class Always:
            begin_write = staticmethod(lambda: True)
            end_write = staticmethod(lambda: None)

        class Pace:
            async def depart(self):
                return time.monotonic()
            forfeit = arrived = lambda self: None

        async def main():
            left = asyncio.Event()
            request = Request("POST", "/", body=bytes(SIZE))
            transport = Transport(sys.argv[1], Pace(), timeout_s=60, permit=PERMIT, timings=PATIENT)
            sending = asyncio.create_task(transport.send(request, lambda source: left.set()))
            await left.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            print("written", flush=True)
            await sending

        asyncio.run(main())
    """
    for name, value in (("PERMIT", permit), ("SIZE", LARGE), ("PATIENT", PATIENT)):
        program = program.replace(name, str(value))
    with (
        Peer() as peer,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), peer.endpoint],
            env=python_environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert (peer.received() < LARGE) is (permit != "None")
