"""The EnOS certificate service, called for one operation at a time."""

from __future__ import annotations

from bulkcert.model import Fields, LookupResult, Operation
from bulkcert.providers.base import Setup, merged
from bulkcert.providers.call import CallResult, OnDeparture
from bulkcert.providers.enos import requests
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.inventory import Listing, read_listing


class CertificateService:
    """What the steps of all actions call.

    Args:
        client: signs, sends, and judges responses.
        setup: the job's organization and parameters.
    """

    def __init__(self, client: Client, setup: Setup) -> None:
        self._client = client
        self._parameters = setup.parameters
        self._org_id = setup.options.get("org_id", "")

    def fields(self, operation: Operation) -> Fields:
        """The target's fields over the job's parameters."""
        return merged(self._parameters, operation.fields)

    async def revoke(self, operation: Operation, on_departure: OnDeparture) -> CallResult:
        """Ask to revoke the certificate."""
        request = requests.revoke_request(self._org_id, self.fields(operation))
        return await self._client.call(request, on_departure)

    async def renew(self, fields: Fields, on_departure: OnDeparture) -> CallResult:
        """Ask to renew a certificate; `fields` include the signing request, if there is one."""
        request = requests.renew_request(self._org_id, fields)
        return await self._client.call(request, on_departure)

    async def list(self, operation: Operation, on_departure: OnDeparture) -> CallResult:
        """Ask for all certificates of the device."""
        request = requests.list_request(self._org_id, self.fields(operation))
        return await self._client.call(request, on_departure)

    async def listing(
        self, operation: Operation, on_departure: OnDeparture
    ) -> Listing | LookupResult:
        """List all certificates of the device, or return the result of the failed look-up."""
        return read_listing(await self.list(operation, on_departure))
