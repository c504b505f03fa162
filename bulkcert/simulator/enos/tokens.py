"""The EnOS token service: `token/get` and `token/refresh`.

In: the JSON document of a call. Out: its response; and for the gateway, whether a token is valid.
`encryption` is checked as the vendor's page "Invoke API with access token" says: lower-case hex
SHA-256 of appKey, timestamp in milliseconds and appSecret, joined. Every error is a code in
`status`, sent with HTTP 200.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.exchange import Call, Response

BUSINESS = "apim-token-service"
MESSAGES = {
    1001: "Repeated request: encryption was used before",
    1002: "appKey does not exist",
    1003: "encryption is not valid",
    1004: "Invalid parameter",
    1005: "Internal service exception",
    1202: "A parameter is empty",
    1203: "Access token has expired",
    1204: "Failed to refresh the access token",
}


class TokenService:
    """The tokens of the one application that exists."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._life_us = int(behaviour.token_life * SECOND_US)
        self._expires_us: dict[str, int] = {}
        self._current = ""
        self._used: set[str] = set()  # every `encryption` so far

    def is_valid(self, token: str, now_us: int) -> bool:
        """Whether the gateway lets in calls with this token."""
        return now_us < self._expires_us.get(token, 0)

    def forget_current(self) -> None:
        """Issue a new token at the next `get`. The old one stays valid for those who have it."""
        self._current = ""

    async def get(self, call: Call) -> Response:
        """Respond to `token/get`: the current token again, or a new one."""
        now_us = call.request.at_us
        if refusal := self._refusal(call.document, ()):
            return refusal
        # with less than a second left, `expire` would be 0, which no client can use
        if self._expires_us.get(self._current, 0) - now_us < SECOND_US:
            self._current = self._issue(now_us)
        return self._granted(self._current, now_us)

    async def refresh(self, call: Call) -> Response:
        """Respond to `token/refresh`: a new token for a valid one."""
        now_us = call.request.at_us
        if refusal := self._refusal(call.document, ("accessToken",)):
            return refusal
        old = call.document["accessToken"]
        if not self.is_valid(old, now_us):
            return status_response(1204)
        if self._behaviour.refresh_ends_old:
            del self._expires_us[old]
        self._current = self._issue(now_us)
        return self._granted(self._current, now_us)

    def _refusal(self, document: Any, further: tuple[str, ...]) -> Response | None:
        if not isinstance(document, dict):
            return status_response(1004)
        values = [document.get(name) for name in ("appKey", "timestamp", "encryption", *further)]
        if any(value in (None, "") for value in values):
            return status_response(1202)
        # the vendor's page sends the timestamp as a number, the vendor's clients as text
        app_key, timestamp, encryption = values[0], str(values[1]), values[2]
        texts = [value for value in values if value is not values[1]]
        if not timestamp.isdecimal() or not all(isinstance(text, str) for text in texts):
            return status_response(1004)
        if app_key != self._behaviour.app_key:
            return status_response(1002)
        if encryption != encrypt(app_key, timestamp, self._behaviour.app_secret):
            return status_response(1003)
        if encryption in self._used:
            return status_response(1001)
        self._used.add(encryption)
        return None

    def _issue(self, now_us: int) -> str:
        name = f"{self._behaviour.seed}\0{self._behaviour.app_key}\0{len(self._used)}"
        token = "APIMTOKEN-" + hashlib.sha256(name.encode()).hexdigest()[:32]
        self._expires_us[token] = now_us + self._life_us
        return token

    def _granted(self, token: str, now_us: int) -> Response:
        expire = (self._expires_us[token] - now_us) // SECOND_US
        document = {
            "status": 0,
            "msg": "SUCCESS",
            "business": BUSINESS,
            "data": {"accessToken": token, "expire": expire},
        }
        return Response(0, 200, orjson.dumps(document))


def encrypt(app_key: str, timestamp: str, app_secret: str) -> str:
    """The `encryption` of a token call."""
    return hashlib.sha256(f"{app_key}{timestamp}{app_secret}".encode()).hexdigest()


def status_response(code: int, http_status: int = 200) -> Response:
    """A refusal in the token service's format."""
    document = {"status": code, "msg": MESSAGES[code], "business": BUSINESS, "data": None}
    return Response(code, http_status, orjson.dumps(document))
