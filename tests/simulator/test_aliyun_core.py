"""The core of the vendor's older SDKs works with the simulator.

It signs with V1, in the query, and may send the parameters of an action in a form. It reads nothing
but JSON, which it asks for unless it is called in its oldest way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import pytest

from bulkcert.simulator import Behaviour, Simulator

pytestmark = pytest.mark.system

AcsClient = pytest.importorskip("aliyunsdkcore.client").AcsClient
RpcRequest = pytest.importorskip("aliyunsdkcore.request").RpcRequest
ServerException = pytest.importorskip("aliyunsdkcore.acs_exception.exceptions").ServerException

DEVICE = {
    "CaSn": "007269004887000001",
    "DeviceSn": "AB:cd 1*~/+设备",
    "MqttInstanceId": "post-cn-7mz2d000001",
}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Behaviour()) as running:
        yield running


def make_client(simulator: Simulator, secret: str = "simulator-secret") -> Any:
    port = int(simulator.endpoint.rpartition(":")[2])
    return AcsClient("simulator-id", secret, "cn-hangzhou", port=port, auto_retry=False)


def make_request(action: str, method: str, place: str, **parameters: str) -> Any:
    """A request with its parameters in a place: the query or the body."""
    request = RpcRequest("OnsMqtt", "2020-04-20", action)
    request.set_endpoint("127.0.0.1")
    request.set_protocol_type("http")
    request.set_method(method)
    add = request.add_query_param if place == "query" else request.add_body_params
    for name, value in parameters.items():
        add(name, value)
    return request


async def call(client: Any, request: Any) -> dict[str, Any]:
    """Call the synchronous SDK in a thread: the simulator runs on this event loop."""
    document = json.loads(await asyncio.to_thread(client.do_action_with_exception, request))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("method", "place"), [("GET", "query"), ("POST", "query"), ("POST", "body")]
)
async def test_parameters_are_read_wherever_the_core_sends_them(
    simulator: Simulator, method: str, place: str
) -> None:
    client = make_client(simulator)
    request = make_request("InactivateDeviceCertificate", method, place, **DEVICE)
    assert (await call(client, request))["DeviceSn"] == DEVICE["DeviceSn"]
    request = make_request("GetDeviceCertificate", "GET", "query", **DEVICE)
    assert (await call(client, request))["Data"]["Status"] == "0"
    assert [entry["effect"] for entry in simulator.ledger] == ["inactivated", "none"]


@pytest.mark.parametrize("place", ["query", "body"])
async def test_the_core_tells_a_wrong_secret_from_a_wrong_signature(
    simulator: Simulator, place: str
) -> None:
    request = make_request("InactivateDeviceCertificate", "POST", place, **DEVICE)
    with pytest.raises(ServerException) as caught:
        await call(make_client(simulator, secret="wrong"), request)
    # it compares what it signed with what the server says should be signed
    assert caught.value.get_error_code() == "InvalidAccessKeySecret"
    assert caught.value.get_http_status() == 400
    assert [entry["code"] for entry in simulator.ledger] == ["SignatureDoesNotMatch"]


async def test_refusals_of_the_service_reach_the_caller(simulator: Simulator) -> None:
    request = make_request("InactivateDeviceCertificate", "POST", "body", CaSn="7")
    with pytest.raises(ServerException) as caught:
        await call(make_client(simulator), request)
    assert caught.value.get_error_code() == "ParameterFieldCheckFailed"
    assert caught.value.get_request_id()


async def test_the_oldest_way_to_call_gets_xml(simulator: Simulator) -> None:
    request = make_request("InactivateDeviceCertificate", "POST", "body", **DEVICE)
    with pytest.warns(DeprecationWarning, match="do_action"):
        body = await asyncio.to_thread(make_client(simulator).do_action, request)
    assert ElementTree.fromstring(body).findtext("DeviceSn") == DEVICE["DeviceSn"]
