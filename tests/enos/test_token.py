"""The access token: one for all calls, renewed in time, and requested no more often than needed.

The client works against a token service and a gateway in this file, on a virtual clock. They check
digests and signatures by the vendor's rules, with the secret that both ends share.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtually

from bulkcert.errors import (
    BulkcertError,
    CredentialsError,
    EndpointError,
    ProviderUnusableError,
)
from bulkcert.providers import clock as clock_module
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
from bulkcert.providers.enos.client import Client
from bulkcert.providers.enos.requests import list_request, revoke_request
from bulkcert.providers.transport import Transport
from bulkcert.ratelimit import Pacer
from bulkcert.simulator import Behaviour, Simulator

APP_KEY = "5acb82e7-a11e-4300-9164-c8b20b638e8b"
APP_SECRET = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
LATENCY_S = 0.1

REVOKE = revoke_request("o15", {"assetId": "A1", "certSn": 52739, "reason": 1})
LIST = list_request("o15", {"productKey": "pk 1", "deviceKey": "dk/ä+"})

Body = dict[str, Any]
Scripted = Response | CallResult | Callable[[Body], Response | CallResult]


def now() -> float:
    return asyncio.get_running_loop().time()


def unix_ms() -> int:
    """The wall clock of both ends."""
    return int((1_600_000_000 + now()) * 1000)


def http(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, headers or {}, json.dumps(document).encode(), now())


def refusal(code: int, message: str = "no") -> Callable[[Body], Response]:
    return lambda body: http({"status": code, "msg": message, "business": "x", "data": None})


def with_data(data: object) -> Callable[[Body], Response]:
    return lambda body: http({"status": 0, "msg": "SUCCESS", "business": "x", "data": data})


def granted(value: object, expire: object) -> Response:
    return with_data({"accessToken": value, "expire": expire})({})


@dataclass
class Provider:
    """Token service, gateway and certificate service, and the requests that they received.

    Attributes:
        life_s: how long a token lives.
        script: responses to the next token calls; after these, it responds by its own rules.
        gateway_script: the same for all other calls.
        expire: the `expire` that it returns, as a function of the remaining seconds.
        keeps_token: `get` returns a valid token again.
        tokens: when each token expires.
        token_calls: (when, operation, body) of every token call.
        calls: (when, token) of every other call.
    """

    life_s: float = 7200
    script: list[Scripted] = field(default_factory=list)
    gateway_script: list[Scripted] = field(default_factory=list)
    expire: Callable[[float], object] = lambda left_s: left_s
    keeps_token: bool = True
    latency: Callable[[], float] = lambda: LATENCY_S
    tokens: dict[str, float] = field(default_factory=dict)
    token_calls: list[tuple[float, str, Body]] = field(default_factory=list)
    calls: list[tuple[float, str]] = field(default_factory=list)
    pauses: list[tuple[float, float | None]] = field(default_factory=list)
    accepted_at: list[float] = field(default_factory=list)
    at_once: int = 0
    digests: Counter[str] = field(default_factory=Counter)

    # ---- the channel that the client sends through

    def __post_init__(self) -> None:
        self.pace: Pace = self

    async def depart(self) -> float:
        return now()

    async def pause_over(self) -> None:
        """There is no pause."""

    def throttled(self, departed_at: float, retry_after_s: float | None) -> object:
        self.pauses.append((departed_at, retry_after_s))
        return 0.0

    def accepted(self, departed_at: float) -> object:
        self.accepted_at.append(departed_at)
        return None

    async def close(self) -> None:
        """Nothing is open."""

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        method, body = request.method, request.body
        signed = dict(request.headers) | dict(sign() if sign else {})
        on_departure("")
        latency_s = self.latency()
        await asyncio.sleep(latency_s / 2)
        url = urlsplit(request.target)
        path, query = url.path, dict(parse_qsl(url.query))
        if path.startswith("/apim-token-service/v2.0/token/"):
            assert (method, query) == ("POST", {})
            assert signed == {"Content-Type": "application/json;charset=UTF-8"}
            response = await self._token_call(path.rpartition("/")[2], json.loads(body), latency_s)
        else:
            response = self._call(method, query, signed, body)
        await asyncio.sleep(latency_s / 2)
        return response

    # ---- the services

    async def _token_call(
        self, operation: str, body: Body, latency_s: float
    ) -> Response | CallResult:
        assert self.at_once == 0, "two token calls at once"
        self.at_once += 1
        await asyncio.sleep(latency_s / 4)
        self.at_once -= 1
        self.token_calls.append((now(), operation, body))
        signed = f"{body['appKey']}{body['timestamp']}{APP_SECRET}"
        assert body["encryption"] == hashlib.sha256(signed.encode()).hexdigest()
        assert isinstance(body["timestamp"], int)
        assert abs(body["timestamp"] - unix_ms()) < 60_000
        self.digests[body["encryption"]] += 1
        if self.script:
            return _scripted(self.script, body)
        if self.digests[body["encryption"]] > 1:
            return refusal(1001)(body)
        if operation == "refresh" and self._left_s(body["accessToken"]) <= 0:
            return refusal(1204)(body)
        current = next(reversed(self.tokens), "")
        if operation == "refresh" or not self.keeps_token or self._left_s(current) <= 0:
            current = f"token-{len(self.tokens) + 1}"
            self.tokens[current] = now() + self.life_s
        return granted(current, self.expire(self._left_s(current)))

    def _left_s(self, token: str) -> float:
        return self.tokens.get(token, 0.0) - now()

    def _call(
        self, method: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Response | CallResult:
        token, timestamp = headers["apim-accesstoken"], headers["apim-timestamp"]
        self.calls.append((now(), token))
        parameters = "".join(name + query[name] for name in sorted(query))
        signed = (token + parameters).encode() + body + (timestamp + APP_SECRET).encode()
        assert headers["apim-signature"] == hashlib.sha256(signed).hexdigest()
        assert abs(int(timestamp) - unix_ms()) < 60_000
        assert ("Content-Type" in headers) == (method == "POST")
        if self.gateway_script:
            return _scripted(self.gateway_script, {"token": token})
        if self._left_s(token) <= 0:
            return refusal(1203)({})
        return http({"code": 0, "msg": "OK", "requestId": "r", "data": None})

    @property
    def operations(self) -> list[str]:
        """The token calls by name."""
        return [operation for _, operation, _ in self.token_calls]


def _scripted(script: list[Scripted], body: Body) -> Response | CallResult:
    response = script.pop(0)
    return response(body) if callable(response) else response


class _VirtualClock:
    """Stands in for the module `time`."""

    @staticmethod
    def time() -> float:
        return unix_ms() / 1000


@pytest.fixture(autouse=True)
def _virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "time", _VirtualClock)


class User:
    """A client of a provider, and the number of departures that it reported."""

    def __init__(self, provider: Provider) -> None:
        self.client = Client(provider, APP_KEY, APP_SECRET, ProviderClock(now))
        self.departures = 0

    def departed(self, _source: str = "") -> None:
        self.departures += 1

    async def call(self) -> CallResult:
        """One call, repeated for as long as it is only the token that is not accepted."""
        while (result := await self.call_once()).kind is CallKind.NOT_SENT and result.code:
            pass
        return result

    async def call_once(self) -> CallResult:
        return await self.client.call(REVOKE, self.departed)

    async def calls(self, count: int) -> list[CallResult]:
        return await asyncio.gather(*(self.call() for _ in range(count)))


def kinds(results: list[CallResult]) -> Counter[CallKind]:
    return Counter(result.kind for result in results)


# ---- one token for all calls


def test_a_hundred_calls_at_once_request_one_token() -> None:
    async def scene() -> None:
        provider = Provider()
        assert kinds(await User(provider).calls(100)) == {CallKind.OK: 100}
        assert provider.operations == ["get"]
        assert [token for _, token in provider.calls] == ["token-1"] * 100

    run_virtually(scene())


def test_a_token_is_requested_as_the_vendor_says() -> None:
    async def scene() -> None:
        provider = Provider()
        await User(provider).client.open()
        [(_, operation, body)] = provider.token_calls
        assert operation == "get"
        assert set(body) == {"appKey", "timestamp", "encryption"}
        assert body["appKey"] == APP_KEY

    run_virtually(scene())


@pytest.mark.parametrize("request_", [REVOKE, LIST], ids=["revoke", "list"])
def test_calls_are_signed_with_the_token(request_: Any) -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        result = await user.client.call(request_, user.departed)
        assert result == CallResult(CallKind.OK, 0, "OK", "r")
        assert user.departures == 1

    run_virtually(scene())


def test_a_cancelled_wait_for_the_token_does_not_disturb_the_others() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        tasks = [asyncio.create_task(user.call()) for _ in range(10)]
        await asyncio.sleep(LATENCY_S / 4)
        tasks[0].cancel()  # the one that requests it
        tasks[5].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, CallResult) for result in done) == 8
        assert len(provider.calls) == user.departures == 8
        assert len(provider.tokens) == 1

    run_virtually(scene())


@pytest.mark.system
async def test_over_real_sockets_a_hundred_calls_request_one_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    behaviour = Behaviour(limit=0, app_key=APP_KEY, app_secret=APP_SECRET, latency=0.01)
    async with Simulator(behaviour) as simulator:
        transport = Transport(simulator.endpoint, Pacer(5000), timeout_s=30)
        client = Client(transport, APP_KEY, APP_SECRET, ProviderClock())
        calls = (
            client.call(revoke_request("o15", {"assetId": f"A{n}", "certSn": 1}), lambda _: None)
            for n in range(100)
        )
        results = await asyncio.gather(*calls)
        await client.close()
        assert kinds(results) == {CallKind.OK: 100}
        actions = Counter(entry["action"] for entry in simulator.ledger)
        assert actions == {"token.get": 1, "revoke": 100}


# ---- in time


@pytest.mark.parametrize(
    ("life_s", "refreshed_after_s"),
    [(7200, 6600), (1300, 700), (1200, 600), (1000, 500), (100, 50), (2, 1)],
)
def test_a_token_is_refreshed_ten_minutes_before_it_expires_or_at_half_of_a_short_life(
    life_s: float, refreshed_after_s: float
) -> None:
    async def scene() -> None:
        provider = Provider(life_s=life_s, latency=lambda: 0.004)
        user = User(provider)
        began_at = now()
        await user.call()
        await asyncio.sleep(refreshed_after_s - 0.1)
        await user.call()
        assert provider.operations == ["get"]
        await asyncio.sleep(0.1)
        await user.call()
        assert provider.operations == ["get", "refresh"]
        at, _, body = provider.token_calls[-1]
        assert at - began_at == pytest.approx(refreshed_after_s, abs=0.1)
        assert set(body) == {"appKey", "timestamp", "encryption", "accessToken"}
        assert body["accessToken"] == "token-1"
        assert [token for _, token in provider.calls] == ["token-1", "token-1", "token-2"]

    run_virtually(scene())


def test_get_may_return_a_valid_token_with_its_remaining_life() -> None:
    async def scene() -> None:
        provider = Provider()
        await User(provider).call()  # another client of the same account
        await asyncio.sleep(7200 - 60)
        user = User(provider)
        await user.call()
        assert provider.calls[-1][1] == "token-1"
        await asyncio.sleep(40)
        await user.call()
        assert provider.operations == ["get", "get", "refresh"]
        assert kinds(await user.calls(10)) == {CallKind.OK: 10}
        assert provider.calls[-1][1] == "token-2"

    run_virtually(scene())


def test_calls_continue_with_the_old_token_while_it_is_refreshed() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        await user.call()
        await asyncio.sleep(6700)
        provider.latency = iter([20.0, *[LATENCY_S] * 100]).__next__
        refreshing = asyncio.create_task(user.call())
        await asyncio.sleep(1)
        began_at = now()
        assert kinds(await user.calls(50)) == {CallKind.OK: 50}
        assert now() - began_at == pytest.approx(LATENCY_S)
        assert not refreshing.done()
        await refreshing
        assert provider.operations == ["get", "refresh"]
        assert [token for _, token in provider.calls] == ["token-1"] * 51 + ["token-2"]

    run_virtually(scene())


FAILURES: list[Scripted] = [
    refusal(1204),
    refusal(1005),
    refusal(1001),
    refusal(1203),
    CallResult(CallKind.IN_DOUBT, message="no response within 30 s"),
    CallResult(CallKind.NOT_SENT, message="no connection"),
    lambda body: Response(502, {}, b"<html>", now()),
    lambda body: http({"message": "API rate limit exceeded"}, 429),
    lambda body: http({"status": 0, "msg": "SUCCESS", "data": None}),
    lambda body: granted("", 7200),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_after_a_failed_refresh_the_old_token_is_used_until_it_expires(
    failure: Scripted,
) -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        await user.call()
        await asyncio.sleep(6650)
        provider.script = [failure] * 1000
        while now() < provider.tokens["token-1"] - 1:
            assert kinds(await user.calls(3)) == {CallKind.OK: 3}
            await asyncio.sleep(5)
        # not with every call, but from time to time
        assert 5 <= provider.operations.count("refresh") <= 11
        assert provider.operations.count("get") == 1
        provider.script = []
        await asyncio.sleep(5)
        assert kinds(await user.calls(3)) == {CallKind.OK: 3}
        assert provider.operations.count("get") == 2
        assert provider.operations[-1] == "get"  # an expired token is not refreshed
        assert [token for _, token in provider.calls[-3:]] == ["token-2"] * 3

    run_virtually(scene())


# ---- 1001: a digest may be used once


@pytest.mark.parametrize("times", [1, 5])
def test_a_used_digest_leads_to_a_new_timestamp(times: int) -> None:
    async def scene() -> None:
        provider = Provider(script=[refusal(1001)] * times)
        assert (await User(provider).call()).kind is CallKind.OK
        stamps = [body["timestamp"] for _, _, body in provider.token_calls]
        assert len(stamps) == times + 1
        assert stamps == sorted(set(stamps))

    run_virtually(scene())


def test_two_token_calls_in_one_millisecond_have_two_timestamps() -> None:
    async def scene() -> None:
        provider = Provider(latency=lambda: 0.0, keeps_token=False)
        user = User(provider)
        provider.gateway_script = [refusal(1203)]
        await user.call()
        stamps = [body["timestamp"] for _, _, body in provider.token_calls]
        assert len(stamps) == len(set(stamps)) == 2
        assert now() * 1000 // 1 == provider.token_calls[0][0] * 1000 // 1
        assert max(provider.digests.values()) == 1

    run_virtually(scene())


# ---- a token that is not accepted


TOKEN_TROUBLE: list[Scripted] = [
    refusal(1202),
    refusal(1203),
    lambda body: http({"code": 1203, "msg": "x", "requestId": "r", "data": None}),
    lambda body: http({"status": 1203, "msg": "x"}, 401),
    lambda body: http({"message": "Invalid authentication credentials"}, 401),
    lambda body: Response(401, {}, b"", now()),
    lambda body: http({"apim_status": 4011, "apim_refreshtoken": "x"}),
    lambda body: http({"apim_status": 4012, "apim_refreshtoken": "x"}),
]


@pytest.mark.parametrize("trouble", TOKEN_TROUBLE)
def test_a_rejected_token_is_replaced_for_the_next_request(trouble: Scripted) -> None:
    """Nothing more leaves by itself: whoever decides to repeat the request may be stopping."""

    async def scene() -> None:
        provider = Provider(keeps_token=False)
        user = User(provider)
        await user.call()
        provider.gateway_script = [trouble]
        result = await user.call_once()
        assert result.kind is CallKind.NOT_SENT
        assert result.code in (401, 1202, 1203, 4011, 4012)
        assert (provider.operations, len(provider.calls), user.departures) == (["get"], 2, 2)
        assert (await user.call_once()).kind is CallKind.OK
        assert provider.operations == ["get", "get"]
        assert [token for _, token in provider.calls] == ["token-1", "token-1", "token-2"]

    run_virtually(scene())


def test_a_hundred_rejections_at_once_lead_to_one_new_token() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        await user.call()
        provider.tokens["token-1"] = 0.0  # revoked by the provider
        assert kinds(await user.calls(100)) == {CallKind.OK: 100}
        assert provider.operations == ["get", "get"]
        sent = Counter(token for _, token in provider.calls)
        assert sent == {"token-1": 101, "token-2": 100}

    run_virtually(scene())


def test_a_late_rejection_of_an_old_token_does_not_discard_the_new_one() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        await user.call()
        provider.tokens["token-1"] = 0.0
        provider.latency = iter([60.0, *[LATENCY_S] * 100]).__next__
        slow = asyncio.create_task(user.call())
        await asyncio.sleep(1)
        await user.calls(5)
        assert (await slow).kind is CallKind.OK
        assert provider.operations == ["get", "get"]

    run_virtually(scene())


@pytest.mark.parametrize(
    "result",
    [
        CallResult(CallKind.NOT_SENT, message="no connection"),
        CallResult(CallKind.IN_DOUBT, message="connection lost"),
    ],
)
def test_failures_unrelated_to_the_token_are_not_repeated(result: CallResult) -> None:
    async def scene() -> None:
        provider = Provider(gateway_script=[result])
        assert await User(provider).call() == result
        assert (len(provider.calls), provider.operations) == (1, ["get"])

    run_virtually(scene())


def test_an_unusable_provider_stops_the_run_and_nothing_is_repeated() -> None:
    async def scene() -> None:
        unusable = CallResult(CallKind.UNUSABLE, message="TLS can't verify")
        provider = Provider(gateway_script=[unusable])
        with pytest.raises(ProviderUnusableError, match="TLS can't verify"):
            await User(provider).call()
        assert (len(provider.calls), provider.operations) == (1, ["get"])

    run_virtually(scene())


def test_a_rejection_stops_the_run_when_no_new_token_is_granted() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        await user.call()
        provider.gateway_script = [refusal(1203)]
        provider.script = [refusal(1003)]
        with pytest.raises(CredentialsError):
            await user.call()

    run_virtually(scene())


# ---- no token is granted


@pytest.mark.parametrize("code", [1002, 1003])
def test_bad_credentials_stop_the_run_at_once(code: int) -> None:
    async def scene() -> None:
        provider = Provider(script=[refusal(code, "encryption is not valid")])
        user = User(provider)
        with pytest.raises(CredentialsError, match=f"{code} encryption is not valid") as caught:
            await user.client.open()
        assert caught.value.exit_code == 2
        assert "ENOS_APP_SECRET" in caught.value.next_step
        # later calls do not try again
        with pytest.raises(CredentialsError):
            await user.call()
        assert provider.operations == ["get"]
        assert provider.calls == []

    run_virtually(scene())


@pytest.mark.parametrize(
    "response",
    [
        CallResult(CallKind.UNUSABLE, message="TLS can't verify the certificate of x: expired"),
        lambda body: http({"message": "no Route matched with those values"}, 404),
        lambda body: http({"message": "Your IP address is not allowed"}, 403),
    ],
)
def test_a_wrong_endpoint_stops_the_run_at_once(response: Scripted) -> None:
    async def scene() -> None:
        provider = Provider(script=[response])
        with pytest.raises(EndpointError, match=r"TLS|Route|IP") as caught:
            await User(provider).client.open()
        assert caught.value.exit_code == 2
        assert provider.operations == ["get"]

    run_virtually(scene())


UNHELPFUL: list[Scripted] = [
    CallResult(CallKind.NOT_SENT, message="no connection: refused"),
    CallResult(CallKind.IN_DOUBT, message="no response within 30 s"),
    refusal(1004),
    refusal(1005),
    refusal(1202),
    refusal(1001),
    lambda body: Response(502, {}, b"<html>", now()),
    lambda body: Response(302, {}, b"", now()),
    lambda body: http({"message": "API rate limit exceeded"}, 429, {"Retry-After": "1"}),
    *map(with_data, [None, [], {}, "token", 7, ["accessToken", "expire"]]),
    *(
        with_data({"accessToken": value, "expire": 7200})
        for value in ("", None, 7, True, ["x"], {"x": 1}, "a\r\nHost: evil", "töken", "a\0b")
    ),
    *(
        with_data({"accessToken": "token", "expire": expire})
        for expire in (None, "two hours", "7200.5", True, [7200], {"s": 7200})
    ),
]


@pytest.mark.parametrize("response", UNHELPFUL)
@pytest.mark.parametrize("how", ["open", "call"])
def test_a_failing_token_service_stops_the_run_when_patience_runs_out(
    how: str, response: Scripted
) -> None:
    async def scene() -> None:
        provider = Provider(script=[response] * 100_000)
        user = User(provider)
        began_at = now()
        patience_s = 10.0 if how == "open" else 60.0
        with pytest.raises(
            ProviderUnusableError, match="Could not obtain an access token"
        ) as caught:
            await (user.client.open() if how == "open" else user.call())
        assert caught.value.exit_code == 3
        assert patience_s / 2 < now() - began_at <= patience_s + 1.5 * LATENCY_S
        assert provider.calls == []

    run_virtually(scene())


def test_nothing_of_a_token_is_left_where_a_text_is_cut() -> None:
    async def scene() -> None:
        token = "".join(f"{n:03}" for n in range(300))
        refused = http({"code": 99400, "msg": "x" * 400 + token, "requestId": token})
        provider = Provider(script=[granted(token, 7200)], gateway_script=[refused])
        result = await User(provider).call()
        assert result.message == "x" * 400 + "*" * 8
        assert result.request_id == "*" * 8

    run_virtually(scene())


def test_the_life_of_a_token_may_be_written_as_text() -> None:
    async def scene() -> None:
        provider = Provider(script=[granted("token", "7200")])
        provider.tokens["token"] = now() + 7200
        assert kinds(await User(provider).calls(3)) == {CallKind.OK: 3}
        assert provider.operations == ["get"]

    run_virtually(scene())


def test_a_token_that_comes_with_a_refusal_is_not_used() -> None:
    async def scene() -> None:
        data = {"accessToken": "token", "expire": 7200}
        odd = [
            http(more | {"data": data}) for more in ({"status": 0, "code": 1003}, {"code": 1005})
        ]
        provider = Provider(script=[*odd])
        await User(provider).calls(1)
        assert {token for _, token in provider.calls} == {"token-1"}

    run_virtually(scene())


def test_a_failing_token_service_is_called_less_and_less_often() -> None:
    async def scene() -> None:
        provider = Provider(script=[refusal(1005)] * 1000)
        with pytest.raises(ProviderUnusableError):
            await User(provider).call()
        assert len(provider.token_calls) < 20

    run_virtually(scene())


def test_a_service_that_rejects_every_digest_is_not_flooded() -> None:
    async def scene() -> None:
        provider = Provider(script=[refusal(1001)] * 100_000, latency=lambda: 0.001)
        with pytest.raises(ProviderUnusableError, match="1001"):
            await User(provider).call()
        assert len(provider.token_calls) < 50

    run_virtually(scene())


def test_an_outage_shorter_than_the_patience_is_waited_out() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        down_until = now() + 30
        unreachable = CallResult(CallKind.NOT_SENT, message="no connection: refused")
        provider.script = [
            *[lambda body: unreachable if now() < down_until else granted("token-x", 7200)] * 50
        ]
        provider.tokens["token-x"] = now() + 7200
        assert kinds(await user.calls(20)) == {CallKind.OK: 20}
        assert down_until < now() < down_until + 11

    run_virtually(scene())


def test_calls_waiting_for_a_failed_token_fail_at_once_and_send_nothing() -> None:
    async def scene() -> None:
        provider = Provider(script=[refusal(1005)] * 1000)
        user = User(provider)
        tasks = [asyncio.create_task(user.call()) for _ in range(50)]
        failed_at: list[float] = []
        for task in tasks:
            task.add_done_callback(lambda task: failed_at.append(now()))
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert {type(error) for error in done} == {ProviderUnusableError}
        assert max(failed_at) - min(failed_at) < 0.001
        assert len(provider.token_calls) < 20
        with pytest.raises(ProviderUnusableError):
            await user.call()
        assert len(provider.token_calls) < 20

    run_virtually(scene())


@pytest.mark.parametrize("how", ["open", "call"])
def test_a_pause_does_not_use_up_the_patience_with_the_token_service(how: str) -> None:
    """The service asks to wait for ten minutes; patience lasts for one at most."""

    class Paused(Provider):
        def __post_init__(self) -> None:
            self.pace = Pacer(100)

        async def send(
            self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
        ) -> Response | CallResult:
            await self.pace.depart()
            return await super().send(request, on_departure, sign)

    async def scene() -> None:
        limited: Scripted = lambda body: http({}, 429, {"Retry-After": "600"})  # noqa: E731
        provider = Paused(script=[limited, limited, limited])
        user = User(provider)
        began_at = now()
        await (user.client.open() if how == "open" else user.call())
        assert 1800 <= now() - began_at < 1805
        assert provider.operations == ["get"] * 4

    run_virtually(scene())


@pytest.mark.parametrize("refused", [403, 404])
def test_a_token_service_that_refuses_once_amid_a_run_is_asked_again(refused: int) -> None:
    async def scene() -> None:
        provider = Provider(keeps_token=False)
        user = User(provider)
        await user.call()
        provider.gateway_script = [refusal(1203)]
        provider.script = [lambda body: http({"message": "Forbidden"}, refused)]
        assert (await user.call()).kind is CallKind.OK
        assert provider.operations == ["get", "get", "get"]

    run_virtually(scene())


def test_a_token_that_expired_while_the_machine_was_suspended_is_replaced() -> None:
    """The event loop's clock stands still meanwhile; the provider's does not."""

    async def scene() -> None:
        suspended_s = 0.0
        provider = Provider()
        client = Client(provider, APP_KEY, APP_SECRET, ProviderClock(lambda: now() + suspended_s))
        await client.call(REVOKE, lambda _: None)
        suspended_s = 7300.0
        await client.call(REVOKE, lambda _: None)
        assert provider.operations == ["get", "get"]

    run_virtually(scene())


def test_the_pacer_learns_which_requests_were_not_throttled() -> None:
    async def scene() -> None:
        provider = Provider()
        user = User(provider)
        provider.gateway_script = [
            refusal(99400),
            refusal(99500),
            CallResult(CallKind.IN_DOUBT, message="connection lost"),
            lambda body: http({"message": "API rate limit exceeded"}, 429),
        ]
        for _ in range(5):
            await user.call_once()
        # of the token call, the refused one, and the last
        assert len(provider.accepted_at) == 3
        assert [pause for _, pause in provider.pauses] == [None]

    run_virtually(scene())


def test_a_date_to_wait_for_counts_from_the_time_of_the_token_service() -> None:
    """The response itself has no `Date`, and the provider's clock is far from ours."""

    async def scene() -> None:
        life = {"status": 0, "data": {"accessToken": "token-1", "expire": 7200}}
        provider = Provider(script=[lambda body: http(life, headers={"Date": at(0)})])
        provider.tokens["token-1"] = now() + 7200
        until = {"Retry-After": at(30)}
        provider.gateway_script = [lambda body: http({"message": "slow down"}, 429, until)]
        result = await User(provider).call_once()
        assert result.kind is CallKind.THROTTLED
        [(_, pause_s)] = provider.pauses
        assert pause_s == pytest.approx(30, abs=1)

    def at(seconds: int) -> str:
        return formatdate(unix_ms() / 1000 + 40 + seconds, usegmt=True)

    run_virtually(scene())


def test_a_throttled_token_call_slows_all_calls() -> None:
    async def scene() -> None:
        limited: Scripted = lambda body: http(  # noqa: E731 - one of a script
            {"message": "API rate limit exceeded"}, 429, {"Retry-After": "7"}
        )
        provider = Provider(script=[limited])
        assert (await User(provider).call()).kind is CallKind.OK
        assert [pause for _, pause in provider.pauses] == [7]
        provider.gateway_script = [limited]
        assert (await User(provider).call()).kind is CallKind.THROTTLED
        assert [pause for _, pause in provider.pauses] == [7, 7]
        for departed_at, _ in provider.pauses:
            assert departed_at <= now()

    run_virtually(scene())


# ---- secrets


def test_no_secret_is_in_any_error_or_result_even_if_the_provider_quotes_it() -> None:
    async def scene() -> None:
        def quoting(code: int) -> Callable[[Body], Response]:
            return lambda body: http({"status": code, "msg": f"got {json.dumps(body)}"})

        texts = []
        for code in (1002, 1003, 1004, 1005):
            user = User(Provider(script=[quoting(code)] * 100))
            with pytest.raises(BulkcertError) as caught:
                await user.client.open()
            error = caught.value
            texts += [str(error), repr(error), error.problem, error.next_step]
        for code in (1203, 99400, 99403, 99500):
            provider = Provider(gateway_script=[quoting(code)])
            result = await User(provider).call_once()
            assert "got" in result.message
            texts += [str(result), repr(result)]
        with pytest.raises(ProviderUnusableError, match="1002 got") as unusable:
            await User(Provider(gateway_script=[quoting(1002)])).call()
        texts += [str(unusable.value), repr(unusable.value)]
        for text in texts:
            assert APP_SECRET not in text
            assert "token-1" not in text

    run_virtually(scene())


# ---- any sequence of events


@given(
    life_s=st.sampled_from([1.0, 3.0, 30.0, 700.0]),
    waits=st.lists(st.one_of(st.floats(0, 0.1), st.floats(0, 1000)), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    keeps_token=st.booleans(),
    troubles=st.lists(st.sampled_from(FAILURES), max_size=5),
)
def test_every_call_succeeds_with_as_few_token_calls_as_needed(
    life_s: float,
    waits: list[float],
    seed: int,
    keeps_token: bool,
    troubles: list[Scripted],
) -> None:
    async def scene() -> None:
        rng = random.Random(seed)
        provider = Provider(
            life_s=life_s,
            keeps_token=keeps_token,
            latency=lambda: rng.uniform(0.0, 0.2),
            script=list(troubles),
        )
        user = User(provider)
        began_at, tasks = now(), []
        for wait_s in waits:
            await asyncio.sleep(wait_s)
            tasks += [asyncio.create_task(user.call()) for _ in range(rng.randint(1, 5))]
        results = await asyncio.gather(*tasks)
        # a token may expire in transit, once
        assert kinds(list(results)) == {CallKind.OK: len(tasks)}
        assert max(provider.digests.values()) == 1
        lives = (now() - began_at) / (life_s / 2)
        assert len(provider.token_calls) <= 2 * (lives + 1) + len(troubles) + 1

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(clock_module, "time", _VirtualClock)
        run_virtually(scene())
