"""The EnOS certificate API: `list` and `revoke`.

In: a call that is authenticated. Out: its reply, and the change that it made to the fleet. The
shape is the business envelope `{code, msg, requestId, data}`. Texts that the vendor prints are its
own; where it only describes an error, the words that clients look for are in the text.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from bulkcert.simulator.behaviour import Behaviour
from bulkcert.simulator.clock import SECOND_US
from bulkcert.simulator.exchange import Call, Reply
from bulkcert.simulator.fleet import AUTHORITIES, EXPIRED, NOT_REVOKED, REVOKED, Fleet, Identity

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
ISSUERS = (
    "EMAILADDRESS=ca@example.com, CN=EnOS CA, OU=EnOS CA, O=EnOS, L=Shanghai, ST=Shanghai, C=CN",
    "EMAILADDRESS=ca@example.com, CN=EnOS ECC CA, OU=EnOS Cloud, O=EnOS, L=Shanghai, ST=Shanghai,"
    " C=CN",
)
_INT64_MAX = 2**63 - 1

BAD_DEVICE = "invalid argument: The device identifier is invalid"
NO_DEVICE = "Device cannot be found"
NOT_BOUND = (
    "The certificate list bound to the device does not have the certificate, "
    "or the certificate is bound to other devices."
)


class RefusedError(Exception):
    """The service refuses a call; ends its handling wherever that is found out."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class CertificateService:
    """The certificates of one organization."""

    def __init__(self, behaviour: Behaviour, fleet: Fleet) -> None:
        self._behaviour = behaviour
        self._fleet = fleet
        self._request_ids = count(1)

    def ok(self, data: Any) -> Reply:
        """Success in the business envelope."""
        body = {"code": 0, "msg": "OK", "requestId": self._request_id(), "data": data}
        return Reply(0, 200, orjson.dumps(body))

    def refusal(self, code: int, message: str) -> Reply:
        """A refusal in the business envelope."""
        body = {"code": code, "msg": message, "requestId": self._request_id(), "data": None}
        return Reply(code, self._behaviour.business_error_http, orjson.dumps(body))

    def list(self, call: Call) -> Reply:
        """Answer `action=list`: every certificate of the device."""
        identity = identify(call)
        device = self._device(identity)
        now_s = call.request.at_us // SECOND_US
        return self.ok([self._item(row, call, now_s) for row in self._fleet.rows(device, identity)])

    def revoke(self, call: Call) -> Reply:
        """Answer `action=revoke`."""
        behaviour, fleet = self._behaviour, self._fleet
        now_s = call.request.at_us // SECOND_US
        row = self._named_certificate(call)
        reason = self._reason(call)
        status = fleet.status(row, now_s)
        if status == REVOKED:
            return self._revoked_again()
        if status == EXPIRED and behaviour.revoke_expired == "refused":
            raise RefusedError(
                99400, "Revoke cert is failed!message: the certificate has expired, detail message:"
            )
        fleet.revoke(row, reason, now_s)
        call.effect = "revoked"
        return self.ok(None)

    def parameter(self, call: Call, name: str) -> Any:
        """A parameter from the body, or from the query if it is not in the body."""
        value = call.document.get(name) if isinstance(call.document, dict) else None
        if value is None and self._behaviour.cert_sn_in_query:
            text = call.query.get(name)
            return int(text) if text and text.removeprefix("-").isdecimal() else text
        return value

    def _device(self, identity: Identity) -> int:
        if not identity.lookup_keys() or "\0" in "".join(identity.lookup_keys()[:1]):
            raise RefusedError(99400, BAD_DEVICE)
        devices = self._fleet.devices(identity)
        if not devices:
            raise RefusedError(11404, NO_DEVICE)
        if len(devices) > 1:
            if self._behaviour.conflicting_device == "refused":
                raise RefusedError(99400, BAD_DEVICE)
            return self._fleet.devices(Identity(identity.asset_id))[0]
        return devices[0]

    def _named_certificate(self, call: Call) -> int:
        """The row of the certificate that `certSn` names."""
        serial = self.parameter(call, "certSn")
        if serial in (None, ""):
            raise RefusedError(99400, "Invalid Argument certSn:certSn is missing")
        if type(serial) is not int or serial > _INT64_MAX:
            raise RefusedError(
                99400,
                "When calling Certificate Services, the call parameters are invalid."
                "message: certSn is not an Integer, detail message:",
            )
        if serial < 0:
            raise RefusedError(
                99400, "The serial number of the new certificate is invalid (less than 0)."
            )
        identity = identify(call)
        device = self._device(identity)
        for row in self._fleet.rows(device, identity, serial):
            if self._fleet.serial[row] == serial:
                return row
        raise RefusedError(99400, NOT_BOUND)

    def _reason(self, call: Call) -> int:
        reason = self.parameter(call, "reason")
        if reason is None:
            return 0
        if type(reason) is int and reason in REASONS:
            return reason
        if self._behaviour.bad_reason == "unspecified":
            return 0
        raise RefusedError(
            99400,
            "When calling Certificate Services, the call parameters are invalid."
            "message: no such reason, detail message:",
        )

    def _revoked_again(self) -> Reply:
        match self._behaviour.revoke_again:
            case "ok":
                return self.ok(None)
            case "unbound":
                raise RefusedError(99400, NOT_BOUND)
            case "refused":
                raise RefusedError(
                    99400,
                    "Revoke cert is failed!message: the certificate has been revoked, "
                    "detail message:",
                )

    def _item(self, row: int, call: Call, now_s: int) -> dict[str, Any]:
        fleet = self._fleet
        serial = str(fleet.serial[row])
        signed_ms = fleet.signed_at_s[row] * 1000
        reason = fleet.reason[row]
        changed_ms = fleet.revoked_at_s[row] * 1000 or signed_ms
        org_id = call.query.get("orgId")
        return {
            "certSN": serial,
            "cert": serial,
            "certStatus": fleet.status(row, now_s),
            "issuer": ISSUERS[fleet.authority[row]],
            "subject": f"EMAILADDRESS=device@example.com, OU=EnOS, CN=device-{serial}, O=EnOS, "
            "L=Shanghai, ST=Shanghai, C=CN",
            "signDate": signed_ms,
            "effetiveDate": signed_ms,  # the vendor's own spelling
            "expireDate": fleet.expires_at_s[row] * 1000,
            "audit": {
                "createBy": org_id,
                "createTime": signed_ms,
                "updateBy": org_id,
                "updateTime": changed_ms,
                "ns": org_id,
                "deleted": False,
            },
            "revoker": "" if reason == NOT_REVOKED else REVOKER,
            "revokerReason": "" if reason == NOT_REVOKED else REASONS[reason],
            "isEnosCert": True,
            "issueAuthority": AUTHORITIES[fleet.authority[row]],
        }

    def _request_id(self) -> str:
        return (
            f"{self._behaviour.seed & 0xFFFFFFFF:08x}-0000-4000-8000-{next(self._request_ids):012x}"
        )


def identify(call: Call) -> Identity:
    """How a call names its device."""
    query = call.query
    return Identity(
        query.get("assetId") or "", query.get("productKey") or "", query.get("deviceKey") or ""
    )
