"""What all actions on EnOS certificates have in common: calling, listing, selecting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from bulkcert.model import Answer, AnswerKind, Fields, Operation
from bulkcert.providers.base import Setup, merged
from bulkcert.providers.call import OnDeparture, Request
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.inventory import Certificate, read_certificates
from bulkcert.providers.enos.requests import list_request
from bulkcert.providers.enos.selection import selected


class EnosHandler(ABC):
    """A handler (see `bulkcert.providers.base.ActionHandler`) that still lacks its own action.

    Args:
        client: signed calls.
        setup: the job's part in it.
    """

    def __init__(self, client: Client, setup: Setup) -> None:
        self._client = client
        self._setup = setup
        self._org_id = setup.options["org_id"]

    async def open(self) -> None:
        """Get a token, so that bad credentials are known before anything else is sent."""
        await self._client.open()

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.close()

    def needs_lookup(self, operation: Operation) -> bool:
        """A target whose certificates are still to be selected is looked up first."""
        return self._is_to_be_selected(operation)

    async def look(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """See how the operation stands."""
        return await self.list_and_judge(operation, on_departure)

    async def list_and_judge(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """List the device's certificates; select among them, or see how the wanted one stands."""
        fields = self.fields(operation)
        request = list_request(self._org_id, fields)
        answer = await self._client.call(request, on_departure)
        certificates = read_certificates(answer)
        if self._is_to_be_selected(operation):
            return self._selected(operation, answer, certificates)
        if isinstance(certificates, Answer):
            return certificates
        return self.judge(operation, certificates, replace(answer, result=None))

    @abstractmethod
    def idempotent(self, operation: Operation) -> bool:
        """Tell whether doing the current step twice does no harm."""

    @abstractmethod
    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> Answer:
        """Send one attempt."""

    @abstractmethod
    def judge(
        self, operation: Operation, certificates: list[Certificate], answer: Answer
    ) -> Answer:
        """Tell from the device's certificates how the operation stands.

        Args:
            operation: which one.
            certificates: all of the device.
            answer: of the `list` call, for its code and request id.
        """

    def fields(self, operation: Operation) -> Fields:
        """The target's fields over the job's parameters."""
        return merged(self._setup.parameters, operation.fields)

    async def send(self, request: Request, on_departure: OnDeparture) -> Answer:
        """Send a request that is not a look-up."""
        return await self._client.call(request, on_departure)

    def _is_to_be_selected(self, operation: Operation) -> bool:
        return bool(self._setup.selection) and "certSn" not in operation.fields

    def _selected(
        self, operation: Operation, answer: Answer, certificates: list[Certificate] | Answer
    ) -> Answer:
        if isinstance(certificates, Answer):
            if certificates.kind is AnswerKind.UNCLEAR:
                return replace(answer, kind=AnswerKind.REFUSED, result=None)
            return replace(certificates, result=None)
        serials = selected(certificates, self._setup.selection, self._setup.clock.now())
        return Answer(
            AnswerKind.SELECTED,
            answer.code,
            f"none of its {len(certificates)} certificates matches [select]",
            answer.request_id,
            [operation.fields | {"certSn": serial} for serial in serials],
        )
