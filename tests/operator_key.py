"""An operator's key pair for tests, and the job that names it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bulkcert.envelope import Identity


class OperatorKey:
    """A new key pair of an operator.

    Attributes:
        public: in PEM.
        private: in PEM, not encrypted.
        identity: what opens envelopes.
    """

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.public = public.decode()
        self.private = self.encrypted(NoEncryption())
        self.identity = Identity(self.private)

    def encrypted(self, encryption: KeySerializationEncryption) -> bytes:
        """The private key in PEM."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
