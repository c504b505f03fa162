"""Which certificates the EnOS certificate API issues: the rules of `renew` and `apply`.

In: the parameters of a call, with its device and certificate. Out: the row of a new certificate,
ordered from the authority; or a refusal. It never waits, so no other request can come between the
decision and the change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

# imported at start: during the first renewal, the import would hold up requests for 0.1 s
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S
from bulkcert.simulator.enos.authority import Authority, Name
from bulkcert.simulator.enos.fleet import AUTHORITIES, EXPIRED, REVOKED, VALID, Fleet
from bulkcert.simulator.enos.refusals import (
    BAD_ARGUMENT,
    BOUND_ELSEWHERE,
    RefusedError,
    bad_parameter,
    bad_request,
    missing,
)

SUPERSEDED = 4
_CN = "2.5.4.3"
_MANDATORY = {"2.5.4.6": "C", "2.5.4.8": "ST", "2.5.4.7": "L", "2.5.4.10": "O", "2.5.4.11": "OU"}
_MANDATORY[_CN] = "CN"
_LONGEST_VALUE = 64

Parameters = Callable[[str], Any]
"""Returns the value of a parameter by name, or None."""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What a CSR asks for.

    Attributes:
        public_key: DER.
        kind: RSA or ECC.
    """

    subject: Name
    public_key: bytes
    kind: str


class Issuance:
    """Decides whether to issue a certificate, and orders it."""

    def __init__(self, behaviour: Behaviour, fleet: Fleet, authority: Authority) -> None:
        self._behaviour = behaviour
        self._fleet = fleet
        self._authority = authority
        self._device_of_key: dict[bytes, int] = {}
        self._device_of_name: dict[str, int] = {}

    def renew(self, device: int, old: int, parameters: Parameters, now_s: int) -> int:
        """Replace a certificate; returns the row of the new one."""
        if (status := self._fleet.status(old, now_s)) != VALID:
            state = {REVOKED: "been revoked", EXPIRED: "expired"}[status]
            raise RefusedError(
                BAD_ARGUMENT,
                f"The original certificate has {state} and cannot be updated. "
                "Please apply for a new certificate.",
            )
        authority = self._requested_authority(parameters, old)
        signed_at_s = self._ca_time_s(now_s)
        expires_at_s = self._expiry_s(parameters, signed_at_s)
        if text := parameters("csr"):
            request = self._check_request(text, authority, device)
            subject, public_key = request.subject, request.public_key
        else:
            subject, public_key = self._authority.subject(old), self._authority.public_key(old)
        if self._behaviour.renew_revokes_old:
            self._fleet.revoke(old, SUPERSEDED, now_s)
        return self._issue(device, authority, subject, public_key, signed_at_s, expires_at_s)

    def apply(self, device: int, parameters: Parameters, now_s: int) -> int:
        """Issue an additional certificate for a device; returns its row."""
        text = parameters("csr")
        if not text:
            raise missing("csr")
        authority = self._requested_authority(parameters, None)
        signed_at_s = self._ca_time_s(now_s)
        expires_at_s = self._expiry_s(parameters, signed_at_s)
        request = self._check_request(text, authority, device)
        name = dict(request.subject)[_CN]
        if self._device_of_name.setdefault(name, device) != device:
            raise RefusedError(
                BAD_ARGUMENT,
                f"Duplicate subject by certificate request!message: CN={name}, detail message:",
            )
        if self._behaviour.apply_revokes_old:
            for row in self._fleet.bound(device):
                if self._fleet.status(row, now_s) == VALID:
                    self._fleet.revoke(row, SUPERSEDED, now_s)
        subject, public_key = request.subject, request.public_key
        return self._issue(device, authority, subject, public_key, signed_at_s, expires_at_s)

    def _ca_time_s(self, now_s: int) -> int:
        """What the CA's clock shows."""
        return now_s - int(self._behaviour.ca_clock_behind)

    def _issue(
        self,
        device: int,
        authority: int,
        subject: Name,
        public_key: bytes,
        signed_at_s: int,
        expires_at_s: int,
    ) -> int:
        fleet = self._fleet
        row = fleet.add(
            device,
            fleet.new_serial(),
            authority=authority,
            signed_at_s=signed_at_s,
            expires_at_s=expires_at_s,
        )
        self._authority.order(row, subject, public_key)
        return row

    def _requested_authority(self, parameters: Parameters, old: int | None) -> int:
        """Index into `AUTHORITIES`. The vendor does not document the default of a renewal."""
        requested = parameters("issueAuthority")
        if requested is None:
            old_authority = 0 if old is None else self._fleet.authority[old]
            match self._behaviour.renew_authority:
                case "same":
                    return old_authority
                case "refused" if old_authority:
                    raise bad_parameter("issueAuthority is not that of the certificate")
            return 0
        if not isinstance(requested, str) or requested.upper() not in AUTHORITIES:
            raise bad_parameter("issueAuthority is neither RSA nor ECC")
        return AUTHORITIES.index(requested.upper())

    def _expiry_s(self, parameters: Parameters, now_s: int) -> int:
        """Unix time at which a new certificate expires."""
        behaviour = self._behaviour
        if not behaviour.bi_directional_auth:
            raise RefusedError(
                BAD_ARGUMENT, "The product does not support bi-directional authorization"
            )
        days = parameters("validDay")
        if days is None:
            days = behaviour.product_default_valid_day
        elif type(days) is not int or days < 1:
            if behaviour.bad_valid_day == "refused":
                raise bad_parameter("validDay is not a positive Integer")
            days = behaviour.product_default_valid_day
        if days > behaviour.product_max_valid_day:
            raise RefusedError(
                BAD_ARGUMENT,
                "The specified validity period exceeds the maximum certificate validity period "
                "of the product",
            )
        return min(now_s + days * DAY_S, self._authority.expires_at_s)

    def _check_request(self, text: Any, authority: int, device: int) -> SigningRequest:
        request = read_request(text)
        if request.kind != AUTHORITIES[authority]:
            raise bad_request(f"the key is not for issueAuthority {AUTHORITIES[authority]}")
        names = {oid for oid, _ in request.subject}
        for oid, label in _MANDATORY.items():
            if oid not in names:
                raise bad_request(f"the subject has no {label}")
        if any(len(value) > _LONGEST_VALUE for _, value in request.subject):
            raise bad_request(f"the subject has a value of more than {_LONGEST_VALUE} characters")
        digest = blake2b(request.public_key, digest_size=16).digest()
        if self._device_of_key.setdefault(digest, device) != device:
            raise RefusedError(BOUND_ELSEWHERE)
        return request


def read_request(text: Any) -> SigningRequest:
    """Read a CSR and check everything that depends on the CSR alone.

    Raises:
        RefusedError: the text is not a CSR, the signature is wrong, or the key or hash is not
            allowed.
    """
    try:
        csr = x509.load_pem_x509_csr(text.encode())
        key, subject, genuine = csr.public_key(), csr.subject, csr.is_signature_valid
        digest = csr.signature_hash_algorithm
    except (AttributeError, ValueError, UnsupportedAlgorithm) as error:
        raise bad_request("it can't be read") from error
    if not genuine:
        raise bad_request("its signature is wrong")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size == 2048:
        kind = "RSA"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        kind = "ECC"
    else:
        raise bad_request("its key is neither RSA with 2048 bits nor on prime256v1")
    if not isinstance(digest, SHA256):
        raise bad_request("it is not signed with SHA256")
    name = tuple((attribute.oid.dotted_string, str(attribute.value)) for attribute in subject)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningRequest(name, der, kind)
