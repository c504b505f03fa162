"""Seals a private key for the operator: who seals it can't open it again. Pure.

In: content, the operator's public key, and what the content belongs to. Out: an envelope, which
only the operator's private key opens, and only as what it was sealed as. Must never return a part
of what is not intact, nor quote a key in a message. docs/material.md describes the format:

    bytes   8   "BULKCERT"
    bytes   1   version: 1
    bytes   1   method: 1 is X25519, 2 is RSA-OAEP
    bytes  16   the begin of the SHA-256 of the operator's SubjectPublicKeyInfo
    bytes   n   X25519: a public key made for this envelope, n = 32
                RSA: a secret made for this envelope, encrypted; n is the length of the RSA key
    the rest    the content, encrypted with ChaCha20-Poly1305

All before the rest is the header. The key of the content is derived from the shared secret, with
the header as salt, so each envelope has a key of its own and a constant nonce does no harm.

Importing this module takes a while, because it loads the cryptographic library.
"""

from __future__ import annotations

import contextlib
import functools
import os
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

_MAGIC, _VERSION = b"BULKCERT", 1
_X25519, _RSA = 1, 2
_FINGERPRINT = slice(10, 26)
_SENT_AT = 26
_INFO = b"bulkcert material 1"
_NONCE = bytes(12)
_OAEP = OAEP(MGF1(SHA256()), SHA256(), label=None)

SHORTEST_RSA = 3072
"""Bits. Shorter ones are too weak for what is to stay secret after 2030 (NIST SP 800-57)."""

HOW_TO_MAKE = (
    "to make one: `openssl genpkey -algorithm X25519 -aes256 -out ops-private.pem`, then"
    " `openssl pkey -in ops-private.pem -pubout -out ops-public.pem`"
)


class EnvelopeError(Exception):
    """An envelope can't be opened; with the reason as a phrase."""


class WrongIdentityError(EnvelopeError):
    """It was sealed for another key."""


class Binding(NamedTuple):
    """What an envelope belongs to; it opens as nothing else.

    Attributes:
        run: the id of the run.
        operation: the id of the operation.
        attempt: the number of the attempt.
        kind: what is in it.
    """

    run: str
    operation: int
    attempt: int
    kind: str

    @property
    def data(self) -> bytes:
        """The binding as the data that is authenticated with the content."""
        return " ".join(map(str, self)).encode()  # no part contains a blank


def operator_key(content: bytes) -> str:
    """The public key in a file, in PEM, after a check that content can be sealed for it.

    Raises:
        ValueError: there is no such key; with a reason that completes the sentence "operator ...".
    """
    if b"PRIVATE KEY" in content:
        raise ValueError(
            "contains a private key, which must stay with the operator; write its public key to a"
            " file (openssl pkey -in KEY -pubout -out FILE), and name that"
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"is not a public key in PEM; {HOW_TO_MAKE}") from None
    if isinstance(key, RSAPublicKey) and key.key_size < SHORTEST_RSA:
        raise ValueError(f"is an RSA key of {key.key_size} bits; it needs {SHORTEST_RSA} or more")
    if not isinstance(key, X25519PublicKey | RSAPublicKey):
        raise ValueError(f"is not an X25519 or RSA key; {HOW_TO_MAKE}")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def seal(content: bytes, operator: str, binding: Binding) -> bytes:
    """Seal content for an operator.

    Args:
        content: what only the operator may read.
        operator: the public key, as `operator_key` returns it.
        binding: what it belongs to.
    """
    key = _loaded(operator)
    if isinstance(key, X25519PublicKey):
        method, once = _X25519, X25519PrivateKey.generate()
        secret, sent = once.exchange(key), once.public_key().public_bytes_raw()
    else:
        method, secret = _RSA, os.urandom(32)
        sent = key.encrypt(secret, _OAEP)
    header = _MAGIC + bytes([_VERSION, method]) + _fingerprint(key) + sent
    return header + _cipher(secret, header).encrypt(_NONCE, content, binding.data)


class Identity:
    """An operator's private key, which opens envelopes.

    Args:
        content: a private key, X25519 or RSA, in PEM.
        passphrase: of the key, if it has one.

    Raises:
        ValueError: it can't be used; with a reason that completes the sentence "the key ...".
    """

    def __init__(self, content: bytes, passphrase: bytes | None = None) -> None:
        try:
            key = load_pem_private_key(content, passphrase)
        except TypeError:
            reason = "needs a passphrase" if passphrase is None else "has no passphrase"
            raise ValueError(reason) from None
        except (ValueError, UnsupportedAlgorithm):
            reason = "is not a private key in PEM"
            if passphrase is not None:
                reason = f"can't be read: the passphrase is wrong, or it {reason}"
            raise ValueError(reason) from None
        if not isinstance(key, X25519PrivateKey | RSAPrivateKey):
            raise ValueError("is not an X25519 or RSA key")
        self._key: X25519PrivateKey | RSAPrivateKey = key
        self._fingerprint = _fingerprint(key.public_key())

    def open(self, envelope: bytes, binding: Binding) -> bytes:
        """Return what is in an envelope.

        Raises:
            WrongIdentityError: it was sealed for another key.
            EnvelopeError: it was sealed as something else, or was changed.
        """
        if envelope[:8] != _MAGIC:
            raise EnvelopeError("it is not an envelope of bulkcert")
        if envelope[8:9] != bytes([_VERSION]):
            raise EnvelopeError("it needs a newer version of bulkcert")
        if envelope[_FINGERPRINT] != self._fingerprint:
            raise WrongIdentityError("it is sealed for another key")
        with contextlib.suppress(ValueError, InvalidTag):
            header, secret = self._header(envelope)
            content = envelope[len(header) :]
            return _cipher(secret, header).decrypt(_NONCE, content, binding.data)
        raise EnvelopeError("it was changed, or belongs to something else")

    def _header(self, envelope: bytes) -> tuple[bytes, bytes]:
        """The header of an envelope, and its shared secret."""
        key = self._key
        if isinstance(key, X25519PrivateKey):
            sent = envelope[_SENT_AT : _SENT_AT + 32]
            secret = key.exchange(X25519PublicKey.from_public_bytes(sent))
        else:
            sent = envelope[_SENT_AT : _SENT_AT + key.key_size // 8]
            secret = key.decrypt(sent, _OAEP)
        return envelope[:_SENT_AT] + sent, secret


@functools.lru_cache(maxsize=1)
def _loaded(operator: str) -> X25519PublicKey | RSAPublicKey:
    key = load_pem_public_key(operator.encode())
    assert isinstance(key, X25519PublicKey | RSAPublicKey)
    return key


def _fingerprint(key: X25519PublicKey | RSAPublicKey) -> bytes:
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()[:16]


def _cipher(secret: bytes, header: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(SHA256(), 32, salt=header, info=_INFO).derive(secret))
