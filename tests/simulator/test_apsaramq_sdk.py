"""The vendor's SDK works with the simulator, so the simulator speaks the vendor's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bulkcert.simulator import Behaviour, Simulator

pytestmark = pytest.mark.system

models = pytest.importorskip("alibabacloud_onsmqtt20200420.models")
Client = pytest.importorskip("alibabacloud_onsmqtt20200420.client").Client
openapi = pytest.importorskip("alibabacloud_tea_openapi.models")
RuntimeOptions = pytest.importorskip("darabonba.runtime").RuntimeOptions

CA = "007269004887000001"
INSTANCE = "post-cn-7mz2d000001"
NAMED = {"ca_sn": CA, "mqtt_instance_id": INSTANCE}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Behaviour()) as running:
        yield running


def make_client(simulator: Simulator, **options: Any) -> Any:
    return Client(
        openapi.Config(
            access_key_id="simulator-id",
            access_key_secret=options.pop("secret", "simulator-secret"),
            endpoint=simulator.endpoint.removeprefix("http://"),
            protocol="HTTP",
            **options,
        )
    )


async def call(function: Callable[[Any], Any], request: Any) -> Any:
    """Call the synchronous SDK in a thread: the simulator runs on this event loop."""
    return (await asyncio.to_thread(function, request)).body


@pytest.mark.parametrize("algorithm", [None, "v2"], ids=["v3-signature", "v1-signature"])
async def test_every_action(simulator: Simulator, algorithm: str | None) -> None:
    client = make_client(simulator, signature_algorithm=algorithm)
    device = {"device_sn": "0356217374433000001", **NAMED}
    get = models.GetDeviceCertificateRequest(**device)
    before = await call(client.get_device_certificate, get)
    assert (before.data.status, before.data.device_sn) == ("1", "0356217374433000001")

    inactivate = models.InactivateDeviceCertificateRequest(**device)
    done = await call(client.inactivate_device_certificate, inactivate)
    assert done.device_sn == "0356217374433000001"
    assert (await call(client.get_device_certificate, get)).data.status == "0"

    activate = models.ActiveDeviceCertificateRequest(**device)
    assert (await call(client.active_device_certificate, activate)).device_sn == device["device_sn"]
    assert (await call(client.get_device_certificate, get)).data.status == "1"

    pages = {"page_no": "1", "page_size": "10", "mqtt_instance_id": INSTANCE}
    everything = models.ListDeviceCertificateRequest(**pages)
    page = (await call(client.list_device_certificate, everything)).data
    assert [item.device_sn for item in page.device_certificate_vos] == [device["device_sn"]]
    of_ca = models.ListDeviceCertificateByCaSnRequest(ca_sn=CA, **pages)
    page = (await call(client.list_device_certificate_by_ca_sn, of_ca)).data
    assert (page.total, page.page_no, page.page_size) == (1, 1, 10)

    delete = models.DeleteDeviceCertificateRequest(**device)
    assert (await call(client.delete_device_certificate, delete)).device_sn == device["device_sn"]
    page = (await call(client.list_device_certificate, everything)).data
    assert not page.device_certificate_vos

    assert [(entry["action"], entry["effect"]) for entry in simulator.ledger] == [
        ("GetDeviceCertificate", "none"),
        ("InactivateDeviceCertificate", "inactivated"),
        ("GetDeviceCertificate", "none"),
        ("ActiveDeviceCertificate", "activated"),
        ("GetDeviceCertificate", "none"),
        ("ListDeviceCertificate", "none"),
        ("ListDeviceCertificateByCaSn", "none"),
        ("DeleteDeviceCertificate", "deleted"),
        ("ListDeviceCertificate", "none"),
    ]


async def test_special_characters_and_async_calls(simulator: Simulator) -> None:
    request = models.InactivateDeviceCertificateRequest(
        ca_sn="AB:cd 1*~/+", device_sn="设备", mqtt_instance_id=INSTANCE
    )
    response = await make_client(simulator).inactivate_device_certificate_async(request)
    assert response.body.device_sn == "设备"
    assert simulator.certificates("CaSn=AB:cd 1*~/+&DeviceSn=设备")[0].status == "inactive"


async def test_parameters_in_a_form(simulator: Simulator) -> None:
    """The SDK's general call can send the parameters of a POST as a form, signed with V3."""
    params = openapi.Params(
        action="InactivateDeviceCertificate",
        version="2020-04-20",
        protocol="HTTP",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    body = {"CaSn": CA, "DeviceSn": "AB:cd 1*~/+设备", "MqttInstanceId": INSTANCE}
    client = make_client(simulator)
    request = openapi.OpenApiRequest(body=body)
    response = await asyncio.to_thread(client.call_api, params, request, RuntimeOptions())
    assert response["body"]["DeviceSn"] == body["DeviceSn"]
    assert simulator.ledger[-1]["effect"] == "inactivated"


async def test_security_token() -> None:
    async with Simulator(Behaviour(security_token="STS.example")) as simulator:
        request = models.GetDeviceCertificateRequest(device_sn="1", **NAMED)
        client = make_client(simulator, security_token="STS.example")
        assert (await call(client.get_device_certificate, request)).data.device_sn == "1"
        with pytest.raises(Exception, match="SecurityToken"):
            await call(make_client(simulator).get_device_certificate, request)
        assert [entry["code"] for entry in simulator.ledger] == ["OK", "MissingSecurityToken"]


async def test_the_sdk_understands_the_errors(simulator: Simulator) -> None:
    request = models.GetDeviceCertificateRequest(device_sn="1", **NAMED)
    with pytest.raises(Exception, match="not matched") as caught:
        await call(make_client(simulator, secret="wrong").get_device_certificate, request)
    assert caught.value.code == "SignatureDoesNotMatch"
    incomplete = models.GetDeviceCertificateRequest(device_sn="1")
    with pytest.raises(Exception, match="parameters") as caught:
        await call(make_client(simulator).get_device_certificate, incomplete)
    assert caught.value.code == "ParameterFieldCheckFailed"
    assert caught.value.status_code == 400
