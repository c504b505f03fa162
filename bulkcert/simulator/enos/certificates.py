"""The EnOS certificate API: `list`, `revoke`, `renew`, `apply`; and `products?action=get`.

In: an authenticated call. Out: its response in the business envelope
`{code, msg, requestId, data}`, and the change that it made to the fleet. All changes are made
before the first await: if the response is lost, the change stays, as with the vendor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any

import orjson

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.enos.authority import ISSUERS, Authority, format_name
from bulkcert.simulator.enos.fleet import (
    AUTHORITIES,
    EXPIRED,
    NOT_REVOKED,
    REVOKED,
    Fleet,
    Identity,
)
from bulkcert.simulator.enos.issuance import Issuance
from bulkcert.simulator.enos.refusals import (
    BAD_ARGUMENT,
    NO_DEVICE,
    NO_PRODUCT,
    RefusedError,
    bad_device,
    bad_parameter,
    failed,
    missing,
    not_bound,
)
from bulkcert.simulator.exchange import Call, CertificateState, Response

REASONS = {
    0: "UNSPECIFIED",
    1: "KEY COMPROMISE",
    3: "AFFILIATION CHANGED",
    4: "SUPERSEDED",
    5: "CESSATION OF OPERATION",
    6: "CERTIFICATE HOLD",
    9: "PRIVILEGE WITHDRAWN",
}
REVOKER = "IoT_Hub"
_DATES = ("signDate", "effetiveDate", "expireDate")
_ODD_ITEM = {
    "certSN": str(2**159 + 12345),  # 20 bytes, the most that RFC 5280 allows
    "cert": None,
    "certStatus": 9,
    "issuer": "CN=Another CA",
    "subject": "CN=unknown",
    "isEnosCert": False,
}
_INT64_MAX = 2**63 - 1


class CertificateService:
    """The certificates of one organization."""

    def __init__(self, behaviour: Behaviour, fleet: Fleet, authority: Authority) -> None:
        self._behaviour = behaviour
        self._fleet = fleet
        self._authority = authority
        self._issuance = Issuance(behaviour, fleet, authority)
        self._request_ids = count(1)

    def refusal(self, code: int, message: str) -> Response:
        """A refusal in the business envelope."""
        body = {"code": code, "msg": message, "requestId": self._request_id(), "data": None}
        return Response(code, self._behaviour.business_error_http, orjson.dumps(body))

    async def list_all(self, call: Call) -> Response:
        """Respond to `action=list`: all certificates of the device."""
        identity = identify(call.query)
        device = self._device(identity)
        now_s = _now_s(call)
        rows = self._fleet.rows(device, identity)
        items = [await self._item(row, call, now_s) for row in rows]
        if self._behaviour.odd_items:
            items.append(_ODD_ITEM)
        return self._ok(None if self._behaviour.null_lists and not items else items)

    async def revoke(self, call: Call) -> Response:
        """Respond to `action=revoke`."""
        _, row = self._named_certificate(call)
        reason = self._reason(call)
        now_s = _now_s(call)
        status = self._fleet.status(row, now_s)
        if status == REVOKED:
            return self._revoke_again()
        if status == EXPIRED and self._behaviour.revoke_expired == "refused":
            raise failed("Revoke", "the certificate has expired")
        self._fleet.revoke(row, reason, now_s)
        call.effect = "revoked"
        return self._ok(None)

    async def renew(self, call: Call) -> Response:
        """Respond to `action=renew`."""
        device, old = self._named_certificate(call)
        row = self._issuance.renew(device, old, partial(self.parameter, call), _now_s(call))
        call.effect = "renewed"
        return await self._granted(call, row)

    async def apply(self, call: Call) -> Response:
        """Respond to `action=apply`."""
        identity = identify(call.query)
        device = self._device(identity)
        self._fleet.rows(device, identity)
        row = self._issuance.apply(device, partial(self.parameter, call), _now_s(call))
        call.effect = "applied"
        return await self._granted(call, row)

    async def get_product(self, call: Call) -> Response:
        """Respond to `products?action=get`: the product's rules for certificates."""
        product_key = call.query.get("productKey")
        if not product_key:
            raise missing("productKey")
        if not self._fleet.has_product(product_key):
            raise RefusedError(NO_PRODUCT)
        behaviour = self._behaviour
        return self._ok(
            {
                "orgId": call.query.get("orgId"),
                "productKey": product_key,
                "productName": {"defaultValue": product_key, "i18nValue": {}},
                "biDirectionalAuth": behaviour.bi_directional_auth,
                "defaultValidDay": behaviour.product_default_valid_day,
                "maxValidDay": behaviour.product_max_valid_day,
            }
        )

    def parameter(self, call: Call, name: str) -> Any:
        """A parameter from the body, or else from the query."""
        value = call.document.get(name) if isinstance(call.document, dict) else None
        if value is None and self._behaviour.parameters_in_query:
            text = call.query.get(name)
            return int(text) if text and text.removeprefix("-").isdecimal() else text
        return value

    def states(self, identity: Identity, now_s: int) -> list[CertificateState]:
        """The certificates of a device, oldest first; none before a call mentions the device."""
        fleet = self._fleet
        return [
            CertificateState(
                fleet.serial[row],
                ("valid", "revoked", "expired")[fleet.status(row, now_s)],
                None if fleet.reason[row] == NOT_REVOKED else fleet.reason[row],
                self._authority.made_pem(row),
            )
            for device in fleet.known(identity)
            for row in fleet.bound(device)
        ]

    def _ok(self, data: Any) -> Response:
        body = {"code": 0, "msg": "OK", "requestId": self._request_id(), "data": data}
        return Response(0, 200, orjson.dumps(body))

    async def _granted(self, call: Call, row: int) -> Response:
        fleet, authority = self._fleet, self._authority
        call.issued = fleet.serial[row]
        kind = AUTHORITIES[fleet.authority[row]]
        root = await authority.root(fleet.authority[row])
        data = {
            "certChainURL": f"{authority.portal}/enos/CA/cacert/{kind}",
            "caCert": root.rstrip("\n"),
            "cert": await authority.pem(row),
            "certSN": str(fleet.serial[row]),
            "issueAuthority": kind,
        }
        if not self._behaviour.ca_cert:
            del data["caCert"]
        return self._ok(data)

    def _device(self, identity: Identity) -> int:
        if not identity.lookup_keys():
            raise bad_device()
        devices = self._fleet.devices(identity)
        if not devices:
            raise RefusedError(NO_DEVICE)
        if len(devices) > 1:
            if self._behaviour.conflicting_device == "refused":
                raise bad_device()
            return self._fleet.devices(identity._replace(product_key="", device_key=""))[0]
        return devices[0]

    def _named_certificate(self, call: Call) -> tuple[int, int]:
        """The device, and the row of the certificate that `certSn` identifies."""
        serial = self.parameter(call, "certSn")
        if serial in (None, ""):
            raise missing("certSn")
        if type(serial) is not int or serial > _INT64_MAX:
            raise bad_parameter("certSn is not an Integer")
        if serial < 0:
            raise RefusedError(
                BAD_ARGUMENT, "The serial number of the new certificate is invalid (less than 0)."
            )
        identity = identify(call.query)
        device = self._device(identity)
        for row in self._fleet.rows(device, identity, serial):
            if self._fleet.serial[row] == serial:
                return device, row
        raise not_bound()

    def _reason(self, call: Call) -> int:
        reason = self.parameter(call, "reason")
        if reason is None:
            return 0
        if type(reason) is int and reason in REASONS:
            return reason
        if self._behaviour.bad_reason == "unspecified":
            return 0
        raise bad_parameter("there is no such reason")

    def _revoke_again(self) -> Response:
        match self._behaviour.revoke_again:
            case "ok":
                return self._ok(None)
            case "unbound":
                raise not_bound()
            case "refused":
                raise failed("Revoke", "the certificate has been revoked")

    async def _item(self, row: int, call: Call, now_s: int) -> dict[str, Any]:
        fleet, behaviour = self._fleet, self._behaviour
        signed_ms = fleet.signed_at_s[row] * 1000
        reason = fleet.reason[row]
        org_id = call.query.get("orgId")
        item = {
            "certSN": str(fleet.serial[row]),
            "cert": await self._content(row),
            "certStatus": fleet.status(row, now_s),
            "issuer": format_name(ISSUERS[fleet.authority[row]]),
            "subject": format_name(self._authority.subject(row)),
            "signDate": signed_ms,
            "effetiveDate": signed_ms,  # the vendor's own spelling
            "expireDate": fleet.expires_at_s[row] * 1000,
            "audit": {
                "createBy": org_id,
                "createTime": signed_ms,
                "updateBy": org_id,
                "updateTime": fleet.revoked_at_s[row] * 1000 or signed_ms,
                "ns": org_id,
                "deleted": False,
            },
            "revoker": "" if reason == NOT_REVOKED else REVOKER,
            "revokerReason": "" if reason == NOT_REVOKED else REASONS[reason],
            "isEnosCert": True,
            "issueAuthority": AUTHORITIES[fleet.authority[row]],
        }
        if behaviour.list_dates == "text":
            item |= {name: str(item[name]) for name in _DATES}
        if not behaviour.list_authority:
            del item["issueAuthority"]
        return item

    async def _content(self, row: int) -> str:
        """The `cert` of a list item: PEM in the vendor's table, the serial number in its sample."""
        wanted = self._behaviour.list_cert
        if wanted == "serial" or (wanted == "issued" and not self._authority.has_issued(row)):
            return str(self._fleet.serial[row])
        pem = await self._authority.pem(row)
        return "".join(pem.splitlines()[1:-1]) if wanted == "base64" else pem

    def _request_id(self) -> str:
        seed = self._behaviour.seed & 0xFFFFFFFF
        return f"{seed:08x}-0000-4000-8000-{next(self._request_ids):012x}"


def identify(named: Mapping[str, str | None]) -> Identity:
    """The device that the parameters of a call identify."""
    return Identity(
        named.get("assetId") or "",
        named.get("productKey") or "",
        named.get("deviceKey") or "",
        named.get("orgId") or "",
    )


def _now_s(call: Call) -> int:
    return call.request.at_us // SECOND_US
