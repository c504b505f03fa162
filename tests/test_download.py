"""Downloads end in time and in size, whatever the server does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from raw_server import Authority, Heard, Server, Writer, saying

from bulkcert.cli.download import Bounds, DownloadError, fetch

pytestmark = pytest.mark.system

BOUNDS = Bounds(within_s=10.0, bytes=2**20)
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


async def fetched(url: str, bounds: Bounds = BOUNDS, *, redirects: bool = True) -> bytes:
    return await asyncio.to_thread(fetch, url, bounds, redirects=redirects)


async def finish(heard: Heard, writer: Writer) -> None:
    """End the connection; what was written arrives."""
    writer.close()


async def test_the_content_is_what_the_server_sends() -> None:
    async with Server(saying(OK + b"Content-Length: 3\r\n\r\nabc")) as server:
        assert await fetched(f"{server.endpoint}/devices.crl") == b"abc"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Server(saying(OK + b"\r\nabc", finish)) as server:
        assert await fetched(server.endpoint) == b"abc"
        with pytest.raises(DownloadError):
            await asyncio.to_thread(
                fetch, server.endpoint, BOUNDS, proxy="http://127.0.0.1:1", redirects=True
            )


async def drip(heard: Heard, writer: Writer) -> None:
    """Send a byte now and then, for ever: no single read takes long."""
    writer.write(OK + b"\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flood(heard: Heard, writer: Writer) -> None:
    writer.write(OK + b"\r\n")
    while True:
        writer.write(bytes(2**16))
        await writer.drain()


async def test_a_server_that_never_ends_is_left() -> None:
    async with Server(drip) as server:
        with pytest.raises(DownloadError, match=r"it takes longer than 0\.05 s"):
            await fetched(server.endpoint, Bounds(within_s=0.05, bytes=2**20))
    async with Server(flood) as server:
        with pytest.raises(DownloadError, match="it is larger than 1 MiB"):
            await fetched(server.endpoint)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/\r\n\r\n", "HTTP 302"),
        (OK + b"Content-Length: 5\r\n\r\nabc", "the connection was cut"),
        (b"rubbish\r\n\r\n", "rubbish"),
    ],
)
async def test_other_responses_are_errors(content: bytes, reason: str) -> None:
    async with Server(saying(content, finish)) as server:
        with pytest.raises(DownloadError, match=reason):
            await fetched(server.endpoint)


async def test_redirects_are_followed_only_where_the_host_does_not_matter() -> None:
    async with Server(saying(OK + b"\r\nabc", finish)) as other:
        found = f"HTTP/1.1 302 Found\r\nLocation: {other.endpoint}/x\r\n\r\n".encode()
        async with Server(saying(found, finish)) as server:
            assert await fetched(server.endpoint) == b"abc"
            with pytest.raises(DownloadError, match="HTTP 302"):
                await fetched(server.endpoint, redirects=False)


async def test_the_certificate_of_the_server_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.server_context("127.0.0.1")
    async with Server(saying(OK + b"\r\nabc", finish), tls=tls) as server:
        with pytest.raises(DownloadError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetched(server.endpoint)
        assert (
            await asyncio.to_thread(
                fetch, server.endpoint, BOUNDS, ca_file=authority.file, redirects=True
            )
            == b"abc"
        )
