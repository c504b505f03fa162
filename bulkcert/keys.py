"""Make key pairs and certificate signing requests, in other processes.

In: the name of a key and the subject of a request. Out: the request in PEM, signed with that key.
A key that already exists is used again.
Must never return a request before its private key is on disk, synced and readable only by its
owner: otherwise a certificate could be issued whose key is lost.
"""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import signal
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from bulkcert import durable
from bulkcert.errors import BulkcertError, RunDirectoryError
from bulkcert.keyspec import Subject, short_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LONGEST_NAME = 200
"""Characters in a name from `file_name`; most file systems allow 255 with the extension."""


def file_name(*parts: object) -> str:
    """Build a file name from parts of any content: readable, unique for these parts, and safe.

    Returns:
        At most `LONGEST_NAME` ASCII characters, without an extension.
    """
    name = "+".join(quote(str(part), safe="") for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


class KeyMaker:
    """A pool of processes that make keys.

    Args:
        kind: one of `bulkcert.keyspec.KINDS`.
        directory: where the keys are stored; created with the first key.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self._pool: ProcessPoolExecutor | None = None

    def path(self, name: str) -> Path:
        """Return the path of the key with this name."""
        return self._directory / f"{name}.key.pem"

    async def signing_request(self, name: str, subject: Subject) -> str:
        """Make the key with this name unless it exists, and return a signing request for it.

        Returns:
            The request in PEM.

        Raises:
            ValueError: with a reason that completes the sentence "the subject ...".
            RunDirectoryError: the key cannot be written or read.
            BulkcertError: the processes that make keys were killed.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._pool is None:
                durable.make_directory(self._directory)
                self._pool = ProcessPoolExecutor(
                    # a forked child of a process with threads may hang
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_begin,
                )
            return await loop.run_in_executor(
                self._pool, _make, self.kind, str(self.path(name)), subject
            )
        except OSError as error:
            raise RunDirectoryError(
                f"The keys in {self._directory} can't be used: {error.strerror or error}",
                "Free some space or fix the folder, then run the same command to continue.",
            ) from error
        except BrokenExecutor as error:
            raise BulkcertError(
                "The processes that make keys were killed from outside.",
                "Check that there is enough memory, then run the same command to continue.",
            ) from error

    def close(self) -> None:
        """End the processes; requests that have not started are cancelled."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


# ---- in the other processes


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run handles Ctrl-C, and ends the pool
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a parent that was killed cannot end its pool

    threading.Thread(target=follow, daemon=True).start()


def _make(kind: str, path: str, subject: Subject) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = _key(kind, Path(path))

    def attribute(oid: str, value: str) -> x509.NameAttribute[str]:
        try:
            return x509.NameAttribute(x509.ObjectIdentifier(oid), value)
        except ValueError as error:
            raise ValueError(f"has {short_name(oid)}={value}: {error}") from None

    name = x509.Name(
        [x509.RelativeDistinguishedName([attribute(*a) for a in rdn]) for rdn in subject.rdns]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _key(kind: str, path: Path) -> RSAPrivateKey | EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if path.exists():
        return stored_key(path)
    key: RSAPrivateKey | EllipticCurvePrivateKey
    if kind == "rsa-2048":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable.write(path, content)
    return key


def stored_key(path: Path) -> RSAPrivateKey | EllipticCurvePrivateKey:
    """Read a private key that a `KeyMaker` made.

    Raises:
        OSError: the file does not exist, or does not contain such a key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    content = path.read_bytes()
    try:
        # an RSA key was checked when it was made; checking it again takes 50 ms
        key = serialization.load_pem_private_key(
            content, password=None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OSError(errno.EINVAL, f"{path.name} does not contain a private key") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise OSError(errno.EINVAL, f"{path.name} contains a key of another kind")
    return key
