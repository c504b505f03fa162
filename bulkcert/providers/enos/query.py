"""Steps that only read: the action `list`, and the selection of certificates by `[select]`."""

from __future__ import annotations

from bulkcert.model import AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.base import Setup
from bulkcert.providers.call import CallKind, OnDeparture
from bulkcert.providers.enos.inventory import read_certificates
from bulkcert.providers.enos.selection import selected
from bulkcert.providers.enos.service import CertificateService


class Inventory:
    """Lists all certificates of a device; they are the result of the operation."""

    def __init__(self, service: CertificateService) -> None:
        self._service = service

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one `list` call."""
        call = await self._service.list(operation, on_departure)
        if call.kind is not CallKind.OK:
            return call.as_attempt()
        try:
            certificates = read_certificates(call.data)
        except ValueError as problem:
            return call.unreadable(str(problem)).as_attempt()
        return call.as_attempt({"certificates": [c.as_result() for c in certificates]})


class Selection:
    """Finds the certificates of a device that meet the conditions of `[select]`."""

    def __init__(self, service: CertificateService, setup: Setup) -> None:
        self._service = service
        self._conditions = setup.selection
        self._clock, self._planned_s = setup.clock, setup.planned_s

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """List the device's certificates; each that matches becomes an operation."""
        listing = await self._service.listing(operation, on_departure)
        if isinstance(listing, LookupResult):
            if listing.kind is LookupKind.UNCLEAR:  # refused, and there is no other way to look
                return listing._replace(kind=LookupKind.REFUSED)
            return listing
        certificates = [*listing.certificates, *listing.others]
        try:
            serials = selected(certificates, self._conditions, self.now_s())
        except ValueError as problem:
            return listing.shows(LookupKind.REFUSED, str(problem))
        if not serials:
            message = f"none of its {len(certificates)} certificates matches [select]"
            return listing.shows(LookupKind.NOTHING_LEFT, message)
        result = listing.shows(LookupKind.SELECTED, "")
        return result._replace(
            selected=[operation.fields | {"certSn": serial} for serial in serials]
        )

    def now_s(self) -> float:
        """The provider's time when the run was planned, however long the run takes."""
        since_s = 0.0 if self._planned_s is None else self._clock.elapsed_s() - self._planned_s
        return self._clock.now() - since_s
