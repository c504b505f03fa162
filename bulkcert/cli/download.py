"""Fetches a file from a URL: a revocation list, or the certificate of a CA.

In: a URL, and bounds for time and size. Out: the content. Must never send a credential, use a proxy
variable of the environment, or keep on for longer than the bounds say, whatever the server does.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

SCHEMES = ("http", "https")
_READ_AT_ONCE = 2**16


class DownloadError(Exception):
    """A URL could not be fetched; with the reason as a phrase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a download may take.

    Attributes:
        within_s: longest time until it is complete.
        bytes: largest content.
    """

    within_s: float
    bytes: int


def fetch(
    url: str, bounds: Bounds, *, ca_file: Path | None = None, proxy: str = "", redirects: bool
) -> bytes:
    """Fetch a URL; blocks.

    Args:
        url: `http://` or `https://`.
        bounds: of time and size.
        ca_file: a CA to trust in addition to the system's.
        proxy: URL of an HTTP proxy; empty for none.
        redirects: follow redirects. Not for what is trusted because of the host that it is from.

    Raises:
        DownloadError: it could not be fetched.
    """
    give_up_at = time.monotonic() + bounds.within_s
    content = bytearray()
    try:
        context = ssl.create_default_context()
        if ca_file:
            context.load_verify_locations(ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(dict.fromkeys(SCHEMES, proxy) if proxy else {}),
            urllib.request.HTTPSHandler(context=context),
            _Redirects(follow=redirects),
        )
        with opener.open(url, timeout=bounds.within_s) as response:
            while chunk := response.read1(_READ_AT_ONCE):
                content += chunk
                if len(content) > bounds.bytes:
                    raise DownloadError(f"it is larger than {bounds.bytes / 2**20:,.0f} MiB")
                if time.monotonic() > give_up_at:
                    raise DownloadError(f"it takes longer than {bounds.within_s:g} s")
            declared = response.headers.get("Content-Length", "")
            if declared.isdecimal() and len(content) < int(declared):
                raise DownloadError("the connection was cut")
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"HTTP {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", None) or error)) from error
    return bytes(content)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, *, follow: bool) -> None:
        self._follow = follow

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not self._follow or urlsplit(newurl).scheme not in SCHEMES:
            return None  # which makes the redirect an error
        return super().redirect_request(req, fp, code, msg, headers, newurl)
