"""Revoke one certificate of one device.

Idempotent: revoking a revoked certificate does no harm. What the provider answers to it is not
documented, so the state is read from `list` and never from a message.
"""

from __future__ import annotations

from bulkcert.model import AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.advice import STILL_VALID
from bulkcert.providers.enos.inventory import NO_SERIAL, Certificate, Listing, Status
from bulkcert.providers.enos.service import CertificateService


class Revocation:
    """The step of `revoke`."""

    def __init__(self, service: CertificateService) -> None:
        self._service = service

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one revocation."""
        call = await self._service.revoke(operation, on_departure)
        return call.as_attempt()  # its data is documented to be null

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look whether the certificate is revoked.

        If it is, the result names the `other_valid` certificates of the device: with one of them
        the device still connects.
        """
        listing = await self._service.listing(operation, on_departure)
        if isinstance(listing, LookupResult):
            return listing
        result = revoked(listing, int(self._service.fields(operation)["certSn"]))
        everything = (*listing.certificates, *listing.others)
        others = [
            str(c.serial) for c in everything if c.status is Status.VALID and c.serial != NO_SERIAL
        ]
        if result.kind is not LookupKind.HOLDS or not others:
            return result
        message = f"{result.message}; the device has another valid certificate: {', '.join(others)}"
        details = {"other_valid": others, "remarks": [STILL_VALID]}
        return result._replace(message=message, result=details)


def revoked(listing: Listing, serial: int, name: str = "certificate") -> LookupResult:
    """Whether a listing shows a certificate to be revoked.

    Args:
        listing: the certificates of the device.
        serial: which certificate.
        name: what messages call it.
    """
    certificate = listing.find(serial)
    if certificate is None and listing.unreadable:
        message = "the device's list contains a certificate without a readable serial number"
        return listing.shows(LookupKind.UNCLEAR, message)
    kind, message = _judge(certificate, name)
    return listing.shows(kind, message)


def _judge(certificate: Certificate | None, name: str) -> tuple[LookupKind, str]:
    if certificate is None:
        return LookupKind.UNCLEAR, f"the device's list does not have the {name}"
    match certificate.status:
        case Status.UNCLEAR:
            return LookupKind.UNCLEAR, f"the {name} {certificate.doubt}"
        case Status.REVOKED:
            why = f" ({certificate.revoker_reason})" if certificate.revoker_reason else ""
            return LookupKind.HOLDS, f"the {name} is revoked{why}"
        case Status.EXPIRED:
            return LookupKind.ABSENT, f"the {name} is not revoked but has expired"
        case Status.VALID:
            return LookupKind.ABSENT, f"the {name} is still valid"
