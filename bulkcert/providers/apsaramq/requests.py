"""The requests of OnsMqtt 2020-04-20, before they are signed. Pure.

All parameters go into the query as text, even numbers; there are no bodies. Action and version are
headers, as in the vendor's own SDK. A `MqttInstanceId` among the fields takes precedence over the
instance of the connection.
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkcert.model import Fields
from bulkcert.providers.apsaramq.signature import ALGORITHM, canonical_query
from bulkcert.providers.base import MASK, Action, Sample
from bulkcert.providers.call import Request

VERSION = "2020-04-20"
PAGE_SIZE = 100
"""The most certificates per page that the vendor allows."""

_CHANGES = {
    "inactivate": "InactivateDeviceCertificate",
    "activate": "ActiveDeviceCertificate",
    "delete": "DeleteDeviceCertificate",
}


def change_request(action: str, instance_id: str, fields: Fields) -> Request:
    """Ask to inactivate, activate or delete one certificate (POST)."""
    return _request("POST", _CHANGES[action], _certificate(instance_id, fields))


def get_request(instance_id: str, fields: Fields) -> Request:
    """Ask for one certificate (GET)."""
    return _request("GET", "GetDeviceCertificate", _certificate(instance_id, fields))


def list_request(instance_id: str, fields: Fields) -> Request:
    """Ask for one page of the certificates of a CA, or of a whole instance (GET)."""
    query = {
        "MqttInstanceId": _instance(instance_id, fields),
        "PageNo": str(fields.get("PageNo", 1)),
        "PageSize": str(PAGE_SIZE),
    }
    if "CaSn" in fields:
        query["CaSn"] = str(fields["CaSn"])
        return _request("GET", "ListDeviceCertificateByCaSn", query)
    return _request("GET", "ListDeviceCertificate", query)


def sample(action: Action, options: Mapping[str, str], fields: Fields) -> Sample:
    """Return the request that an action sends for a target, with everything secret masked."""
    instance_id = options.get("instance_id", "")
    if action.name in _CHANGES:
        request = change_request(action.name, instance_id, fields)
    else:
        make = get_request if action.name == "get" else list_request
        request = make(instance_id, fields)
    masked = dict.fromkeys(("x-acs-date", "x-acs-signature-nonce"), MASK)
    return Sample(
        request, dict(request.headers) | masked | {"Authorization": f"{ALGORITHM} {MASK}"}
    )


def _certificate(instance_id: str, fields: Fields) -> dict[str, str]:
    return {
        "CaSn": str(fields["CaSn"]),
        "DeviceSn": str(fields["DeviceSn"]),
        "MqttInstanceId": _instance(instance_id, fields),
    }


def _instance(instance_id: str, fields: Fields) -> str:
    return str(fields.get("MqttInstanceId", instance_id))


def _request(method: str, action: str, parameters: Mapping[str, str]) -> Request:
    query = tuple(parameters.items())
    return Request(
        method,
        f"/?{canonical_query(query)}",
        query,
        headers=(("x-acs-action", action), ("x-acs-version", VERSION)),
    )
