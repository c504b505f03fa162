"""Public keys: what identifies one, wherever it is found.

In: certificates, or the content of a file with a certificate, a signing request or a key. Out: the
SHA-256 of the SubjectPublicKeyInfo in DER, in 64 hexadecimal digits. Each key is encoded anew, so
that one key has one digest however it was written. Must never keep a private key, nor quote any
part of one: often only the key that has leaked is at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from bulkcert.pem import as_der, blocks

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

# X.509 takes long to load, so it is imported only where it is needed

_KINDS = (
    "a certificate, a signing request, a public key or an unencrypted private key, in PEM or DER"
)

ENCRYPTED = (
    "contains an encrypted private key; write its public key to a file"
    " (openssl pkey -in KEY -pubout -out FILE), and name that"
)


def digest(key: PublicKeyTypes) -> str:
    """The digest of a public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def of_certificate(pem: str) -> str | None:
    """The digest of the public key in a certificate (PEM); None if it can't be read.

    If there are several certificates, that of the first one. ApsaraMQ writes DEVICECERTIFICATE.
    """
    found = next((body for label, body in blocks(pem) if label.endswith("CERTIFICATE")), None)
    if found is None:
        return None
    from cryptography import x509

    try:
        return digest(x509.load_der_x509_certificate(as_der(found)).public_key())
    except _unreadable():
        return None


def in_file(content: bytes) -> str:
    """The digest of the one public key in a file; for a private key, of its public key.

    A key may be there more than once, such as in a certificate and by itself. The certificates of
    CAs that stand beside another one don't count.

    Raises:
        ValueError: there is none, or there are several; with a reason that completes the sentence
            "public_key ...". It never quotes the content.
    """
    devices: set[str] = set()
    authorities: set[str] = set()
    for read, der in _encoded(content):
        try:
            key, is_ca = read(der)
            (authorities if is_ca else devices).add(digest(key))
        except _unreadable():
            raise ValueError(f"can't be read; it must be {_KINDS}") from None
    digests = devices or authorities
    if len(digests) > 1:
        raise ValueError(f"contains {len(digests)} different keys; keep only the one that is meant")
    if not digests:
        raise ValueError(f"contains no key; it must be {_KINDS}")
    return digests.pop()


_Reader = Callable[[bytes], "tuple[Any, bool]"]
"""From DER to a public key, and whether it is that of a CA."""


def _encoded(content: bytes) -> Iterator[tuple[_Reader, bytes]]:
    """What a file contains, each part in DER and with its reader."""
    if b"-----BEGIN" not in content:
        yield _read_any, content
        return
    for label, body in blocks(content.decode("latin-1")):
        if label == "ENCRYPTED PRIVATE KEY" or "Proc-Type:" in body:
            raise ValueError(ENCRYPTED)
        if label in _READERS:
            try:
                yield _READERS[label], as_der(body)
            except ValueError:
                raise ValueError(f"can't be read; it must be {_KINDS}") from None


def _read_certificate(der: bytes) -> tuple[Any, bool]:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    is_ca = False
    with contextlib.suppress(x509.ExtensionNotFound, *_unreadable()):
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return certificate.public_key(), is_ca


def _read_request(der: bytes) -> tuple[Any, bool]:
    from cryptography import x509

    return x509.load_der_x509_csr(der).public_key(), False


def _read_public_key(der: bytes) -> tuple[Any, bool]:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(der), False


def _read_private_key(der: bytes) -> tuple[Any, bool]:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    return load_der_private_key(der, None).public_key(), False


def _read_any(der: bytes) -> tuple[Any, bool]:
    for read in (_read_certificate, _read_request, _read_public_key):
        with contextlib.suppress(*_unreadable()):
            return read(der)
    return _read_private_key(der)


_READERS: dict[str, _Reader] = {
    "CERTIFICATE": _read_certificate,
    "X509 CERTIFICATE": _read_certificate,
    "CERTIFICATE REQUEST": _read_request,
    "NEW CERTIFICATE REQUEST": _read_request,
    "PUBLIC KEY": _read_public_key,
    "RSA PUBLIC KEY": _read_public_key,
    "PRIVATE KEY": _read_private_key,
    "RSA PRIVATE KEY": _read_private_key,
    "EC PRIVATE KEY": _read_private_key,
}
"""By the label of the PEM block; parameters and the like have no key."""


def _unreadable() -> tuple[type[Exception], ...]:
    """Raised for what is broken, or of a kind that the library does not know."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    return ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion
