"""The samples and the error table of the vendor's page on deregistering a device certificate."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from bulkcert.model import AttemptKind, Operation
from bulkcert.providers.advice import advise
from bulkcert.providers.apsaramq.advice import ADVICE
from bulkcert.providers.apsaramq.change import StatusChange
from bulkcert.providers.apsaramq.requests import change_request
from bulkcert.providers.apsaramq.responses import judge
from bulkcert.providers.call import CallKind, CallResult, Response

RESPONSE = b"""{
"RequestId": "020F6A43-19E6-4B6E-B846-44EB31DF****",
"DeviceSn": "356217374433******"
}"""
"""The sample of a success, byte for byte: the vendor has masked what it shows."""

FIELDS = {"DeviceSn": "356217374433******", "CaSn": "007269004887******"}


def test_the_sample_of_a_success_is_one() -> None:
    result = judge(Response(200, {}, RESPONSE, 0.0), 1.0, 0.0)
    assert (result.kind, result.request_id) == (
        CallKind.OK,
        "020F6A43-19E6-4B6E-B846-44EB31DF****",
    )
    assert result.data == orjson.loads(RESPONSE)


@pytest.mark.parametrize(
    ("device_sn", "kind"),
    [("356217374433******", AttemptKind.DONE), ("356217374433000001", AttemptKind.IN_DOUBT)],
)
def test_a_success_counts_only_for_the_serial_number_that_it_echoes(
    device_sn: str, kind: AttemptKind
) -> None:
    class Service:
        instance_id = "post-cn-7mz2d000001"

        def fields(self, operation: Operation) -> dict[str, Any]:
            return dict(operation.fields)

        async def call(self, *request: object) -> CallResult:
            return judge(Response(200, {}, RESPONSE, 0.0), 1.0, 0.0)

    service: Any = Service()
    operation = Operation(1, 2, {**FIELDS, "DeviceSn": device_sn})
    step = StatusChange(service, "inactivate")
    assert asyncio.run(step.attempt(operation, lambda _: None)).kind is kind


def test_the_three_parameters_are_sent_as_they_are_written() -> None:
    request = change_request("inactivate", "post-cn-7mz2d******", FIELDS)
    assert dict(request.query) == {**FIELDS, "MqttInstanceId": "post-cn-7mz2d******"}


@pytest.mark.parametrize(
    ("status", "code", "text", "kind", "advice"),
    [
        (
            400,
            "ParameterFieldCheckFailed",
            "Failed to validate the parameters. The parameters may be missing or invalid.",
            CallKind.DISPUTED,
            "128 bytes",
        ),
        (
            500,
            "FindDeviceBySnError",
            "Failed to find the device certificate by the SN. Please check sn is valid",
            CallKind.REFUSED,
            "leading zeros",
        ),
        (
            500,
            "MqttInstanceNotFound",
            "Specified instance is not found",
            CallKind.REFUSED,
            "connection.instance_id",
        ),
        (
            500,
            "MqttOwnerCheckError",
            "Failed to validate the instance permission",
            CallKind.REFUSED,
            "account that the instance belongs to",
        ),
    ],
)
def test_each_row_of_the_error_table_is_judged_and_has_advice(
    status: int, code: str, text: str, kind: CallKind, advice: str
) -> None:
    body = {"RequestId": "R", "HostId": "h", "Code": code, "Message": text}
    result = judge(Response(status, {}, orjson.dumps(body), 0.0), 1.0, 0.0)
    assert (result.kind, result.code, result.message) == (kind, code, text)
    assert advice in advise(ADVICE, result.code, result.message)


@pytest.mark.parametrize("code", ["Throttling.User", "Throttling.Api", "SystemOverFlow", 429])
def test_throttled_responses_say_how_to_have_the_limit_raised(code: str | int) -> None:
    assert "35228338" in advise(ADVICE, code)


def test_the_edition_that_is_needed_is_named() -> None:
    assert "Enterprise Platinum" in advise(ADVICE, "ApiNotSupport")
