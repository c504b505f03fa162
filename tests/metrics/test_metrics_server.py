"""The server of metrics: who scrapes well is served, and nobody else holds anything up."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import until

from bulkcert.errors import MetricsError
from bulkcert.metrics.address import Address
from bulkcert.metrics.server import MOST_BYTES, MOST_CONNECTIONS, MetricsServer
from bulkcert.timings import MetricsTimings

pytestmark = pytest.mark.system

LOOPBACK = Address("127.0.0.1", 0)
PATIENT = MetricsTimings(request_s=60.0, accept_every_s=0.001)
"""Nothing is closed because of its time, however slow the machine is."""

CONTENT = b"bulkcert_hosts 1.0\n"


@contextmanager
def serving(
    address: Address = LOOPBACK, timings: MetricsTimings = PATIENT
) -> Iterator[MetricsServer]:
    with MetricsServer(address, lambda: CONTENT, "text/plain; version=0.0.4", timings) as server:
        yield server


def port_of(server: MetricsServer) -> int:
    return int(server.url.removesuffix("/metrics").rpartition(":")[2])


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=60)


def respond(server: MetricsServer, head: bytes) -> bytes:
    """What the server says to some bytes, until it closes the connection."""
    with connect(server) as connection:
        connection.sendall(head)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
        return received


def scrape(server: MetricsServer) -> bytes:
    with urllib.request.urlopen(server.url, timeout=60) as response:
        return bytes(response.read())


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_the_metrics_are_served_at_one_path_and_nothing_else_is() -> None:
    with serving() as server, urllib.request.urlopen(server.url) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4"
        assert response.read() == CONTENT
        assert respond(server, b"HEAD /metrics HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")
        assert b" 200 " in respond(server, b"GET /metrics?x=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 404 " in respond(server, b"GET / HTTP/1.1\r\n\r\n")
        assert b" 405 " in respond(server, b"DELETE /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * MOST_BYTES,
    ],
)
def test_garbage_is_refused_and_the_next_one_is_served(garbage: bytes) -> None:
    with serving() as server:
        assert b" 200 " not in respond(server, garbage)
        assert scrape(server) == CONTENT


def test_an_ipv6_address_is_served() -> None:
    try:
        with serving(Address("::1", 0)) as server:
            assert server.url.startswith("http://[::1]:")
            assert scrape(server) == CONTENT
    except MetricsError:
        pytest.skip("this machine has no IPv6")


def test_somebody_who_hangs_is_dropped_after_a_while() -> None:
    with serving(timings=MetricsTimings(request_s=0.05)) as server, connect(server) as hanging:
        hanging.sendall(b"GET /metr")
        assert hanging.recv(1) == b""


def test_somebody_who_does_not_read_is_dropped_after_a_while() -> None:
    asked = threading.Event()

    def much() -> bytes:
        asked.set()
        return b"x" * 50_000_000  # more than the buffers of the system take

    timings = MetricsTimings(request_s=0.2)
    with (
        MetricsServer(LOOPBACK, much, "text/plain", timings) as server,
        connect(server) as hanging,
    ):
        hanging.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert asked.wait(60)
        until(lambda: not server._connections)


def test_many_idle_connections_keep_nobody_from_being_served() -> None:
    before = open_files()
    with serving() as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(server))
        assert scrape(server) == CONTENT
        until(lambda: len(server._connections) <= MOST_CONNECTIONS)
        assert open_files() < before + 200 + MOST_CONNECTIONS + 10
        hanging = connect(server)
        stack.callback(hanging.close)
        hanging.sendall(b"GET")
    assert not [thread for thread in threading.enumerate() if thread.name == "metrics server"]


def test_too_many_open_files_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    accept, failed = socket.socket.accept, threading.Event()

    def first_fail(listening: socket.socket) -> tuple[socket.socket, Any]:
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", first_fail)
    with serving(timings=MetricsTimings(retry_accept_s=0.01)) as server:
        assert scrape(server) == CONTENT
    assert failed.is_set()


def test_the_port_is_free_again_at_the_end() -> None:
    with serving() as server, connect(server):
        address = Address("127.0.0.1", port_of(server))
    with serving(address) as server:
        assert scrape(server) == CONTENT


def test_a_taken_port_and_a_foreign_address_are_errors_that_say_what_to_do() -> None:
    with serving() as server:
        for address in (
            Address("127.0.0.1", port_of(server)),
            Address("192.0.2.1", 9464),  # of no machine, by RFC 5737
            Address("no-such-host.invalid", 9464),
        ):
            with pytest.raises(MetricsError, match="Name a free port") as caught, serving(address):
                pass
            assert str(address) in caught.value.problem
            assert caught.value.exit_code == 2


def test_no_file_is_left_open() -> None:
    before = open_files()
    for _ in range(3):
        with serving() as server:
            scrape(server)
    until(lambda: open_files() <= before)
