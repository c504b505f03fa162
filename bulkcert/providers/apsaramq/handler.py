"""From a job's setup to the handler of an ApsaraMQ action; each action has one step."""

from __future__ import annotations

from bulkcert.providers.apsaramq.change import StatusChange
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.query import CertificateQuery, PageQuery
from bulkcert.providers.apsaramq.requests import get_request
from bulkcert.providers.apsaramq.responses import ABOUT_INSTANCE, PERMISSIONS
from bulkcert.providers.apsaramq.service import CertificateService
from bulkcert.providers.base import ActionHandler, Setup, Step, change, merged, reading

NOBODY = {"CaSn": "0", "DeviceSn": "0"}
"""Names a certificate that need not exist."""


class MqttHandler:
    """An action handler, see `bulkcert.providers.base.ActionHandler`.

    Its first look-up is in the instance of the first target: its own, or else the job's.

    Args:
        client: signed calls.
        setup: the job's action and instance.
        step: the step of the action.
    """

    def __init__(self, client: Client, setup: Setup, step: Step) -> None:
        self.steps = [step]
        self._client = client
        self._action = setup.action.name
        common = {"MqttInstanceId": setup.options.get("instance_id", ""), **setup.parameters}
        self._instance_id = str(common["MqttInstanceId"])
        self._own_instance_id = str(merged(common, setup.sample)["MqttInstanceId"])

    async def open(self) -> None:
        """Prove the credentials by a look-up, which every action but `list` may need."""
        question = get_request(self._own_instance_id, NOBODY)
        tolerated = PERMISSIONS if self._action == "list" else frozenset()
        if self._own_instance_id != self._instance_id:
            tolerated |= ABOUT_INSTANCE  # the other targets may name better ones
        await self._client.open(question, tolerated)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


def connect(setup: Setup) -> ActionHandler:
    """Make the handler of the setup's action. Nothing is sent yet."""
    client = Client(setup.channel, setup.endpoint, setup.credentials, setup.clock, setup.timings)
    return MqttHandler(client, setup, _step(setup.action.name, CertificateService(client, setup)))


def _step(action: str, service: CertificateService) -> Step:
    match action:
        case "get":
            return reading(CertificateQuery(service).attempt)
        case "list":
            return reading(PageQuery(service).attempt)
    step = StatusChange(service, action)
    return change(step.attempt, step.look_up, idempotent=True)
