"""ApsaraMQ for MQTT, API OnsMqtt 2020-04-20: the six actions on device certificates.

In: HTTP requests to `/`. Out: replies as the vendor's gateway and service make them; errors are
`{RequestId, HostId, Code, Message}`. The checks come in this order: block of the source address,
action, access key, date, signature, nonce, limit, parameters, instance, permission, certificate.
"""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import orjson

from bulkcert.simulator.apsaramq import signature
from bulkcert.simulator.apsaramq.refusals import GATEWAY, SERVICE
from bulkcert.simulator.apsaramq.registry import ACTIVE, INACTIVE, Name, Registry
from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import DAY_S, SECOND_US
from bulkcert.simulator.exchange import (
    REDIRECTED,
    Call,
    CertificateState,
    Delivery,
    Reply,
    Request,
    page_reply,
)
from bulkcert.simulator.window import FixedWindow, SlidingWindow, TokenBucket, Window

PATH = "/"
VERSION = "2020-04-20"
_LONGEST_SN = 128  # bytes
_LARGEST_PAGE = 100
_GET_ONLY = {"GetDeviceCertificate", "ListDeviceCertificate", "ListDeviceCertificateByCaSn"}


class RefusedError(Exception):
    """The call is refused with a code; ends its handling wherever that is found out."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ApsaraMq:
    """The gateway and the service behind it.

    Args:
        now_us: time at which the simulator began, Unix time in microseconds.
    """

    provider = "apsaramq"

    def __init__(self, behaviour: Behaviour, registry: Registry, now_us: int) -> None:
        self._behaviour = behaviour
        self._registry = registry
        self._sources = Sources(behaviour)
        self._windows: defaultdict[str, Window] = defaultdict(self._new_window)
        self._nonces = Nonces(int(behaviour.mq_clock_window * SECOND_US))
        self._token_ends_us = now_us + int(behaviour.security_token_life * SECOND_US)
        self._valid_from_s = now_us // SECOND_US - int(behaviour.certificate_age * DAY_S)
        self._request_ids = count(1)
        self._actions: dict[str, Callable[[Call], dict[str, Any]]] = {
            "InactivateDeviceCertificate": lambda call: self._set(call, INACTIVE, "inactivated"),
            "ActiveDeviceCertificate": lambda call: self._set(call, ACTIVE, "activated"),
            "DeleteDeviceCertificate": self._delete,
            "GetDeviceCertificate": self._get,
            "ListDeviceCertificate": self._list,
            "ListDeviceCertificateByCaSn": self._list,
        }

    def gate(self, request: Request) -> Reply | None:
        """Turn a request away from a source address that is blocked, or is to be blocked now."""
        action = request.headers.get("x-acs-action", "")
        if not self._sources.blocks(request.source, action, request.at_us):
            return None
        match self._behaviour.mq_block:
            case "reset":
                return Reply(None, 403, fault="source_blocked", delivery=Delivery.RESET)
            case "timeout":
                hold_s = self._behaviour.mq_block_for
                blocked = Reply(None, 403, fault="source_blocked", delivery=Delivery.CUT)
                return replace(blocked, hold_s=hold_s)
            case "403":
                return replace(page_reply(403), fault="source_blocked")

    def read(self, request: Request) -> Call:
        """Find out what a request asks for."""
        query = dict(reversed(signature.parameters(request)))
        action = request.headers.get("x-acs-action") or query.get("Action", "")
        known = action if action in self._actions else "unknown"
        names = ("CaSn", "DeviceSn")
        device = "&".join(f"{name}={query[name]}" for name in names if query.get(name))
        return Call(request, known, device, query.get("DeviceSn"), {**query})

    async def answer(self, call: Call) -> Reply:
        """Check a call and execute it."""
        try:
            self._check_sender(call)
            if not self._windows[call.action].admits(call.request.at_us):
                return self._throttled(self._behaviour.mq_throttle_headers)
            if call.action in _GET_ONLY and call.request.method != "GET":
                raise RefusedError("UnsupportedHTTPMethod")
            self._check_parameters(call)
            return self._ok(self._actions[call.action](call))
        except RefusedError as refused:
            return self._refusal(refused.code)

    def too_large(self) -> Reply:
        """An HTML page of the gateway's front end."""
        return page_reply(413)

    def throttled(self, call: Call, *, retry_after: bool) -> Reply:
        """The gateway's answer to too many calls of one API."""
        return self._throttled("x-acs-retry-after" if retry_after else "none")

    def overloaded(self, call: Call) -> Reply:
        """The service's own flow control."""
        return self._refusal("SystemOverFlow")

    def internal_error(self, call: Call) -> Reply:
        """The service's InternalError."""
        return self._refusal("InternalError")

    def token_expired(self, call: Call) -> Reply:
        """The STS token is expired."""
        return self._refusal("InvalidSecurityToken.Expired")

    def certificates(self, named: dict[str, str], now_us: int) -> list[CertificateState]:
        """The states of a certificate, one for each instance in which it is registered."""
        rows = self._registry.known(named.get("CaSn", ""), named.get("DeviceSn", ""))
        return [
            CertificateState(
                self._registry.name(row).device_sn,
                "active" if self._registry.status[row] == ACTIVE else "inactive",
            )
            for row in rows
        ]

    def _new_window(self) -> Window:
        limit = self._behaviour.limit
        match self._behaviour.mq_window:
            case "sliding":
                return SlidingWindow(limit, counts_refused=self._behaviour.limit_counts_refused)
            case "fixed":
                return FixedWindow(limit)
            case "bucket":
                return TokenBucket(limit)

    def _check_sender(self, call: Call) -> None:
        """Raise `RefusedError` unless the call is from who it says it is, fresh and new."""
        request, behaviour = call.request, self._behaviour
        version = request.headers.get("x-acs-version") or call.query.get("Version")
        if call.action == "unknown" or version != VERSION:
            raise RefusedError("InvalidApi.NotFound")
        v3 = "Authorization" in request.headers
        credential = (
            signature.read_v3(request)
            if v3
            else signature.read_v1({name: value or "" for name, value in call.query.items()})
        )
        if not credential.access_key_id:
            raise RefusedError("MissingAccessKeyId")
        if credential.access_key_id != behaviour.access_key_id:
            raise RefusedError("InvalidAccessKeyId.NotFound")
        self._check_date(credential.date, request.at_us)
        if v3:
            good = signature.is_fully_signed(request, credential) and (
                credential.signature
                == signature.sign_v3(
                    request, credential.signed_headers, behaviour.access_key_secret
                )
            )
        else:
            good = credential.signature == signature.sign_v1(request, behaviour.access_key_secret)
        if not good:
            raise RefusedError("SignatureDoesNotMatch")
        self._check_security_token(credential.security_token, request.at_us)
        if not credential.nonce:
            raise RefusedError("MissingSignatureNonce")
        if not self._nonces.is_new(credential.nonce, request.at_us):
            raise RefusedError("SignatureNonceUsed")

    def _check_date(self, text: str, now_us: int) -> None:
        try:
            date = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise RefusedError("InvalidTimeStamp.Format") from None
        skew_s = abs(date.timestamp() - now_us / SECOND_US)
        if skew_s > self._behaviour.mq_clock_window:
            raise RefusedError("InvalidTimeStamp.Expired")

    def _check_security_token(self, token: str, now_us: int) -> None:
        expected = self._behaviour.security_token
        if token and not expected:
            raise RefusedError("InvalidSecurityToken.MismatchWithAccessKey")
        if expected and not token:
            raise RefusedError("MissingSecurityToken")
        if token != expected:
            raise RefusedError("InvalidSecurityToken.Malformed")
        if expected and self._behaviour.security_token_life and now_us >= self._token_ends_us:
            raise RefusedError("InvalidSecurityToken.Expired")

    def _check_parameters(self, call: Call) -> None:
        """Raise `RefusedError` for parameters, instance and permission, in this order."""
        needed = {"MqttInstanceId"}
        if call.action != "ListDeviceCertificate":
            needed.add("CaSn")
        if not call.action.startswith("List"):
            needed.add("DeviceSn")
        if not all(call.query.get(name) for name in needed):
            raise RefusedError("ParameterFieldCheckFailed")
        for name in ("CaSn", "DeviceSn"):
            value = call.query.get(name) or ""
            if len(value.encode()) > _LONGEST_SN or "\0" in value:
                raise RefusedError("ParameterFieldCheckFailed")
        if self._behaviour.mq_instance not in ("", call.query["MqttInstanceId"]):
            raise RefusedError("MqttInstanceNotFound")
        if (code := self._behaviour.refuse_all) and not code.isdecimal():
            raise RefusedError(code)

    def _row(self, call: Call) -> int:
        row = self._registry.find(
            Name(
                call.query["MqttInstanceId"] or "",
                call.query["CaSn"] or "",
                call.query["DeviceSn"] or "",
            )
        )
        if row is None:
            raise RefusedError("FindDeviceBySnError")
        return row

    def _set(self, call: Call, status: int, effect: str) -> dict[str, Any]:
        row = self._row(call)
        if self._registry.status[row] != status:
            self._registry.status[row] = status
            call.effect = effect
        elif self._behaviour.mq_already == "error":
            raise RefusedError("ParameterFieldCheckFailed")
        return {"DeviceSn": self._registry.name(row).device_sn}

    def _delete(self, call: Call) -> dict[str, Any]:
        row = self._row(call)
        self._registry.delete(row)
        call.effect = "deleted"
        return {"DeviceSn": self._registry.name(row).device_sn}

    def _get(self, call: Call) -> dict[str, Any]:
        return {"Data": self._item(self._row(call))}

    def _list(self, call: Call) -> dict[str, Any]:
        behaviour = self._behaviour
        number = _page_number(call.query.get("PageNo"), behaviour.mq_max_page)
        size = _page_number(call.query.get("PageSize"), _LARGEST_PAGE)
        by_ca = call.action == "ListDeviceCertificateByCaSn"
        instance = call.query["MqttInstanceId"] or ""
        ca_sn = call.query["CaSn"] if by_ca else None
        total, rows = self._registry.page(instance, ca_sn, (number - 1) * size, size)
        # the vendor's pages explain Total differently for the two actions
        counts_rows = by_ca if behaviour.mq_total == "documented" else behaviour.mq_total == "rows"
        page = {
            "Total": total if counts_rows else -(-total // size),
            "PageNo": number,
            "PageSize": size,
            "DeviceCertificateVOS": [self._item(row) for row in rows],
        }
        return {"Data": page}

    def _item(self, row: int) -> dict[str, str]:
        name = self._registry.name(row)
        content = b64encode("\n".join(name).encode()).decode()
        ends_s = self._valid_from_s + self._behaviour.certificate_life * DAY_S
        return {
            "CaSn": name.ca_sn,
            "DeviceSn": name.device_sn,
            "DeviceName": f"device-{name.device_sn}",
            "DeviceContent": "-----BEGIN DEVICECERTIFICATE-----\n"
            f"{content}\n-----END DEVICECERTIFICATE-----",
            "Status": str(self._registry.status[row]),
            "ValidBegin": f"{self._valid_from_s}000",
            "ValidEnd": f"{ends_s}000",
        }

    def _ok(self, document: dict[str, Any]) -> Reply:
        request_id = self._request_id()
        body = orjson.dumps({"RequestId": request_id, **document})
        return Reply("OK", 200, body, headers=(("x-acs-request-id", request_id),))

    def _refusal(self, code: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
        if refusal := SERVICE.get(code):
            by_pages = self._behaviour.mq_statuses == "pages"
            message, status = refusal.message, refusal.status if by_pages else refusal.noticed
        else:
            message, status = GATEWAY.get(code, ("Refused", 400))
            if self._behaviour.mq_gateway_statuses == "400":
                status = 400
        return self._error(code, message, status, headers)

    def _throttled(self, header: str) -> Reply:
        behaviour = self._behaviour
        code = behaviour.mq_throttle_code
        message = SERVICE[code].message if code in SERVICE else GATEWAY[code][0]
        wait_ms = behaviour.retry_after * 1000
        headers: tuple[tuple[str, str], ...] = ()
        if header == "x-acs-retry-after":
            headers = (("x-acs-retry-after", str(wait_ms)),)
        elif header == "x-ratelimit":
            value = f"Limit:{behaviour.limit},Remain:0,TimeLeft:{wait_ms},Reset:{wait_ms}"
            headers = (("x-ratelimit-user-api", value),)
        if behaviour.mq_throttle_status == "302":
            headers = (*headers, ("Location", f"{REDIRECTED}{self.provider}"))
        return self._error(code, message, int(behaviour.mq_throttle_status), headers)

    def _error(
        self, code: str, message: str, status: int, headers: tuple[tuple[str, str], ...]
    ) -> Reply:
        request_id = self._request_id()
        document = {
            "RequestId": request_id,
            "HostId": "onsmqtt.simulator.invalid",
            "Code": code,
            "Message": message,
            "Recommend": f"https://api.simulator.invalid/troubleshoot?q={code}&product=OnsMqtt",
        }
        headers = (*headers, ("x-acs-request-id", request_id))
        return Reply(code, status, orjson.dumps(document), headers=headers)

    def _request_id(self) -> str:
        seed = self._behaviour.seed & 0xFFFFFFFF
        return f"{seed:08X}-0000-4000-8000-{next(self._request_ids):012X}"


class Sources:
    """Source addresses: how much they send, and which of them are blocked."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._windows: dict[str, SlidingWindow] = {}
        self._blocked_until_us: dict[str, int] = {}

    def blocks(self, source: str, action: str, at_us: int) -> bool:
        """Whether an arrival from this address is not let in; the first one too many blocks it."""
        behaviour = self._behaviour
        if at_us < self._blocked_until_us.get(source, 0):
            return True
        scope = f"{source}\0{action}" if behaviour.mq_source_scope == "api" else source
        window = self._windows.get(scope)
        if window is None:
            window = self._windows[scope] = SlidingWindow(behaviour.mq_source_limit)
        if window.admits(at_us):
            return False
        self._blocked_until_us[source] = at_us + int(behaviour.mq_block_for * SECOND_US)
        return True


class Nonces:
    """The nonces that were used, for as long as a date is good."""

    def __init__(self, life_us: int) -> None:
        self._life_us = life_us
        self._turned_at_us = 0
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def is_new(self, nonce: str, at_us: int) -> bool:
        """Whether a nonce is new; it is used from now on."""
        # a date may be as far in the future as in the past, so a nonce counts for twice its life
        if at_us - self._turned_at_us >= 2 * self._life_us:
            self._older, self._recent = self._recent, set()
            self._turned_at_us = at_us
        if nonce in self._recent or nonce in self._older:
            return False
        self._recent.add(nonce)
        return True


def _page_number(text: str | None, most: int) -> int:
    """A page number or page size; both are text."""
    if not text or not text.isdecimal() or int(text) < 1 or (most and int(text) > most):
        raise RefusedError("ParameterFieldCheckFailed")
    return int(text)
