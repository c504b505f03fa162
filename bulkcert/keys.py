"""Makes a key pair and a certificate signing request for each device, in other processes.

The private key is on disk, synced and readable by its owner alone, before the request is handed
out: so no certificate can ever lack its key. A key that is there already is used again.
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
from bulkcert.keyspec import OIDS, Subject

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LONGEST_NAME = 200


def file_name(*parts: object) -> str:
    """A file name for a certificate: readable, unambiguous, and safe whatever is in the parts."""
    name = "+".join(quote(str(part), safe="") for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


class KeyMaker:
    """A pool of processes that make keys.

    Args:
        kind: one of `bulkcert.keyspec.KINDS`.
        directory: where the keys are kept.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self._pool: ProcessPoolExecutor | None = None

    def path(self, name: str) -> Path:
        """Where the key of this name is."""
        return self._directory / f"{name}.key.pem"

    async def signing_request(self, name: str, subject: Subject) -> str:
        """Make sure that there is a key of this name, and return a request (PEM) signed with it.

        Raises:
            ValueError: with a reason that completes the sentence "the subject ...".
            BulkcertError: the key can't be written or read, or nobody is left to make it.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._pool is None:
                durable.make_directory(self._directory)
                self._pool = ProcessPoolExecutor(
                    # a fork of a process with threads may hang
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_begin,
                )
            return await loop.run_in_executor(
                self._pool, _make, self.kind, str(self.path(name)), dict(subject)
            )
        except OSError as error:
            raise RunDirectoryError(
                f"The keys in {self._directory} can't be used: {error.strerror or error}",
                "Make room or mend the folder, then run again: the run goes on from here.",
            ) from error
        except BrokenExecutor as error:
            raise BulkcertError(
                "The processes that make keys were ended by somebody else.",
                "See whether there was enough memory, then run again: the run goes on from here.",
            ) from error

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


# ---- in the other processes


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends the pool
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a parent that was killed could not end its pool

    threading.Thread(target=follow, daemon=True).start()


def _make(kind: str, path: str, subject: dict[str, str]) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = _key(kind, Path(path))
    attributes = []
    # in the usual order, whatever the order that they were given in
    for short, oid in OIDS.items():
        if short in subject:
            try:
                attribute = x509.NameAttribute(x509.ObjectIdentifier(oid), subject[short])
            except ValueError as error:
                raise ValueError(f"has {short}={subject[short]}: {error}") from None
            attributes.append(attribute)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
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
    """Read a key that was made here.

    Raises:
        OSError: there is none, or the file holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    content = path.read_bytes()
    try:
        # an RSA key was checked when it was made; to check it again takes 50 ms
        key = serialization.load_pem_private_key(
            content, password=None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OSError(errno.EINVAL, f"{path.name} holds no private key") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise OSError(errno.EINVAL, f"{path.name} holds a key of another kind")
    return key
