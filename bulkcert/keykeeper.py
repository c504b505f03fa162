"""Where the keys of a run are kept: in files of this machine, or in the shared store, too.

In: an operation, the name of its key, the subject of its signing request. Out: the request for its
attempts, and material for the store. A key is durable before a request for it leaves: in a file, or
with a shared store there. Then any host can look for the certificate and repeat the attempt with
the same request, although only the operator can read the key. The host that made a key keeps the
file nevertheless, should the store lose what it has confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_csr

from bulkcert.envelope import Binding
from bulkcert.keys import KeyMaker, stored_key
from bulkcert.keyspec import Subject
from bulkcert.model import Material, MaterialKind, Operation


class KeyKeeper:
    """Keeps keys in files.

    Args:
        maker: makes the keys.
    """

    def __init__(self, maker: KeyMaker) -> None:
        self.maker = maker

    async def prepare(
        self, operation: Operation, name: str, subject: Callable[[], Subject]
    ) -> Sequence[Material]:
        """Return what the store must have before the next attempt leaves: nothing.

        Raises:
            ValueError, BulkcertError: see `KeyMaker.signing_request`.
        """
        return ()

    async def signing_request(
        self, operation: Operation, name: str, subject: Callable[[], Subject]
    ) -> str:
        """Return the signing request of an attempt, in PEM.

        Raises:
            ValueError, BulkcertError: see `KeyMaker.signing_request`.
        """
        return await self.maker.signing_request(name, subject())

    def public_key(self, operation: Operation, name: str) -> bytes | None:
        """The public key that the new certificate must have; None if none has been made. Blocks."""
        try:
            return _encoded(stored_key(self.maker.path(name)).public_key())
        except OSError:
            return None

    def is_here(self, operation: Operation, name: str) -> bool:
        """Whether the private key is on this machine. Blocks."""
        return True

    def add_serial(self, operation: Operation, name: str, serial: int) -> str:
        """Name the key after its certificate, too. Blocks.

        Returns:
            Its path below the run directory.

        Raises:
            ResultNotKeptError: the key can't be named.
        """
        path = self.maker.add_serial(name, serial)
        return f"{path.parent.name}/{path.name}"

    def can_be_discarded(self, name: str) -> bool:
        """Whether there is a key that may be discarded. Blocks."""
        return self.maker.path(name).exists()

    def discard(self, name: str) -> None:
        """Remove a key that no certificate can have been issued for, if there is one. Blocks."""
        self.maker.discard(name)


class SharedKeys(KeyKeeper):
    """Keeps keys in the shared store as well. An operation has one, whichever host goes on with it.

    Args:
        maker: makes the keys.
        run: the id of the run.
        operator: the public key that private keys are sealed for, in PEM.
    """

    def __init__(self, maker: KeyMaker, run: str, operator: str) -> None:
        super().__init__(maker)
        self._run, self._operator = run, operator

    async def prepare(
        self, operation: Operation, name: str, subject: Callable[[], Subject]
    ) -> Sequence[Material]:
        """Return the key, sealed, and its signing request, unless the store has them."""
        if operation.csr is not None:
            return ()
        attempt = operation.attempts + 1
        binding = Binding(self._run, operation.id, attempt, MaterialKind.KEY)
        made = await self.maker.sealed_request(name, subject(), self._operator, binding)
        request, sealed = made
        return (
            Material(operation.id, attempt, MaterialKind.KEY, name, sealed),
            Material(operation.id, attempt, MaterialKind.CSR, name, request.encode()),
        )

    async def signing_request(
        self, operation: Operation, name: str, subject: Callable[[], Subject]
    ) -> str:
        """Return the signing request that the store has."""
        assert operation.csr is not None  # a look-up comes first, and prepares it
        return operation.csr

    def public_key(self, operation: Operation, name: str) -> bytes | None:
        """The public key of the request that the store has; None if it has none."""
        if operation.csr is None:
            return None
        return _encoded(load_pem_x509_csr(operation.csr.encode()).public_key())

    def is_here(self, operation: Operation, name: str) -> bool:
        """Whether this host has made the key. Blocks."""
        return super().public_key(operation, name) == self.public_key(operation, name)

    def add_serial(self, operation: Operation, name: str, serial: int) -> str:
        """Name the key after its certificate, too, if it is here. Blocks."""
        if self.is_here(operation, name):
            return super().add_serial(operation, name, serial)
        path = self.maker.path(f"{name}.{serial}")
        return f"{path.parent.name}/{path.name}"

    def can_be_discarded(self, name: str) -> bool:
        """The store keeps all keys."""
        return False

    def discard(self, name: str) -> None:
        """Do nothing: the store keeps all keys."""


def _encoded(public_key: Any) -> bytes:
    """A public key as SubjectPublicKeyInfo in DER, for comparing keys."""
    spki: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki
