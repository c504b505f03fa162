"""Replace a certificate whose key is compromised: renew with a new key, check, only then revoke.

The order is never swapped: a device whose renewal fails keeps its old certificate. What is said of
the old certificate is only what this run has done, or what the device's list shows: the provider
may have revoked it when it issued the new one, or somebody else before.
"""

from __future__ import annotations

from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult, Operation
from bulkcert.providers.call import OnDeparture
from bulkcert.providers.clock import ProviderClock
from bulkcert.providers.enos.inventory import Certificate, Status
from bulkcert.providers.enos.renewal import Renewal
from bulkcert.providers.enos.revocation import revoked
from bulkcert.providers.enos.service import CertificateService

CLOCK_ERROR_S = 5.0
"""By how much the provider's time, as known here, may be behind."""

_NOT_REVOKED = "this run has not revoked the old certificate: "
_RENEWED = "renewed, but "


class CheckedRenewal:
    """The first step of `rotate`: a renewal that counts only if its certificate was checked.

    Its result, and with it the data of the next step, is the result of the renewal.
    """

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one renewal, and check what it returns."""
        result = await self._renewal.attempt(operation, on_departure)
        if result.kind is AttemptKind.FLAWED:
            return result._replace(message=_NOT_REVOKED + result.message)
        return result

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look for a new certificate, and check it."""
        result = await self._renewal.look_up(operation, on_departure)
        if result.kind is LookupKind.HOLDS and not result.result.get("certificate_file"):
            message = f"{result.message}, so it can't be checked"
            result = result._replace(kind=LookupKind.UNCLEAR, code=None, message=message)
        was_sent = operation.in_doubt or operation.last_error is not None
        if was_sent and result.kind in (LookupKind.FLAWED, LookupKind.UNCLEAR):
            return result._replace(message=_NOT_REVOKED + result.message)
        return result


class OldRevocation:
    """The second step of `rotate`: revokes the old certificate, but never unseen.

    It begins with a look-up: the new certificate must be in the device's list, and valid now. The
    provider may have revoked the old one when it issued the new one.
    """

    def __init__(self, service: CertificateService, clock: ProviderClock) -> None:
        self._service = service
        self._clock = clock

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        """Send one revocation of the old certificate."""
        call = await self._service.revoke(operation, on_departure)
        result = call.as_attempt(operation.step_data)
        if result.kind is AttemptKind.DONE or result.account_wide:
            return result
        return result._replace(message=f"renewed; revoking the old certificate: {result.message}")

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        """Look whether the new certificate is valid, and the old one revoked."""
        listing = await self._service.listing(operation, on_departure)
        if isinstance(listing, LookupResult):
            return _not_looked_up(operation, listing)
        result = revoked(listing, int(self._service.fields(operation)["certSn"]), "old certificate")
        serial = operation.step_data["certSN"]
        kind, problem = _judge(listing.find(int(serial)), self._clock.now())
        if kind is not LookupKind.HOLDS:
            so_far = _RENEWED + _NOT_REVOKED
            if result.kind is LookupKind.HOLDS:
                so_far = f"{result.message}, but "
                kind = LookupKind.FLAWED if kind is LookupKind.REFUSED else kind
            result = listing.shows(kind, f"{so_far}the new one, {serial}, {problem}")
        elif result.kind is LookupKind.HOLDS:
            result = result._replace(message=f"renewed, and {result.message}")
        elif result.kind is LookupKind.UNCLEAR and not operation.in_doubt:
            result = result._replace(kind=LookupKind.ABSENT)  # the new one is there: revoke
        return result._replace(result=operation.step_data)


def _not_looked_up(operation: Operation, result: LookupResult) -> LookupResult:
    """The result of a look-up that failed; it says what is known without it."""
    if result.kind is LookupKind.UNCLEAR and not operation.in_doubt:
        result = result._replace(kind=LookupKind.NOT_YET)
    message = result.message
    if operation.last_error is None and not result.account_wide:  # else that says it
        unknown = "it is not known whether the old certificate is revoked: "
        message = f"{_RENEWED}{unknown if operation.in_doubt else _NOT_REVOKED}{message}"
    return result._replace(message=message, result=operation.step_data)


def _judge(new: Certificate | None, now_s: float) -> tuple[LookupKind, str]:
    """Whether the new certificate can take over from the old one; else what is wrong with it."""
    if new is None:
        return LookupKind.NOT_YET, "is not in the device's list"
    if new.status is Status.UNCLEAR:
        return LookupKind.NOT_YET, new.doubt
    if new.status is not Status.VALID:
        return LookupKind.REFUSED, f"is {new.status.name.lower()}"
    if new.expires_ms is not None and new.expires_ms / 1000 <= now_s:
        return LookupKind.REFUSED, "has expired"
    if new.effective_ms is not None and new.effective_ms / 1000 > now_s + CLOCK_ERROR_S:
        return LookupKind.NOT_YET, "is not valid yet"
    return LookupKind.HOLDS, ""
