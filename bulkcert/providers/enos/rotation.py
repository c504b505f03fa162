"""Replace a certificate whose key is compromised: renew with a new key, check, only then revoke.

The order is never swapped: a device whose renewal fails keeps its old certificate.
"""

from __future__ import annotations

from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.base import LookupCall
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.enos.inventory import Status
from bulkcert.providers.enos.renewal import Renewal
from bulkcert.providers.enos.revocation import revoked
from bulkcert.providers.enos.service import CertificateService

_HELD = "held, the old certificate is not revoked: "
_NOT_RENEWED = (LookupKind.REFUSED, LookupKind.FLAWED, LookupKind.ABSENT, LookupKind.UNCLEAR)


def held(look_up: LookupCall) -> LookupCall:
    """The look-up of a step before the revocation: if it fails for good, the message says that the
    old certificate is not revoked."""

    async def look_up_before_revocation(
        operation: Operation, on_departure: OnDeparture
    ) -> LookupResult:
        return _held(await look_up(operation, on_departure))

    return look_up_before_revocation


def _held(result: LookupResult) -> LookupResult:
    if result.kind in _NOT_RENEWED:
        return result._replace(message=_HELD + result.message)
    return result


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
        if result.kind is LookupKind.HOLDS and not result.result.get("certificate_file"):
            message = f"{result.message}, so it can't be checked"
            result = result._replace(kind=LookupKind.UNCLEAR, message=message)
        return _held(result)


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
        result = revoked(listing, int(self._service.fields(operation)["certSn"]))
        if new is not None and new.status is not Status.VALID:
            now = new.status.name.lower()
            if result.kind is LookupKind.HOLDS:
                message = f"{result.message}, but the new one, {new.serial}, is {now} too"
                return listing.shows(LookupKind.FLAWED, message, operation.step_data)
            message = f"{_HELD}the new one, {new.serial}, is {now} itself"
            return listing.shows(LookupKind.REFUSED, message, operation.step_data)
        return result._replace(result=operation.step_data)
