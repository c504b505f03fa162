"""The bytes of a request, as HTTP/1.1 has them (RFC 9112). Pure.

In: a request, and the headers that authenticate it. Out: bytes to write. What is the same for all
requests to an endpoint is put together once. Never lets a value add a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from bulkcert.providers.call import Request
from bulkcert.version import VERSION

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",
    "User-Agent": f"bulkcert/{VERSION}",
}


class Wire:
    """Writes requests to one endpoint.

    Args:
        endpoint: base URL without trailing slash.
        proxy: URL of a proxy that is asked, unencrypted, instead of the endpoint; None for none.
    """

    def __init__(self, endpoint: str, proxy: URL | None = None) -> None:
        parts = urlsplit(endpoint)
        self._prefix = parts.path if proxy is None else endpoint
        headers = {"Host": parts.netloc, **_HEADERS}
        if proxy is not None and proxy.user is not None:
            headers["Proxy-Authorization"] = aiohttp.encode_basic_auth(
                proxy.user, proxy.password or ""
            )

        @lru_cache(maxsize=16)
        def others(given: tuple[str, ...]) -> str:
            """The headers that a request has besides those that are given."""
            names = {name.lower() for name in given}
            return _lines({n: value for n, value in headers.items() if n.lower() not in names})

        self._others = others

    def bytes_of(self, request: Request, signed: Mapping[str, str]) -> bytes:
        """Return a request as it is written.

        Args:
            request: sent exactly as it is, with the headers that HTTP itself needs.
            signed: the headers that authenticate it; they replace others of the same name.

        Raises:
            ValueError: a value has characters that no header may have.
        """
        method, target, body = request.method, self._prefix + request.target, request.body
        headers = {**dict(request.headers), **signed}
        if body or method != "GET":
            headers["Content-Length"] = str(len(body))
        others = self._others(tuple(headers))
        if not target.isprintable():
            raise ValueError(f"a target has control characters: {target!r}")
        head = f"{method} {target} HTTP/1.1\r\n{others}{_lines(headers)}\r\n"
        return head.encode("ascii") + body


def _lines(headers: Mapping[str, str]) -> str:
    if not "".join(headers.values()).isprintable():  # such as a line break
        wrong = ", ".join(name for name, value in headers.items() if not value.isprintable())
        raise ValueError(f"control characters in {wrong}")
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
