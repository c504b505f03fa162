"""Where the hosts of a scenario are: on machines of their own, or on addresses of this one.

With network namespaces each host has an address, a TCP stack and a link of its own, and the
link can be pulled out. This process must be in a namespace of its own for that: `enter` sees to it.
Nothing outside of these namespaces is touched, and they end with this process. The provider listens
on a loopback address there as well, because a job accepts plain HTTP for nothing else: the kernel
routes such addresses there.

Elsewhere all hosts share the loopback interface, each with an address of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INSIDE = "BULKCERT_HOSTS_NETWORK"
BRIDGE = "provider"
_ROUTE_LOCALNET = "/proc/sys/net/ipv4/conf/all/route_localnet"
_WAYS = ((), ("--user", "--map-current-user", "--keep-caps"))
"""Options with which a namespace may be had: as root, and as whoever else may have one."""

_HOLDER = f"echo 1 > {_ROUTE_LOCALNET} && echo ready && exec cat"


def enter() -> None:
    """Run this very command again in a network namespace of its own, where that is possible."""
    if INSIDE in os.environ:
        return
    for way in _WAYS:
        words = ["unshare", *way, "--net"]
        tried = ["sh", "-c", f"echo 1 > {_ROUTE_LOCALNET} && ip link add try type bridge"]
        try:
            works = not subprocess.run([*words, *tried], capture_output=True).returncode
        except FileNotFoundError:
            return
        if works:
            os.environ[INSIDE] = "1"
            os.execvp("unshare", [*words, *sys.orig_argv])


class Namespaces:
    """Each host in a network namespace of its own, at a bridge that leads to the provider."""

    can_be_cut = True
    provider = "127.1.0.1"

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        Path(_ROUTE_LOCALNET).write_text("1")
        if not _exists("lo", "127.0.0.1"):
            _ip("address", "add", "127.0.0.1/32", "dev", "lo")
            _ip("link", "set", "lo", "up")
        # an address of its own: it would take that of a link, which then delivers by itself
        _ip("link", "add", BRIDGE, "address", "02:00:00:00:00:01", "type", "bridge")
        _ip("address", "add", f"{self.provider}/16", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def add(self, number: int) -> Place:
        """Set up a machine. Numbers begin with 1."""
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        self._holders.append(holder)
        link, address = f"host{number}", f"127.1.1.{number}"
        inside = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        _ip(*("link", "add", link, "type", "veth", "peer", "name", "eth0"), "netns", holder.pid)
        _ip("link", "set", link, "master", BRIDGE, "up")
        for words in (
            ("address", "add", "127.0.0.1/32", "dev", "lo"),
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/16", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _run(*inside, "ip", *words)
        return Place(address, inside, link)

    def close(self) -> None:
        """Remove everything."""
        for holder in self._holders:
            holder.communicate()
        _ip("link", "delete", BRIDGE)


class Loopback:
    """All hosts on this machine; what tells them apart is the address that they send from."""

    can_be_cut = False
    provider = "127.0.0.1"

    def add(self, number: int) -> Place:
        """Choose an address. Numbers begin with 1."""
        return Place(f"127.0.1.{number}", (), "")

    def close(self) -> None:
        """There is nothing to remove."""


class Place:
    """Where a host is.

    Attributes:
        address: what it sends from.
        prefix: the words that begin a command there.
        needs_source: the host must be told to send from its address.
    """

    def __init__(self, address: str, prefix: Sequence[str], link: str) -> None:
        self.address = address
        self.prefix = tuple(prefix)
        self.needs_source = not prefix
        self._link = link

    def cut(self) -> None:
        """Pull the plug: what is sent in either direction is lost, and nobody is told."""
        _ip("link", "set", self._link, "nomaster")

    def heal(self) -> None:
        """Put it in again."""
        _ip("link", "set", self._link, "master", BRIDGE)


def network() -> Namespaces | Loopback:
    """The best that this machine can do."""
    return Namespaces() if INSIDE in os.environ else Loopback()


def _exists(link: str, address: str) -> bool:
    shown = subprocess.run(
        ["ip", "-o", "address", "show", "dev", link], capture_output=True, check=True
    )
    return f" {address}/".encode() in shown.stdout


def _ip(*words: Any) -> None:
    _run("ip", *words)


def _run(*words: Any) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, timeout=20)
    assert done.returncode == 0, (words, done.stderr)
