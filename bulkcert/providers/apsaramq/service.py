"""The OnsMqtt service, called for one operation at a time."""

from __future__ import annotations

from bulkcert.model import Fields, Operation
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.responses import ABOUT_INSTANCE, family
from bulkcert.providers.base import Setup, merged
from bulkcert.providers.call import CallResult, OnDeparture, Request


class CertificateService:
    """What the steps of all actions call.

    Args:
        client: signs, sends, and judges responses.
        setup: the job's instance and parameters.
    """

    def __init__(self, client: Client, setup: Setup) -> None:
        self._client = client
        self._parameters = setup.parameters
        self.instance_id = setup.options.get("instance_id", "")

    def fields(self, operation: Operation) -> Fields:
        """The target's fields over the job's parameters."""
        return merged(self._parameters, operation.fields)

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        """Send a request."""
        call = await self._client.call(request, on_departure)
        if call.account_wide and family(call.code) in ABOUT_INSTANCE:
            # an instance that only this target names says nothing about those of others
            of_all = dict(request.query)["MqttInstanceId"] == self.instance_id
            return call._replace(account_wide=of_all)
        return call
