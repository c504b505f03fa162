"""What all actions on device certificates have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Fields, Operation
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.requests import get_request
from bulkcert.providers.base import Setup, merged
from bulkcert.providers.call import OnDeparture, Request

NOBODY = {"CaSn": "0", "DeviceSn": "0"}
"""Names of a certificate that need not exist."""


class MqttHandler(ABC):
    """A handler (see `bulkcert.providers.base.ActionHandler`) that still lacks its own action.

    Args:
        client: signed calls.
        setup: the job's part in it.
    """

    def __init__(self, client: Client, setup: Setup) -> None:
        self._client = client
        self._parameters = setup.parameters
        self._action = setup.action
        self._instance_id = setup.options["instance_id"]

    async def open(self) -> None:
        """Prove the credentials by a look-up, which every action but `list` may need."""
        question = get_request(self._instance_id, NOBODY)
        await self._client.open(question, may_be_forbidden=self._action.name == "list")

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.close()

    def idempotent(self, operation: Operation) -> bool:
        """Tell whether doing it twice does no harm: all that there is does not."""
        return True

    def needs_lookup(self, operation: Operation) -> bool:
        """Nothing is looked up unless something is in doubt."""
        return False

    @abstractmethod
    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send one attempt."""

    @abstractmethod
    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Look whether the wanted state holds."""

    def fields(self, operation: Operation) -> Fields:
        """The target's fields over the job's parameters."""
        return merged(self._parameters, operation.fields)

    async def send(self, request: Request, on_departure: OnDeparture) -> Answer:
        """Send a request."""
        return await self._client.call(request, on_departure)


class MqttReadingHandler(MqttHandler):
    """An action that only reads, so that nothing is ever in doubt and looked up."""

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Ask, and read the answer."""
        answer = await self.send(self.question(operation), on_departure)
        match answer.kind:
            case AnswerKind.DONE:
                return self.read(operation, answer)
            case AnswerKind.DISPUTED:
                return replace(answer, kind=AnswerKind.REFUSED)  # there is nothing to look at
        return answer

    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Never asked: nothing is in doubt."""
        raise NotImplementedError

    @abstractmethod
    def question(self, operation: Operation) -> Request:
        """What to ask."""

    @abstractmethod
    def read(self, operation: Operation, answer: Answer) -> Answer:
        """Turn the body in `answer.result` into the result of the action, if it is one."""


def misread(answer: Answer, what: str) -> Answer:
    """An answer that has no error code in it, but not what was asked for either."""
    said = f"answered with something else than {what}"
    return replace(answer, kind=AnswerKind.IN_DOUBT, message=said, result=None)
