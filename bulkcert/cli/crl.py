"""The option `--crl`: gets revocation lists and certificates of CAs from files and URLs.

In: paths and URLs. Out: lists that were checked. No credentials are sent, and what is fetched is
bounded in time and size.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from bulkcert import revocation_list
from bulkcert.cli.download import SCHEMES, Bounds, DownloadError, fetch
from bulkcert.errors import RevocationListError
from bulkcert.job import Connection
from bulkcert.providers import installed_provider
from bulkcert.revocation_list import RevocationList, certificates
from bulkcert.store.manifest import RunManifest

BOUNDS = Bounds(within_s=60.0, bytes=256 * 2**20)
"""A list with a million entries has 40 to 50 million bytes."""

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
        content = _content(source, connection)
        found = revocation_list.read(content, source, known, now)
        url = provider.ca_of_list(source)
        if not found.signed and _is_authentic(url):
            with contextlib.suppress(RevocationListError):
                ca = certificates(_fetch(url, connection, redirects=False))
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


def _content(source: str, connection: Connection) -> bytes:
    scheme = urlsplit(source).scheme.lower() if "://" in source else ""
    if not scheme:
        return _read_file(Path(source))
    if scheme not in SCHEMES:
        raise RevocationListError(
            f"{source} can't be fetched: it must begin with http:// or https://.",
            "Save the list as a file, and name that with --crl.",
        )
    if "@" in urlsplit(source).netloc:
        raise RevocationListError(
            "The URL of a revocation list must not contain a user name or a password.",
            "Save the list as a file, and name that with --crl.",
        )
    return _fetch(source, connection, redirects=True)  # the signature decides


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(BOUNDS.bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RevocationListError(
            f"{path} can't be read: {reason}", "Check the path and the permissions of the file."
        ) from error
    return _bounded(content, str(path))


def _fetch(url: str, connection: Connection, *, redirects: bool) -> bytes:
    try:
        return fetch(
            url,
            BOUNDS,
            ca_file=connection.ca_file,
            proxy=connection.proxy,
            redirects=redirects,
        )
    except DownloadError as error:
        raise RevocationListError(
            f"{url} can't be fetched: {error}",
            "Check the URL, or save the list as a file and name that with --crl.",
        ) from error


def _bounded(content: bytes, source: str) -> bytes:
    if len(content) > BOUNDS.bytes:
        raise RevocationListError(
            f"{source} is larger than {BOUNDS.bytes // 2**20} MiB.",
            "Check that it is a certificate revocation list.",
        )
    return content
