"""The certificate requests of EnOS, without what authenticates them. Pure.

`certSn`, `reason` and the like go into the body: the vendor's older pages name them as query
parameters too, but all of its samples, and its later pages, have them in the body alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import orjson

from bulkcert.model import Fields
from bulkcert.providers.base import MASK, Action, Sample
from bulkcert.providers.call import Request

JSON_HEADERS = (("Content-Type", "application/json;charset=UTF-8"),)
CERTIFICATES = "/connect-service/v2.0/certificates"


def revoke_request(org_id: str, fields: Fields) -> Request:
    """Ask to revoke one certificate (POST, action=revoke)."""
    return _certificate_request("POST", "revoke", org_id, fields, ("certSn", "reason"))


def renew_request(org_id: str, fields: Fields) -> Request:
    """Ask for a new certificate in place of one (POST, action=renew)."""
    in_body = ("certSn", "csr", "validDay", "issueAuthority")
    return _certificate_request("POST", "renew", org_id, fields, in_body)


def list_request(org_id: str, fields: Fields) -> Request:
    """Ask for all certificates of one device (GET, action=list)."""
    return _certificate_request("GET", "list", org_id, fields, ())


def _certificate_request(
    method: str, action: str, org_id: str, fields: Fields, in_body: tuple[str, ...]
) -> Request:
    query = (("action", action), *device(fields), ("orgId", org_id))
    body = {name: fields[name] for name in in_body if name in fields}
    encoded = "&".join([f"{name}={_quoted(value)}" for name, value in query])
    return Request(
        method,
        f"{CERTIFICATES}?{encoded}",
        query,
        orjson.dumps(body) if in_body else b"",
        JSON_HEADERS if in_body else (),
    )


def _quoted(value: str) -> str:
    plain = value.isascii() and value.isalnum()  # as most are, and `quote` takes long to see it
    return value if plain else quote(value, safe="")


def device(fields: Fields) -> tuple[tuple[str, str], ...]:
    """How the device is named in a query."""
    if "assetId" in fields:
        return (("assetId", str(fields["assetId"])),)
    return (
        ("deviceKey", str(fields["deviceKey"])),
        ("productKey", str(fields["productKey"])),
    )


def sample(action: Action, options: Mapping[str, str], fields: Fields) -> Sample:
    """Show the request that an action sends for a target."""
    request = REQUESTS[action.name](options["org_id"], fields)
    masked = dict.fromkeys(("apim-accesstoken", "apim-timestamp", "apim-signature"), MASK)
    return Sample(request, dict(request.headers) | masked)


REQUESTS = {
    "revoke": revoke_request,
    "renew": renew_request,
    "rotate": renew_request,
    "list": list_request,
}
"""The request that an action is about; for `rotate` the first of its two."""
