"""The address at which metrics are served, as a user writes it."""

from __future__ import annotations

from typing import NamedTuple, Self

LOOPBACK = "127.0.0.1"
"""Where metrics are served if only a port is given: nobody else can reach it."""


class Address(NamedTuple):
    """Where to serve. Port 0 is any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read HOST:PORT; the host is a loopback address if there is only a port.

        Raises:
            ValueError: it is something else; the message says what.
        """
        host, _, port = text.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{port!r} is not a port from 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address needs brackets, as in [::1]:9464")
        return cls(host or LOOPBACK, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
