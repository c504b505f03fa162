"""The certificate requests of EnOS, before they are signed. Pure.

`certSn`, `reason` and the like go into the body. The vendor's older pages also list them as query
parameters, but all samples and the later pages show them only in the body. An `orgId` among the
fields takes precedence over the organization of the connection.
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
    """Ask for a new certificate that replaces another (POST, action=renew)."""
    in_body = ("certSn", "csr", "validDay", "issueAuthority")
    return _certificate_request("POST", "renew", org_id, fields, in_body)


def list_request(org_id: str, fields: Fields) -> Request:
    """Ask for all certificates of one device (GET, action=list)."""
    return _certificate_request("GET", "list", org_id, fields, ())


def with_authority(fields: Fields) -> Fields:
    """Add the authority that can sign the request `csr`, unless one was asked for."""
    # imported only where needed: X.509 takes long to load
    from bulkcert.providers.enos.issuance import issue_authority_for

    return {"issueAuthority": issue_authority_for(str(fields["csr"])), **fields}


def _certificate_request(
    method: str, action: str, org_id: str, fields: Fields, in_body: tuple[str, ...]
) -> Request:
    query = (("action", action), *device(fields), ("orgId", str(fields.get("orgId", org_id))))
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
    # most values need no quoting, and `quote` is slow to find that out
    plain = value.isascii() and value.isalnum()
    return value if plain else quote(value, safe="")


def device(fields: Fields) -> tuple[tuple[str, str], ...]:
    """The query parameters that name a device."""
    if "assetId" in fields:
        return (("assetId", str(fields["assetId"])),)
    return (
        ("deviceKey", str(fields["deviceKey"])),
        ("productKey", str(fields["productKey"])),
    )


def sample(action: Action, options: Mapping[str, str], fields: Fields) -> Sample:
    """Return the request that an action sends for a target, with everything secret masked."""
    if "-----BEGIN" in str(fields.get("csr", "")):  # not what stands for one that is yet to be made
        fields = with_authority(fields)
    request = REQUESTS[action.name](options.get("org_id", ""), fields)
    masked = dict.fromkeys(("apim-accesstoken", "apim-timestamp", "apim-signature"), MASK)
    return Sample(request, dict(request.headers) | masked)


REQUESTS = {
    "revoke": revoke_request,
    "renew": renew_request,
    "rotate": renew_request,
    "list": list_request,
}
"""The main request of each action; for `rotate`, the first of its two."""
