"""Undoes a compression that nobody asked for, in bounded memory. Pure.

Requests say `Accept-Encoding: identity`, but some proxies and gateways compress all the same.
"""

from __future__ import annotations

import re
import zlib

from bulkcert.providers.decoding import one_line

_MOST_LAYERS = 3
_MOST_MEMBERS = 50  # of one gzip stream; each costs a copy of the rest
_GZIP = b"\x1f\x8b"
_PLAIN = re.compile(rb"[\xef\xbb\xbf\s]*+([{<\[]|\Z)")  # what a text begins with, or nothing at all


class TooLargeError(ValueError):
    """A body is larger than allowed once it is decompressed."""


def decompressed(body: bytes, encoding: str, largest: int) -> bytes:
    """Undo a compression that was not asked for, in bounded memory.

    Args:
        body: the body as it arrived.
        encoding: the header Content-Encoding; the body may contradict it.
        largest: the most bytes that the result may have.

    Raises:
        TooLargeError: it would have more.
        ValueError: the encoding is not known or the data is damaged; the text says which.
    """
    if not encoding and body[:2] != _GZIP:
        return body
    names = re.split(r"[\s,]+", encoding.strip().lower())
    if len(names) > _MOST_LAYERS:
        raise ValueError("a body that is compressed again and again")
    for name in reversed(names):
        if name in ("gzip", "x-gzip", "deflate"):
            body = _inflated(body, name, largest)
        elif name not in ("", "identity") and not _PLAIN.match(body):
            raise ValueError(
                f"a body in the encoding {one_line(name, 40)}, which was not asked for"
            )
    return _inflated(body, "gzip", largest) if body[:2] == _GZIP else body


def _inflated(body: bytes, name: str, largest: int) -> bytes:
    if _PLAIN.match(body):
        return body  # it only says that it is compressed
    if name == "deflate" and not _is_zlib(body) and body[:2] != _GZIP:
        wbits = -zlib.MAX_WBITS  # some servers leave out the header that RFC 9110, 8.4.1.2 requires
    else:
        wbits = zlib.MAX_WBITS | 32  # gzip or zlib, whichever it is
    plain = bytearray()
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(wbits)
        try:
            plain += stream.decompress(body, largest + 1 - len(plain))
        except zlib.error:
            raise ValueError(f"{name} data that is damaged") from None
        if len(plain) > largest:
            raise TooLargeError(f"{name} data that is too large")
        if not stream.eof:
            raise ValueError(f"{name} data that is cut off")
        body = stream.unused_data
        if body[:2] != _GZIP:
            return bytes(plain)
    raise ValueError(f"{name} data in too many parts")


def _is_zlib(body: bytes) -> bool:
    """Whether this begins like zlib data (RFC 1950, 2.2)."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
