"""A raw HTTP server on loopback, and a `Transport` that calls it.

The server executes every request, counts it, and then behaves as a test wants: it may answer, say
something that is not HTTP, hang up, or say nothing. `Authority` makes certificates for TLS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bulkcert.providers.call import CallKind, CallResult, Request, Response
from bulkcert.providers.transport import Transport
from bulkcert.timings import Timings

TIMEOUT_S = 30.0
NO_REST = Timings(rest_s=0)
"""Connections are used again at once; a virtual clock could not tell how long they have rested."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@dataclass
class Heard:
    """A request as it arrived, and over which connection."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


async def hear(reader: Reader, connection: int) -> Heard:
    """Read one request.

    Raises:
        EOFError: the client has hung up.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Heard(connection, method, target, headers, body)


Behave = Callable[[Heard, Writer], Awaitable[None]]
"""What a server does after it has executed a request."""


@dataclass
class Server:
    """Executes every request, and then behaves as the test wants.

    Attributes:
        behave: what it does after each request.
        greet: what it does with a connection before it reads from it.
        executed: all requests.
        open: open connections.
        accepted: number of connections so far.
        listens: accepts connections from the beginning; otherwise only after `listen`.
        takes_little: the kernel buffers only little that the server has not read.
    """

    behave: Behave
    greet: Callable[[Writer], Awaitable[None]] | None = None
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    listens: bool = True
    takes_little: bool = False
    executed: list[Heard] = field(default_factory=list)
    open: list[Writer] = field(default_factory=list)
    accepted: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._socket = socket.create_server((self.host, 0))
        self._socket.setblocking(False)
        if self.takes_little:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.port = self._socket.getsockname()[1]
        if self.listens:
            await self.listen()
        return self

    async def listen(self) -> None:
        """Begin to accept; until then connections wait in the kernel."""
        self._server = await asyncio.start_server(self._serve, sock=self._socket, ssl=self.tls)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for writer in self.open:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        connection = self.accepted
        self.open.append(writer)
        try:
            if self.greet is not None:
                await self.greet(writer)
            while True:
                heard = await hear(reader, connection)
                self.executed.append(heard)
                await self.behave(heard, writer)
                await writer.drain()
        except (EOFError, OSError):
            pass  # one side has hung up
        finally:
            self.open.remove(writer)
            self._tasks.discard(task)
            writer.close()

    async def alone(self) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(60):
            while self.open:  # noqa: ASYNC110 - an event would add nothing
                await asyncio.sleep(0.001)


async def answer(heard: Heard, writer: Writer) -> None:
    writer.write(OK)


async def hang_up(heard: Heard, writer: Writer) -> None:
    writer.close()


async def reset(heard: Heard, writer: Writer) -> None:
    reset_by(writer)


async def say_nothing(heard: Heard, writer: Writer) -> None:
    """Keep the client waiting."""


def reset_by(writer: Writer) -> None:
    """Close a connection by RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    )
    writer.transport.abort()


def saying(content: bytes, then: Behave | None = None) -> Behave:
    async def behave(heard: Heard, writer: Writer) -> None:
        writer.write(content)
        with suppress(OSError):
            await writer.drain()
        if then is not None:
            await then(heard, writer)

    return behave


@dataclass
class Pace:
    """Gives permission at once, or when the gate opens, and records each request for it."""

    gate: asyncio.Event | None = None
    asked: int = 0
    forfeited: int = 0
    forfeits: list[int] = field(default_factory=list)
    permissions: list[float] = field(default_factory=list)

    async def depart(self) -> float:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        self.permissions.append(asyncio.get_running_loop().time())
        return self.permissions[-1]

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        raise AssertionError("the transport does not judge responses")

    def accepted(self, departed_at: float) -> object:
        raise AssertionError("the transport does not judge responses")

    async def pause_over(self) -> None:
        raise AssertionError("the transport does not wait for the end of a pause")

    def forfeit(self) -> None:
        self.forfeited += 1
        self.forfeits.append(self.forfeited)

    def arrived(self) -> None:
        self.forfeited -= 1
        self.forfeits.append(self.forfeited)


class Client:
    """A transport, its pace, and the departures that it reported."""

    def __init__(self, endpoint: str, pace: Pace | None = None, **options: Any) -> None:
        self.pace = pace or Pace()
        settings = {"timeout_s": TIMEOUT_S, "timings": NO_REST} | options
        self.transport = Transport(endpoint, self.pace, **settings)
        self.departures: list[float] = []

    def departed(self, _source: str = "") -> None:
        self.departures.append(asyncio.get_running_loop().time())

    async def send(
        self,
        method: str = "POST",
        target: str = "/x?a=1",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        sign: Callable[[], Mapping[str, str]] | None = None,
    ) -> Response | CallResult:
        content = (b"" if method == "GET" else b'{"a":1}') if body is None else body
        request = Request(method, target, body=content, headers=tuple((headers or {}).items()))
        return await self.transport.send(request, self.departed, sign)


@asynccontextmanager
async def client_of(
    endpoint: str, pace: Pace | None = None, **options: Any
) -> AsyncIterator[Client]:
    client = Client(endpoint, pace, **options)
    try:
        yield client
    finally:
        await client.transport.close()


@asynccontextmanager
async def both(behave: Behave, **options: Any) -> AsyncIterator[tuple[Server, Client]]:
    """A server and a client of it; no connection may be left open at the end."""
    async with Server(behave) as server:
        async with client_of(server.endpoint, **options) as client:
            yield server, client
        await server.alone()


def in_doubt(reply: Response | CallResult) -> bool:
    return isinstance(reply, CallResult) and reply.kind is CallKind.IN_DOUBT


def not_sent(reply: Response | CallResult) -> bool:
    return isinstance(reply, CallResult) and reply.kind is CallKind.NOT_SENT


@dataclass
class Authority:
    """A private certificate authority in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Private CA")])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int = 10
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=20))
            .not_valid_after(datetime.now(UTC) + timedelta(days=days))
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def server_context(self, *names: str, days: int = 10) -> ssl.SSLContext:
        """TLS of a server with a certificate for these names, by default 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        general = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            for name in names or ("127.0.0.1",)
        ]
        certificate = (
            self._builder(x509.Name([]), key, days=days)
            .add_extension(x509.SubjectAlternativeName(general), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        file = self.folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context
