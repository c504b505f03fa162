"""Replace a certificate whose key is compromised: renew with a new key, check, only then revoke.

The order is never swapped: a device whose renewal fails keeps its old certificate.
"""

from __future__ import annotations

from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.inventory import Status
from bulkcert.providers.enos.renewal import Renewal
from bulkcert.providers.enos.revocation import revoked
from bulkcert.providers.enos.service import CertificateService

_HELD = "held, the old certificate is not revoked: "


class CheckedRenewal:
    """The first step of `rotate`: a renewal that counts only if its certificate was checked.

    Its result, and with it the data of the next step, is the result of the renewal.
    """

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one renewal, and check what it returns."""
        result = await self._renewal.attempt(operation, on_departure)
        if result.kind in (AttemptKind.REFUSED, AttemptKind.FLAWED):
            return result._replace(message=_HELD + result.message)
        return result

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look for a new certificate, and check it."""
        result = await self._renewal.look_up(operation, on_departure)
        match result.kind:
            case LookupKind.HOLDS if not result.result.get("certificate_file"):
                message = f"{_HELD}{result.message}, so it can't be checked"
                return result._replace(kind=LookupKind.UNCLEAR, message=message)
            case LookupKind.REFUSED | LookupKind.FLAWED | LookupKind.ABSENT | LookupKind.UNCLEAR:
                return result._replace(message=_HELD + result.message)
        return result


class OldRevocation:
    """The second step of `rotate`: revokes the old certificate while the new one is valid.

    It begins with a look-up: the provider may have revoked the old certificate when it issued the
    new one.
    """

    def __init__(self, service: CertificateService) -> None:
        self._service = service

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one revocation of the old certificate."""
        call = await self._service.revoke(operation, on_departure)
        return call.as_attempt(operation.step_data)

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look whether the new certificate is valid, and the old one revoked."""
        listing = await self._service.listing(operation, on_departure)
        if isinstance(listing, LookupResult):
            return listing._replace(result=operation.step_data)
        new = listing.find(int(operation.step_data["certSN"]))
        if new is not None and new.status is not Status.VALID:
            message = f"{_HELD}the new one, {new.serial}, is {new.status.name.lower()} itself"
            return listing.shows(LookupKind.REFUSED, message, operation.step_data)
        result = revoked(listing, int(self._service.fields(operation)["certSn"]))
        return result._replace(result=operation.step_data)
