"""What the client adds to a request when it leaves, and what it removes from results."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from virtual_time import run_virtually

from bulkcert.errors import EndpointError, ProviderUnusableError
from bulkcert.providers.apsaramq.client import Client
from bulkcert.providers.apsaramq.handler import MqttHandler
from bulkcert.providers.apsaramq.requests import change_request
from bulkcert.providers.apsaramq.service import CertificateService
from bulkcert.providers.base import reading
from bulkcert.providers.call import (
    CallKind,
    CallResult,
    OnDeparture,
    Pace,
    Request,
    Response,
    Signer,
)
from bulkcert.providers.clock import ProviderClock

CREDENTIALS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "LTAI-the-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "the-secret",
    "ALIBABA_CLOUD_SECURITY_TOKEN": "STS.the-token",
}
REQUEST = change_request("inactivate", "i", {"DeviceSn": "1", "CaSn": "2"})


class Wire:
    """Stands in for the channel: records the headers of each request, and always responds alike."""

    def __init__(self, document: Any, status: int = 200, **headers: str) -> None:
        self.reply = Response(
            status,
            {k.replace("_", "-"): v for k, v in headers.items()},
            orjson.dumps(document),
            5.0,
        )
        self.sent: list[Mapping[str, str]] = []
        self.throttled: list[tuple[float, float | None]] = []
        self.accepted: list[float] = []
        self.pace: Pace = _Pace(self)

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        assert sign
        self.sent.append({**dict(request.headers), **sign()})
        on_departure("")
        return self.reply

    async def close(self) -> None:
        return None


class _Pace:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def depart(self) -> float:
        return 0.0

    async def pause_over(self) -> None:
        return None

    def throttled(self, departed_at: float, retry_after_s: float | None) -> None:
        self._wire.throttled.append((departed_at, retry_after_s))

    def accepted(self, departed_at: float) -> None:
        self._wire.accepted.append(departed_at)


async def call(wire: Wire, **changes: str) -> CallResult:
    endpoint = "https://onsmqtt.cn-hangzhou.aliyuncs.com:8443"
    client = Client(wire, endpoint, CREDENTIALS | changes, ProviderClock())
    return await client.call(REQUEST, lambda _: None)


async def test_every_request_has_its_own_signature() -> None:
    wire = Wire({"RequestId": "R", "DeviceSn": "1"})
    for _ in range(3):
        assert (await call(wire)).kind is CallKind.OK
    first = wire.sent[0]
    assert first.keys() == {
        *("Authorization", "host", "x-acs-action", "x-acs-content-sha256", "x-acs-date"),
        *("x-acs-security-token", "x-acs-signature-nonce", "x-acs-version"),
    }
    assert first["host"] == "onsmqtt.cn-hangzhou.aliyuncs.com:8443"
    signed = first["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    assert set(signed.split(";")) == first.keys() - {"Authorization"}
    date = datetime.strptime(first["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - date) < timedelta(minutes=1)
    for name in ("x-acs-signature-nonce", "Authorization"):
        assert len({headers[name] for headers in wire.sent}) == 3
    assert len(first["x-acs-signature-nonce"]) == 32


async def test_without_a_security_token_its_header_is_not_sent() -> None:
    wire = Wire({"RequestId": "R"})
    await call(wire, ALIBABA_CLOUD_SECURITY_TOKEN="")
    assert "x-acs-security-token" not in wire.sent[0]


@pytest.mark.parametrize("code", ["ParameterFieldCheckFailed", "SignatureDoesNotMatch"])
async def test_secrets_that_a_gateway_quotes_are_masked(code: str) -> None:
    quoted = "server string to sign is x-acs-security-token:STS.the-token LTAI-the-id the-secret"
    wire = Wire({"RequestId": "R", "Code": code, "Message": quoted}, 400)
    try:
        said = (await call(wire)).message
    except ProviderUnusableError as error:
        said = str(error)
    assert "server string to sign is x-acs-security-token:********" in said
    assert not any(secret in said for secret in CREDENTIALS.values())


@pytest.mark.parametrize("position", range(0, 520, 13))
async def test_nothing_of_a_secret_is_left_where_a_text_is_cut(position: int) -> None:
    token = "".join(f"{n:03}" for n in range(300))
    quoted = {"RequestId": f"R{token}", "Code": "ParameterFieldCheckFailed"}
    wire = Wire(quoted | {"Message": "x" * position + token}, 400)
    result = await call(wire, ALIBABA_CLOUD_SECURITY_TOKEN=token)
    for said in (result.message, result.request_id):
        assert "000" not in said
        assert "*" in said or position > 490


@pytest.mark.parametrize(
    ("code", "headers", "reported"),
    [
        ("Throttling.User", {}, [(5.0, None)]),
        ("Throttling.User", {"x_acs_retry_after": "250"}, [(5.0, 0.25)]),
        ("SystemOverFlow", {"x_ratelimit_user": "TimeLeft:3000"}, [(5.0, 3.0)]),
        ("InternalError", {"x_acs_retry_after": "250"}, [(5.0, 0.25)]),
        ("InternalError", {}, []),
        ("FindDeviceBySnError", {"x_ratelimit_user": "Remain:7,TimeLeft:3000"}, []),
        # the standard header, from a load balancer in front
        ("Throttling.User", {"Retry_After": "5"}, [(5.0, 5.0)]),
        ("SystemOverFlow", {"Retry_After": "5", "x_acs_retry_after": "250"}, [(5.0, 5.0)]),
        ("SystemOverFlow", {"Retry_After": "1", "x_acs_retry_after": "2500"}, [(5.0, 2.5)]),
        ("InternalError", {"Retry_After": "5"}, [(5.0, 5.0)]),
        ("FindDeviceBySnError", {"Retry_After": "5"}, []),
    ],
)
async def test_a_requested_wait_holds_all_calls(
    code: str, headers: dict[str, str], reported: list[tuple[float, float | None]]
) -> None:
    wire = Wire({"RequestId": "R", "Code": code}, 400, **headers)
    await call(wire)
    assert wire.throttled == reported


async def test_the_pacer_learns_which_requests_were_not_throttled() -> None:
    wires = [
        Wire({"RequestId": "R", "DeviceSn": "1"}),
        Wire({"RequestId": "R", "Code": "FindDeviceBySnError"}, 500),
        Wire({"RequestId": "R", "Code": "ParameterFieldCheckFailed"}, 400),
        Wire({"RequestId": "R", "Code": "InternalError"}, 500),
        Wire({"RequestId": "R", "Code": "Throttling"}, 400),
    ]
    for wire in wires:
        await call(wire)
    assert [wire.accepted for wire in wires] == [[5.0], [5.0], [5.0], [], []]


async def test_a_date_to_wait_for_counts_from_the_time_of_an_earlier_response() -> None:
    """This one has no `Date`, and the provider's clock may be far from ours."""
    wire = Wire({"RequestId": "R"}, Date="Wed, 21 Oct 2015 07:28:00 GMT")
    clock = ProviderClock(lambda: 0.0)
    client = Client(wire, "https://onsmqtt.cn-hangzhou.aliyuncs.com", CREDENTIALS, clock)
    await client.call(REQUEST, lambda _: None)
    later = {"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}
    wire.reply = Response(429, later, b"<html>", 5.0)
    await client.call(REQUEST, lambda _: None)
    assert wire.throttled == [(5.0, 30.0)]


# ---- refusals that may concern the whole account


@pytest.mark.parametrize(
    ("code", "account_wide"),
    [
        ("MqttInstanceNotFound", False),
        ("MqttOwnerCheckError", False),
        ("ApiNotSupport", False),
        ("Forbidden.RAM", True),
        ("SignatureDoesNotMatch", True),
        ("FindDeviceBySnError", False),
    ],
)
async def test_the_instance_of_one_target_says_nothing_about_others(
    code: str, account_wide: bool
) -> None:
    """A released instance in a file with several of them must not stop the run."""
    wire = Wire({"RequestId": "R", "Code": code}, 400)
    client = Client(wire, "https://onsmqtt.aliyuncs.com", CREDENTIALS, ProviderClock())
    setup: Any = SimpleNamespace(parameters={}, options={"instance_id": "the job's"})
    service = CertificateService(client, setup)
    names = {"DeviceSn": "1", "CaSn": "2"}
    own = change_request("inactivate", "the job's", names | {"MqttInstanceId": "its own"})
    assert (await service.call(own, lambda _: None)).account_wide == account_wide
    of_all = change_request("inactivate", "the job's", names)
    refused = await service.call(of_all, lambda _: None)
    assert refused.account_wide == (code != "FindDeviceBySnError")


@pytest.mark.parametrize("code", ["MqttInstanceNotFound", "MqttOwnerCheckError"])
async def test_the_own_instance_of_the_first_target_need_not_exist(code: str) -> None:
    wire = Wire({"RequestId": "R", "Code": code, "Message": "no"}, 400)
    client = Client(wire, "https://onsmqtt.aliyuncs.com", CREDENTIALS, ProviderClock())

    def handler(sample: dict[str, str], **options: str) -> MqttHandler:
        setup: Any = SimpleNamespace(
            action=SimpleNamespace(name="inactivate"),
            options=options,
            parameters={},
            sample=sample,
        )
        return MqttHandler(client, setup, reading(None))  # type: ignore[arg-type]

    own = {"MqttInstanceId": "released"}
    await handler(own).open()
    await handler(own, instance_id="i").open()
    with pytest.raises(EndpointError, match=code):
        await handler({}, instance_id="i").open()


def test_a_pause_does_not_use_up_the_patience_with_the_first_call() -> None:
    class Paused(Wire):
        async def send(
            self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
        ) -> Response | CallResult:
            await asyncio.sleep(600)  # for the pacer's permission
            response = await super().send(request, on_departure, sign)
            if len(self.sent) < 4:
                return Response(429, {"Retry-After": "600"}, b"<html>", 5.0)
            return response

    async def scene() -> None:
        wire = Paused({"RequestId": "R", "Code": "FindDeviceBySnError"}, 500)
        client = Client(wire, "https://onsmqtt.aliyuncs.com", CREDENTIALS, ProviderClock())
        await client.open(REQUEST)
        assert len(wire.sent) == 4

    run_virtually(scene())
