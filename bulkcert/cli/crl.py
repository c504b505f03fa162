"""The option `--crl`: gets revocation lists and certificates of CAs from files and URLs.

In: paths and URLs. Out: lists that were checked. No credentials are sent, and what is fetched is
bounded in time and size.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from bulkcert import revocation_list
from bulkcert.errors import RevocationListError
from bulkcert.providers import installed_provider
from bulkcert.revocation_list import RevocationList, certificates
from bulkcert.store.manifest import RunManifest

LARGEST_LIST = 256 * 2**20
"""Bytes; a list with a million entries has 40 to 50 million."""

FETCH_WITHIN_S = 60.0
_READ_AT_ONCE = 2**16
_MOST_CHAINS = 20
"""Files in `certificates/` that are searched for the CA."""


def read_lists(
    sources: Sequence[str], issuer_files: Sequence[Path], manifest: RunManifest, run_dir: Path
) -> list[RevocationList]:
    """Get the lists and check them.

    Args:
        sources: paths and URLs.
        issuer_files: files with certificates of CAs, which are trusted.
        manifest: of the run; its `ca_file` is trusted, too.
        run_dir: the run directory; the CAs in its `certificates/` are trusted, too.

    Raises:
        RevocationListError: one of them can't be used.
    """
    connection, provider = manifest.connection, installed_provider(manifest.provider)
    known = [*_issuers(issuer_files), *_known(connection.ca_file, run_dir)]
    now = datetime.now(UTC)
    lists = []
    for source in sources:
        content = _content(source, connection.ca_file, connection.proxy)
        found = revocation_list.read(content, source, known, now)
        url = provider.ca_of_list(source)
        if not found.signed and _is_authentic(url):
            with contextlib.suppress(RevocationListError):
                ca = certificates(_fetch(url, connection.ca_file, connection.proxy))
                found = revocation_list.read(content, source, ca, now)
        lists.append(found)
    return lists


def _is_authentic(url: str) -> bool:
    """Whether what a URL leads to is from its host, and not from somebody on the way."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return parts.scheme == "https"
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _issuers(files: Sequence[Path]) -> Iterator[x509.Certificate]:
    for path in files:
        found = certificates(_read_file(path))
        if not found:
            raise RevocationListError(
                f"{path} does not contain a certificate, in PEM or DER.",
                "Name the certificate of the CA with --crl-issuer.",
            )
        yield from found


def _known(ca_file: Path | None, run_dir: Path) -> Iterator[x509.Certificate]:
    """The certificates of CAs that are there anyway."""
    paths = sorted((run_dir / "certificates").glob("*.pem"))[:_MOST_CHAINS]
    for path in ([ca_file] if ca_file else []) + paths:
        try:
            yield from certificates(path.read_bytes())
        except OSError:
            continue


def _content(source: str, ca_file: Path | None, proxy: str) -> bytes:
    scheme = urlsplit(source).scheme.lower() if "://" in source else ""
    if not scheme:
        return _read_file(Path(source))
    if scheme not in ("http", "https"):
        raise RevocationListError(
            f"{source} can't be fetched: it must begin with http:// or https://.",
            "Save the list as a file, and name that with --crl.",
        )
    return _fetch(source, ca_file, proxy)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_LIST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RevocationListError(
            f"{path} can't be read: {reason}", "Check the path and the permissions of the file."
        ) from error
    return _bounded(content, str(path))


def _fetch(url: str, ca_file: Path | None, proxy: str) -> bytes:
    """Fetch a URL; redirects are followed, because the signature decides."""
    give_up_at = time.monotonic() + FETCH_WITHIN_S
    try:
        context = ssl.create_default_context()
        if ca_file:
            context.load_verify_locations(ca_file)
        opener = urllib.request.build_opener(
            # proxy variables of the environment are not used, as everywhere
            urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {}),
            urllib.request.HTTPSHandler(context=context),
        )
        content = bytearray()
        with opener.open(url, timeout=FETCH_WITHIN_S) as response:
            while chunk := response.read1(_READ_AT_ONCE):
                content += chunk
                if len(content) > LARGEST_LIST:
                    break
                if time.monotonic() > give_up_at:
                    raise TimeoutError(f"it took longer than {FETCH_WITHIN_S:g} seconds")
    except urllib.error.HTTPError as error:
        raise _not_fetched(url, f"HTTP {error.code}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _not_fetched(url, str(getattr(error, "reason", None) or error)) from error
    return _bounded(bytes(content), url)


def _bounded(content: bytes, source: str) -> bytes:
    if len(content) > LARGEST_LIST:
        raise RevocationListError(
            f"{source} is larger than {LARGEST_LIST // 2**20} MiB.",
            "Check that it is a certificate revocation list.",
        )
    return content


def _not_fetched(url: str, reason: str) -> RevocationListError:
    return RevocationListError(
        f"{url} can't be fetched: {reason}",
        "Check the URL, or save the list as a file and name that with --crl.",
    )
