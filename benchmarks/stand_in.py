"""The responses of `nginx.py` without nginx, for comparisons of client CPU on any machine.

    python -m benchmarks.stand_in [CERTIFICATE KEY]

Prints its endpoint and serves until it is stopped; with paths of a certificate and its private key
(PEM), by HTTPS. It uses far more CPU than nginx, which is why nothing that measures throughput uses
it.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks import nginx, workload
from benchmarks.processes import ProgramError, background


@contextmanager
def serving(folder: Path, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Serve as a process for the length of the block, and yield the endpoint.

    Args:
        folder: its working directory.
        tls: paths of a certificate and its private key (PEM), to serve HTTPS.

    Raises:
        ProgramError: it did not start.
    """
    command = [sys.executable, "-m", "benchmarks.stand_in", *(tls or ())]
    with background(
        command, env=workload.environment(), cwd=folder, output=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint.startswith("http"):
            raise ProgramError(f"the stand-in did not start: {endpoint}")
        yield endpoint


class _Connection(asyncio.Protocol):
    """Responds to each request as soon as its whole body has arrived."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            first_line, *headers = self._received[:end].decode("latin-1").split("\r\n")
            lengths = [
                int(value)
                for name, _, value in (header.partition(":") for header in headers)
                if name.lower() == "content-length"
            ]
            whole = end + 4 + sum(lengths)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            self._transport.write(_response(first_line.split(" ")[1]))


def _response(target: str) -> bytes:
    url = urlsplit(target)
    if url.path.startswith("/apim-token-service/"):
        body = nginx.RESPONSES["token"]
    elif url.path.startswith("/connect-service/"):
        body = nginx.RESPONSES["revoked"]
    else:
        serial = parse_qs(url.query).get("DeviceSn", [""])[0]
        body = nginx.RESPONSES["inactivated"].replace("$arg_DeviceSn", serial)
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def main(*tls: str) -> None:
    """Print the endpoint and serve until the process is stopped."""
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, ssl=context)
    scheme = "https" if tls else "http"
    print(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
