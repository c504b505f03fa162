"""When requests arrive at the provider, by the clock of the kernel.

In: the packets on a network interface. Out: for each request its time of arrival and the address
that it came from. A simulator that is busy reads requests late, and several at once; the kernel
notes when they came. Needs root, and hosts in namespaces of their own.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import NamedTuple

_IPV4 = 0x0800
_OUTGOING = 4
_SO_TIMESTAMPNS = 35
_SO_ATTACH_FILTER = 26
_METHODS = frozenset({b"GET ", b"POST", b"PUT ", b"DELE"})
_SHORTEST = 80
"""Bytes. Whatever is shorter, such as an acknowledgement, contains no request."""


class Arrival(NamedTuple):
    """One request on the wire: when it arrived, as Unix time, and where it came from."""

    at: float
    source: str


class Wire:
    """Listens on an interface for requests to a port, from its creation on."""

    def __init__(self, interface: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._filter(port)
        self._socket.bind((interface, _IPV4))
        self._socket.settimeout(0.2)
        self._seen: set[tuple[bytes, bytes, bytes]] = set()
        self._arrivals: list[Arrival] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="wire", daemon=True)
        self._thread.start()

    def _filter(self, port: int) -> None:
        program = [
            (0x80, 0, 0, 0),  # length of the packet
            (0x25, 0, 6, _SHORTEST),
            (0x30, 0, 0, 9),  # protocol
            (0x15, 0, 4, socket.IPPROTO_TCP),
            (0xB1, 0, 0, 0),  # length of the IP header
            (0x48, 0, 0, 2),  # destination port
            (0x15, 0, 1, port),
            (0x06, 0, 0, 256),  # take so many bytes of it
            (0x06, 0, 0, 0),
        ]
        instructions = b"".join(struct.pack("HBBI", *each) for each in program)
        buffer = create_string_buffer(instructions)
        head = struct.pack("HL", len(program), addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)

    def _listen(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):  # nothing came, or the interface is gone
                packet, notes, _, sender = self._socket.recvmsg(256, 64)
                if sender[2] != _OUTGOING:
                    self._note(packet, notes)

    def _note(self, packet: bytes, notes: list[tuple[int, int, bytes]]) -> None:
        tcp = (packet[0] & 0x0F) * 4
        content = tcp + (packet[tcp + 12] >> 4) * 4
        if packet[content : content + 4] not in _METHODS:
            return  # the rest of a request
        # what the kernel sends again is the same request
        name = (packet[12:16], packet[tcp : tcp + 2], packet[tcp + 4 : tcp + 8])
        if name in self._seen:
            return
        self._seen.add(name)
        seconds, nanoseconds = struct.unpack("qq", notes[0][2][:16])
        self._arrivals.append(Arrival(seconds + nanoseconds / 1e9, socket.inet_ntoa(name[0])))

    def close(self) -> list[Arrival]:
        """Stop, and return everything that has arrived, in order."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            self._socket.close()
        return sorted(self._arrivals)
