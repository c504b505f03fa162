"""Clients for the tests of the simulator, written from the vendors' documents alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from bulkcert.simulator import Behaviour, Simulator

FORM = "application/x-www-form-urlencoded; charset=utf-8"
_last_millisecond = 0


def fresh_millisecond() -> int:
    """The time in milliseconds, never the same twice: its digest may be used only once."""
    global _last_millisecond
    _last_millisecond = max(int(time.time() * 1000), _last_millisecond + 1)
    return _last_millisecond


class Response(NamedTuple):
    """An HTTP response; `json` is None if the body is not JSON."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def code(self) -> Any:
        return self.json.get("code", self.json.get("status", self.json.get("Code")))


class Client:
    """Sends requests to one simulator, over its own connections."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session
        self.token = ""

    async def send(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request unchanged, without following redirects."""
        url = URL(f"{self.simulator.endpoint}{target}", encoded=True)
        async with self.session.request(
            method,
            url,
            data=io.BytesIO(body) if body else None,
            headers=headers,
            allow_redirects=False,
        ) as response:
            return Response(response.status, dict(response.headers), await response.read())

    # EnOS

    async def token_call(self, what: str = "get", **changes: Any) -> Response:
        """Call the token service; `changes` replace fields of the body, or remove them if None."""
        fields = {"appKey": "simulator-key", "timestamp": fresh_millisecond(), **changes}
        text = f"{fields['appKey']}{fields['timestamp']}simulator-secret"
        fields.setdefault("encryption", hashlib.sha256(text.encode()).hexdigest())
        body = {name: value for name, value in fields.items() if value is not None}
        path = f"/apim-token-service/v2.0/token/{what}"
        return await self.send("POST", path, orjson.dumps(body))

    async def enos(
        self,
        action: str,
        device: dict[str, str] | str = "A1",
        document: dict[str, Any] | None = None,
        *,
        path: str = "/connect-service/v2.0/certificates",
        timestamp: int | None = None,
        headers: dict[str, str] | None = None,
        **query: str,
    ) -> Response:
        """Call the certificate API with a signature; `headers` replace the signature's headers."""
        if not self.token:
            self.token = (await self.token_call()).json["data"]["accessToken"]
        named = {"assetId": device} if isinstance(device, str) else device
        parameters = {"action": action, "orgId": "o1", **named, **query}
        body = orjson.dumps(document) if document is not None else b""
        moment = str(timestamp or fresh_millisecond())
        joined = "".join(name + parameters[name] for name in sorted(parameters)).encode()
        text = self.token.encode() + joined + body + moment.encode() + b"simulator-secret"
        signed = {
            "apim-accesstoken": self.token,
            "apim-timestamp": moment,
            "apim-signature": hashlib.sha256(text).hexdigest(),
            **(headers or {}),
        }
        method = "GET" if document is None else "POST"
        return await self.send(method, f"{path}?{urlencode(parameters)}", body, signed)

    async def revoke(self, serial: int = 5, device: str = "A1", reason: int = 1) -> Response:
        return await self.enos("revoke", device, {"certSn": serial, "reason": reason})

    async def listed(self, device: dict[str, str] | str = "A1") -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.enos("list", device)).json["data"]
        return items

    # ApsaraMQ

    async def mq(
        self,
        action: str = "InactivateDeviceCertificate",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
        **parameters: str,
    ) -> Response:
        """Call OnsMqtt with a V3 signature.

        Args:
            action: the action.
            method: HTTP method.
            headers: are signed too, and replace the defaults.
            form: parameters to send in the body; they are not in the query then.
            parameters: of the query; they replace the defaults.
        """
        parameters = {"CaSn": "007", "DeviceSn": "0042", "MqttInstanceId": "i", **parameters}
        body = b""
        if form is not None:
            body = urlencode(form).encode()
            parameters = {name: parameters[name] for name in parameters if name not in form}
            headers = {"content-type": FORM, **(headers or {})}
        query = "&".join(
            f"{name}={quote(parameters[name], safe='')}" for name in sorted(parameters)
        )
        signed = {
            "host": self.simulator.endpoint.removeprefix("http://"),
            "x-acs-action": action,
            "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-acs-date": moment_as_text(),
            "x-acs-signature-nonce": f"nonce-{fresh_millisecond()}",
            "x-acs-version": "2020-04-20",
            **(headers or {}),
        }
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        canonical = f"{method}\n/\n{query}\n{lines}\n{names}\n{signed['x-acs-content-sha256']}"
        text = f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(b"simulator-secret", text.encode(), hashlib.sha256).hexdigest()
        authorization = (
            f"ACS3-HMAC-SHA256 Credential=simulator-id,SignedHeaders={names},Signature={signature}"
        )
        return await self.send(
            method, f"/?{query}", body, {"Authorization": authorization} | signed
        )

    async def mq_get(self, action: str = "GetDeviceCertificate", **parameters: str) -> Response:
        return await self.mq(action, method="GET", **parameters)

    async def mq_v1(
        self,
        action: str = "InactivateDeviceCertificate",
        *,
        method: str = "POST",
        in_form: Callable[[str], bool] = lambda name: False,
        **changes: str | None,
    ) -> Response:
        """Call OnsMqtt with the older V1 signature, which is one of the parameters.

        Args:
            action: the action.
            method: HTTP method.
            in_form: says for each parameter whether it is sent in the body, not in the query.
            changes: replace parameters, or remove them if None.
        """
        parameters = {
            "AccessKeyId": "simulator-id",
            "Action": action,
            "CaSn": "007",
            "DeviceSn": "0042",
            "Format": "json",
            "MqttInstanceId": "i",
            "SignatureMethod": "HMAC-SHA1",
            "SignatureNonce": f"nonce-{fresh_millisecond()}",
            "SignatureVersion": "1.0",
            "Timestamp": moment_as_text(),
            "Version": "2020-04-20",
            **changes,
        }
        sent = {name: value for name, value in parameters.items() if value is not None}
        canonical = "&".join(f"{name}={quote(sent[name], safe='')}" for name in sorted(sent))
        text = f"{method}&%2F&{quote(canonical, safe='')}"
        digest = hmac.new(b"simulator-secret&", text.encode(), hashlib.sha1).digest()
        sent["Signature"] = base64.b64encode(digest).decode()
        form = urlencode({name: value for name, value in sent.items() if in_form(name)})
        query = urlencode({name: value for name, value in sent.items() if not in_form(name)})
        headers = {"Content-Type": FORM} if form else None
        return await self.send(method, f"/?{query}", form.encode(), headers)


def moment_as_text(ago_s: float = 0) -> str:
    """A moment some seconds ago, as ApsaraMQ's calls state it."""
    return (datetime.now(UTC) - timedelta(seconds=ago_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    while not condition():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(behaviour: Behaviour | None = None, **options: Any) -> AsyncIterator[Client]:
    """Start a simulator; yields a client for it."""
    async with (
        Simulator(behaviour, **options) as simulator,
        aiohttp.ClientSession(max_field_size=1 << 16) as session,
    ):
        yield Client(simulator, session)
