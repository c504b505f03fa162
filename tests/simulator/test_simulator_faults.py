"""Every fault as the client sees it, and its entry in the ledger."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from vendor_clients import Response, serving, until

from bulkcert.simulator import Behaviour
from bulkcert.simulator.behaviour import FAULTS
from bulkcert.simulator.exchange import Call, Request
from bulkcert.simulator.faults import Faults

pytestmark = pytest.mark.system

ON_REVOKE: dict[str, Any] = {
    "faults_on": "revoke",
    "slow_first_byte_by": 0.02,
    "byte_interval": 0.0,
    "huge_body_bytes": 3_000_000,
    "execute_late_by": 0.02,
}
CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)


async def revoke_with(fault: str) -> tuple[Response | None, dict[str, Any], str]:
    """Revoke with a fault; returns the response, the ledger entry and the certificate's state."""
    async with serving(Behaviour(**ON_REVOKE, **{fault: 1.0})) as client:
        await client.listed("other")  # the token call meets no fault
        try:
            response = await client.revoke()
        except CUT:
            response = None
        await until(lambda: not client.simulator.summary()["open"])
        state = client.simulator.certificates("assetId=A1")
        return response, client.simulator.ledger[-1], state[0].status if state else "untouched"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("throttle", 429, 429),
        ("throttle_retry_after", 429, 429),
        ("error_before", 200, 99500),
        ("error_after", 200, 99500),
        ("page_before", 502, 502),
        ("page_after", 502, 0),
        ("token_expired", 401, 1203),
        ("system_overflow", 503, 503),
        ("slow_first_byte", 200, 0),
        ("byte_by_byte", 200, 0),
        ("json_cut_short", 200, 0),
        ("wrong_types", 200, 0),
        ("html_ok", 200, 200),
        ("redirect", 302, 302),
        ("huge_body", 200, 0),
        ("execute_late", 200, 0),
        ("page_late", 504, 0),
        ("overload_retry_after", 503, 503),
        ("gzip_anyway", 200, 0),
        ("large_header", 200, 0),
        ("surplus", 200, 0),
        ("contradiction", 200, 0),
    ],
)
async def test_faults_that_send_a_response(fault: str, status: int, code: int) -> None:
    response, entry, state = await revoke_with(fault)
    assert response is not None
    assert response.status == status
    assert (entry["fault"], entry["status"], entry["code"]) == (fault, status, code)
    assert entry["answered_at"] >= entry["at"]
    not_executed = fault in {
        *("throttle", "throttle_retry_after", "error_before", "page_before"),
        *("token_expired", "system_overflow", "html_ok", "redirect", "overload_retry_after"),
    }
    assert entry["executed"] is not not_executed
    assert state == ("untouched" if not_executed else "revoked")


@pytest.mark.parametrize(
    ("fault", "code"), [("cut_before", None), ("cut_after", 0), ("cut_inside", 0)]
)
@pytest.mark.parametrize("style", ["close", "reset"])
async def test_faults_that_cut_the_connection(fault: str, code: int | None, style: str) -> None:
    ON_REVOKE["cut_style"] = style
    try:
        response, entry, state = await revoke_with(fault)
    finally:
        del ON_REVOKE["cut_style"]
    assert response is None
    assert (entry["fault"], entry["code"]) == (fault, code)
    assert (entry["status"], entry["answered_at"]) == (None, None)
    assert entry["executed"] is (fault != "cut_before")
    assert state == ("untouched" if fault == "cut_before" else "revoked")


def test_every_fault_is_tested_above() -> None:
    tested = {
        value
        for test in (test_faults_that_send_a_response, test_faults_that_cut_the_connection)
        for mark in test.pytestmark  # type: ignore[attr-defined]
        for values in mark.args[1]
        for value in values[:1]
    }
    assert set(FAULTS) <= tested


async def test_bodies_of_faulty_responses() -> None:
    throttled, *_ = await revoke_with("throttle")
    assert throttled is not None
    assert throttled.json == {"message": "API rate limit exceeded"}
    assert "Retry-After" not in throttled.headers
    throttled, *_ = await revoke_with("throttle_retry_after")
    assert throttled is not None
    assert throttled.headers["Retry-After"] == "1"
    page, *_ = await revoke_with("page_before")
    assert page is not None
    assert page.headers["Content-Type"] == "text/html"
    short, *_ = await revoke_with("json_cut_short")
    assert short is not None
    assert short.json is None
    assert short.body.startswith(b'{"code":0')
    dripped, *_ = await revoke_with("byte_by_byte")
    assert dripped is not None
    assert dripped.json["msg"] == "OK"
    huge, *_ = await revoke_with("huge_body")
    assert huge is not None
    assert len(huge.body) == 3_000_000
    assert huge.json["code"] == 0


async def test_internal_errors_name_each_of_the_vendors_services() -> None:
    async with serving(Behaviour(error_after=1.0, faults_on="revoke")) as client:
        said = {(await client.revoke(5, f"A{n}")).json["msg"] for n in range(3)}
    assert said == {
        "Internal error of certificate service.",
        "Internal error of product service.",
        "Internal error of IoT Hub service.",
    }


async def test_bodies_and_headers_of_odd_forms() -> None:
    overloaded, *_ = await revoke_with("overload_retry_after")
    assert overloaded is not None
    assert overloaded.headers["Retry-After"] == "1"
    packed, *_ = await revoke_with("gzip_anyway")
    assert packed is not None
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.json["msg"] == "OK"  # the client of this test unpacks it
    large, *_ = await revoke_with("large_header")
    assert large is not None
    assert len(large.headers["X-Trace"]) == 1 << 14
    contradiction, *_ = await revoke_with("contradiction")
    assert contradiction is not None
    assert (contradiction.json["status"], contradiction.json["code"]) == (0, 99400)
    async with serving(Behaviour(contradiction=1.0)) as client:
        document = (await client.mq()).json
    assert (document["Code"], document["DeviceSn"]) == ("FindDeviceBySnError", "0042")


async def test_json_may_begin_with_a_byte_order_mark() -> None:
    async with serving(Behaviour(bom=True)) as client:
        body = (await client.mq()).body
        page = (await client.send("GET", "/enos/CA/cacert")).body
    assert body.startswith(b'\xef\xbb\xbf{"RequestId"')
    assert page.startswith(b"-----BEGIN")


async def test_a_surplus_response_is_a_copy_on_the_same_connection() -> None:
    async with serving(Behaviour(surplus=1.0)) as client:
        host, port = client.simulator.endpoint.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /enos/CA/cacert HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
    half = len(received) // 2
    assert received[:half] == received[half:]
    assert received.startswith(b"HTTP/1.1 200 OK")


async def test_a_page_of_the_gateway_while_its_service_works_on() -> None:
    behaviour = Behaviour(faults_on="revoke", page_late=1.0, execute_late_by=0.1)
    async with serving(behaviour) as client:
        serial = int((await client.listed())[0]["certSN"])
        assert (await client.revoke(serial)).status == 504
        assert client.simulator.certificates("assetId=A1")[0].status == "valid"
        await until(lambda: not client.simulator.summary()["open"])
        assert client.simulator.certificates("assetId=A1")[0].status == "revoked"


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_a_number_or_a_date(form: Any) -> None:
    behaviour = Behaviour(
        throttle_retry_after=1.0, retry_after=7, retry_after_form=form, dates_ahead=3600
    )
    async with serving(behaviour) as client:
        headers = (await client.send("GET", "/enos/CA/cacert")).headers
    if form == "seconds":
        assert headers["Retry-After"] == "7"
        return
    date, end = (parsedate_to_datetime(headers[name]) for name in ("Date", "Retry-After"))
    assert 7 <= (end - date).total_seconds() <= 8
    assert 3590 < date.timestamp() - time.time() < 3610


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_cache_repeats_what_it_has_seen(obeys: bool) -> None:
    async with serving(Behaviour(cache_for=60, cache_obeys=obeys)) as client:
        (item,) = await client.listed()
        assert item["certStatus"] == 0
        await client.revoke(int(item["certSN"]))
        stale = await client.enos("list")
        assert (stale.json["data"], stale.headers["Age"]) == ([item], "0")
        assert client.simulator.ledger[-1]["fault"] == "cached"
        fresh = await client.enos("list", headers={"Cache-Control": "no-cache"})
        assert fresh.json["data"][0]["certStatus"] == (1 if obeys else 0)
        assert ("Age" in fresh.headers) is not obeys
        assert (await client.enos("list", "A2")).headers.get("Age") is None
        # ApsaraMQ names its action in a header: another action is another request
        await client.mq_get()
        assert (await client.mq_get()).headers["Age"] == "0"
        pages = {"PageNo": "1", "PageSize": "3"}
        assert "Age" not in (await client.mq_get("ListDeviceCertificate", **pages)).headers


async def test_a_cache_forgets() -> None:
    async with serving(Behaviour(cache_for=0.05)) as client:
        await client.listed()
        await asyncio.sleep(0.06)
        assert "Age" not in (await client.enos("list")).headers


async def test_a_head_request_gets_no_body() -> None:
    async with serving(Behaviour(huge_body=0.5, cut_inside=0.0)) as client:
        for target in ("/", "/nowhere", "/enos/CA/cacert"):
            response = await client.send("HEAD", target)
            assert response.body == b""
            assert int(response.headers["Content-Length"]) > 0
        # bytes of a body would be taken for the next response on this connection
        assert client.simulator.summary()["connections"]["accepted"] == 1


async def test_a_stop_does_not_hide_the_fault_of_an_open_request() -> None:
    behaviour = Behaviour(execute_late=1.0, execute_late_by=60)
    async with serving(behaviour) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.token_call(), 0.05)
        simulator = client.simulator
    assert [entry["fault"] for entry in simulator.ledger] == ["execute_late"]


@pytest.mark.parametrize("dates", [True, False])
async def test_responses_have_a_date_unless_switched_off(dates: bool) -> None:
    async with serving(Behaviour(dates=dates)) as client:
        url = f"{client.simulator.endpoint}/apim-token-service/v2.0/token/get"
        async with client.session.post(url, data=b"{}") as response:
            date = response.headers.get("Date")
    if not dates:
        assert date is None
    else:
        assert date is not None
        assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 60


@pytest.mark.parametrize("fault", ["byte_by_byte", "huge_body"])
async def test_a_client_that_leaves_during_the_response_leaves_no_status(fault: str) -> None:
    async with serving(Behaviour(byte_interval=0.005, **{fault: 1.0})) as client:
        url = f"{client.simulator.endpoint}/apim-token-service/v2.0/token/get"
        async with client.session.post(url, data=b"{}") as response:
            await response.content.readexactly(5)
            response.close()
        await until(lambda: not client.simulator.summary()["open"])
        entry = client.simulator.ledger[-1]
    assert (entry["status"], entry["fault"], entry["code"]) == (None, fault, 1202)


async def test_wrong_types_have_many_forms() -> None:
    async with serving(Behaviour(**ON_REVOKE, wrong_types=1.0)) as client:
        seen = {(await client.revoke(5, f"A{n}")).body for n in range(60)}
    assert len({type(Response(200, {}, body).json) for body in seen}) >= 4
    assert not any(
        isinstance(Response(200, {}, body).json, dict) and b'"code":0,' in body for body in seen
    )


async def test_a_followed_redirect_is_in_the_ledger() -> None:
    response, *_ = await revoke_with("redirect")
    assert response is not None
    async with serving() as client:
        followed = await client.send("GET", response.headers["Location"])
        assert followed.json["code"] == 0
        entry = client.simulator.ledger[-1]
    assert (entry["provider"], entry["action"], entry["executed"]) == ("enos", "redirected", False)


async def test_a_token_that_a_fault_calls_expired_is_replaced() -> None:
    async with serving(Behaviour(faults_on="revoke", token_expired=1.0)) as client:
        await client.listed()
        old = client.token
        assert (await client.revoke()).code == 1203
        assert (await client.token_call()).json["data"]["accessToken"] != old
        assert len(await client.listed()) == 1


async def test_faults_of_token_calls_use_the_token_services_codes() -> None:
    for fault in ("error_before", "token_expired"):
        async with serving(Behaviour(**{fault: 1.0})) as client:
            assert (await client.token_call()).json["status"] == 1005


async def test_a_late_execution_happens_after_the_client_has_left() -> None:
    behaviour = Behaviour(faults_on="revoke", execute_late=1.0, execute_late_by=0.1)
    async with serving(behaviour) as client:
        await client.listed()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.revoke(int((await client.listed())[0]["certSN"])), 0.02)
        assert client.simulator.certificates("assetId=A1")[0].status == "valid"
        await until(lambda: not client.simulator.summary()["open"])
        assert client.simulator.certificates("assetId=A1")[0].status == "revoked"
        entry = client.simulator.ledger[-1]
    assert (entry["executed"], entry["status"], entry["fault"]) == (True, None, "execute_late")


async def test_latency_delays_the_response_but_not_the_execution() -> None:
    async with serving(Behaviour(latency=0.1)) as client:
        client.token = (await client.token_call()).json["data"]["accessToken"]
        sending = asyncio.create_task(client.revoke())
        await until(lambda: client.simulator.certificates("assetId=A1"))
        assert client.simulator.certificates("assetId=A1")[0].status == "revoked"
        assert not sending.done()
        assert client.simulator.summary()["open"] == 1
        await sending
        entry = client.simulator.ledger[-1]
    assert entry["answered_at"] - entry["at"] >= 0.1


@pytest.mark.parametrize(("style", "status"), [("cut", None), ("page", 502)])
async def test_an_outage_begins_and_ends(style: Any, status: int | None) -> None:
    behaviour = Behaviour(outage_after=2, outage_for=0.05, outage_style=style)
    async with serving(behaviour) as client:
        await client.listed()
        if status:
            assert (await client.revoke()).status == status
        else:
            with pytest.raises(CUT):
                await client.revoke()
        assert client.simulator.ledger[-1]["fault"] == "outage"
        assert client.simulator.ledger[-1]["status"] == status
        assert client.simulator.ledger[-1]["executed"] is False
        await asyncio.sleep(0.06)
        assert len(await client.listed()) == 1


def draw_all(seed: int, calls: list[Call], **shares: float) -> list[tuple[str, str, float]]:
    """Draw for the calls in the order given; sorted, so that results can be compared."""
    faults = Faults(Behaviour(seed=seed, **shares))
    draws = [(call.device, faults.draw(call)) for call in calls]
    return sorted((device, draw.fault or "", draw.latency_s) for device, draw in draws)


def test_draws_depend_only_on_seed_and_call() -> None:
    request = Request(0, "", "POST", "/", "", {}, b"")
    calls = [
        Call(request, "revoke", f"assetId=A{device}", device)
        for device, _ in itertools.product(range(200), range(3))
    ]
    shares = {"error_before": 0.2, "cut_after": 0.3, "latency": 0.1, "latency_spread": 0.2}
    drawn = draw_all(1, calls, **shares)
    assert drawn == draw_all(1, calls[::-1], **shares)
    assert drawn != draw_all(2, calls, **shares)
    counts = Counter(fault for _, fault, _ in drawn)
    assert 80 <= counts["error_before"] <= 160
    assert 130 <= counts["cut_after"] <= 230
    assert all(0.1 <= latency_s < 0.3 for *_, latency_s in drawn)
    # repetitions of a call get draws of their own
    assert len({fault for device, fault, _ in drawn if device == "assetId=A1"}) > 0
    assert any(
        len({fault for device, fault, _ in drawn if device == f"assetId=A{n}"}) > 1
        for n in range(200)
    )


def test_the_slow_tail_has_its_share() -> None:
    request = Request(0, "", "POST", "/", "", {}, b"")
    calls = [Call(request, "revoke", f"assetId=A{n}") for n in range(1000)]
    drawn = draw_all(1, calls, latency=0.1, latency_tail=2.0, latency_tail_share=0.1)
    counts = Counter(latency_s for *_, latency_s in drawn)
    assert set(counts) == {0.1, 2.1}
    assert 60 <= counts[2.1] <= 140


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"cut_after": 1.5}, "cut_after must be at most 1"),
        ({"latency": -1.0}, "latency must not be negative"),
        ({"cut_after": 0.7, "cut_before": 0.7}, "add up to 1.4"),
        ({"cut_style": "gently"}, "cut_style must be one of close, reset"),
    ],
)
def test_invalid_behaviour_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Behaviour(**values)
