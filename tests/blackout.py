"""A network that loses everything for an instant, between two network namespaces of their own.

    unshare --user --map-root-user --net python tests/blackout.py SECONDS [STORE RUN]

In: how long nothing arrives; and the URL of a shared store with the number of a run of which three
hosts share the ceiling. Out, as JSON: the ceiling, the most requests that left in any rolling
second, and the most that the server saw. Nothing outside of the two namespaces is touched. For that
time, the client's kernel sends its packets to an address of the link that nobody has.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence

CEILING = 500
SECONDS_S = 4.0
BLACKOUT_AT_S = 1.5
HOSTS = 3
JOINING_S = 1.5  # they wait before they send
LATENCY_S = 0.2
CLIENT, SERVER, PORT = "10.9.9.1", "10.9.9.2", 8080
CLIENT_LINK, SERVER_LINK, NOBODY = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def configure(link: str, address: str, own: str, other: str, other_link: str) -> None:
    """Set up one end of the link; the other end's address is written down, not asked for."""
    ip("link", "set", link, "address", own, "up")
    ip("address", "add", f"{address}/24", "dev", link)
    ip("neighbour", "replace", other, "lladdr", other_link, "dev", link, "nud", "permanent")


def busiest(times: list[float]) -> int:
    """Most in any rolling second."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


class Connection(asyncio.Protocol):
    """Responds to each request after a while, and notes when it arrived."""

    arrived: list[float]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            _, _, self._received = self._received.partition(b"\r\n\r\n")
            self.arrived.append(time.monotonic())
            asyncio.get_running_loop().call_later(LATENCY_S, self._transport.write, BODY)


async def serve() -> None:
    """The server, in a namespace of its own; it ends with its standard input."""
    say("created")
    await asyncio.to_thread(sys.stdin.readline)  # the link has been moved here
    configure("server", SERVER, SERVER_LINK, CLIENT, CLIENT_LINK)
    Connection.arrived = []
    async with await asyncio.get_running_loop().create_server(Connection, SERVER, PORT):
        say("listening")
        await asyncio.to_thread(sys.stdin.readline)
    say(f"{busiest(Connection.arrived)} {len(Connection.arrived)}")


async def send(blackout_s: float, store: Sequence[str]) -> int:
    """Send as fast as the ceiling permits; return the most that left in any rolling second."""
    from hosts.shared_pace import Sender

    from bulkcert.providers.call import Request
    from bulkcert.providers.transport import Transport
    from bulkcert.ratelimit import Pacer

    hosts = []
    if store:
        url, run = store
        hosts = [Sender(url, int(run), ceiling=CEILING) for _ in range(HOSTS)]
    for host in hosts:
        host.pace.start()
    pacers = [host.pacer for host in hosts] or [Pacer(CEILING)]
    if store:
        await asyncio.sleep(JOINING_S)
    transports = [Transport(f"http://{SERVER}:{PORT}", pacer, timeout_s=30) for pacer in pacers]
    end = time.monotonic() + SECONDS_S
    times: list[float] = []

    async def work(transport: Transport) -> None:
        while time.monotonic() < end:
            response = await transport.send(Request("GET", "/"), lambda _: None)
            times.append(response.departed_at)

    async def fail() -> None:
        for wait_s, link in ((BLACKOUT_AT_S, NOBODY), (blackout_s, SERVER_LINK)):
            await asyncio.sleep(wait_s)
            words = ("neighbour", "replace", SERVER, "lladdr", link, "dev", "client")
            await asyncio.to_thread(ip, *words, "nud", "permanent")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        for number in range(300):
            tasks.create_task(work(transports[number % len(transports)]))
    for transport in transports:
        await transport.close()
    for host in hosts:
        await host.stop()
    return busiest(sorted(times))


def main(blackout_s: float, store: Sequence[str]) -> None:
    """Run both sides and print what happened."""
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, __file__, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def tell() -> str:
            server.stdin.write("\n")
            server.stdin.flush()
            return server.stdout.readline()

        server.stdout.readline()
        ip("link", "add", "client", "type", "veth", "peer", "name", "server")
        ip("link", "set", "server", "netns", str(server.pid))
        configure("client", CLIENT, CLIENT_LINK, SERVER, SERVER_LINK)
        tell()
        left = asyncio.run(send(blackout_s, store))
        arrived, total = map(int, tell().split())
    say(json.dumps({"ceiling": CEILING, "left": left, "arrived": arrived, "total": total}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        main(float(sys.argv[1]), sys.argv[2:])
