"""Finds the certificate of the CA for a new certificate that came without it.

In: a certificate, perhaps with a URL that the provider has sent. Out: PEM, or why there is none. A
CA that came with another certificate will do, if it has signed this one. Fetching only reads, sends
no credentials, follows no redirect, and never fails the renewal, which has been executed by then.
The connection is made by the rules of the job: the same ceiling, CA file, proxy and source
addresses, and TLS is always verified.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bulkcert.errors import BulkcertError
from bulkcert.providers.call import Channel, Request, Response
from bulkcert.providers.enos.issuance import UNREADABLE, Issued, is_signed_by

LARGEST_CHAIN = 64 * 1024
"""Bytes."""

_MOST_REMEMBERED = 100
_HEADERS = (("Accept", "*/*"),)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9._-]*[a-z0-9])?)(:\d{1,5})?")
_TARGET = re.compile(r"[\w/.~%:;,=+!$&'()*?@-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a URL led to.

    Attributes:
        pem: the certificates; empty if there are none.
        problem: why there are none, as a phrase.
        at: the event loop's time.
    """

    pem: str
    problem: str
    at: float


class Chains:
    """Adds the CA to new certificates that come without it. Each URL is fetched once.

    Args:
        open_channel: makes what requests to another endpoint are sent through.
        allow_http: accept `http://` too, for a job whose own endpoint has no TLS because it is on a
            loopback address.
        retry_s: a URL that led to nothing is tried again after this many seconds.
    """

    def __init__(
        self, open_channel: Callable[[str], Channel], *, allow_http: bool, retry_s: float
    ) -> None:
        self._open_channel = open_channel
        self._schemes = ("https", "http") if allow_http else ("https",)
        self._retry_s = retry_s
        self._fetched: dict[str, Fetched] = {}
        self._seen: dict[str, None] = {}  # CAs in PEM; only the keys matter
        self._lock = asyncio.Lock()

    async def complete(self, issued: Issued, source: str = "the response") -> tuple[Issued, str]:
        """Return the certificate with its CA, and why it has none if it has none.

        Args:
            issued: the certificate.
            source: what showed it, for that reason.
        """
        if issued.has_ca:
            self._remember(issued)
            return issued, ""
        if issued.chain_url:
            fetched = await self._fetch(issued.chain_url)
            if fetched.pem:
                return replace(issued, ca_pem=fetched.pem), ""
            problem = f"has no caCert, and {fetched.problem}"
        else:
            problem = "has neither caCert nor certChainURL"
        for seen in self._seen:
            if is_signed_by(issued.pem, seen):
                return replace(issued, ca_pem=seen), ""
        return issued, f"{source} {problem}"

    def _remember(self, issued: Issued) -> None:
        ca = issued.ca_pem
        is_new = bool(ca) and ca not in self._seen and len(self._seen) < _MOST_REMEMBERED
        if is_new and is_signed_by(issued.pem, ca):
            self._seen[ca] = None

    async def _fetch(self, url: str) -> Fetched:
        async with self._lock:  # the URL is the same for all devices: one request is enough
            now = asyncio.get_running_loop().time()
            known = self._fetched.get(url)
            if known is None or (not known.pem and now >= known.at + self._retry_s):
                if len(self._fetched) >= _MOST_REMEMBERED:
                    self._fetched.clear()
                pem, problem = await self._get(url)
                known = self._fetched[url] = Fetched(pem, problem, now)
            return known

    async def _get(self, url: str) -> tuple[str, str]:
        """The certificates behind a URL in PEM, and why there are none."""
        parts = self._parts(url)
        if parts is None:
            return "", f"certChainURL is not an {self._schemes[0]} URL"
        endpoint, target = parts
        try:
            channel = self._open_channel(endpoint)
            try:
                request = Request("GET", target, headers=_HEADERS)
                response = await channel.send(request, lambda _: None)
            finally:
                await channel.close()
        except BulkcertError as error:
            return "", f"certChainURL could not be fetched: {error.problem}"
        if not isinstance(response, Response):
            return "", f"certChainURL could not be fetched: {response}"
        if response.status != 200:
            return "", f"certChainURL could not be fetched: HTTP {response.status}"
        pem = read_chain(response.body)
        return pem, "" if pem else "certChainURL leads to something other than a certificate"

    def _parts(self, url: str) -> tuple[str, str] | None:
        """The endpoint and the target of a URL; None if the URL is not acceptable."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        authority = parts.netloc.lower()
        if (
            parts.scheme not in self._schemes
            or not _AUTHORITY.fullmatch(authority)  # neither a user name nor a password
            or not _TARGET.fullmatch(target)
        ):
            return None
        return f"{parts.scheme}://{authority}", target


def read_chain(body: bytes) -> str:
    """The certificates in PEM or DER, as PEM; empty if there are none."""
    if len(body) > LARGEST_CHAIN:
        return ""
    try:
        if b"-----BEGIN CERTIFICATE-----" in body:
            certificates = x509.load_pem_x509_certificates(body)
        else:
            certificates = [x509.load_der_x509_certificate(body)]
    except UNREADABLE:
        return ""
    # written anew, so that nothing else that stood there is kept
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)
