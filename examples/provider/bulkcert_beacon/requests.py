"""The requests of Beacon, before they are signed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

from bulkcert.model import Fields
from bulkcert.providers.base import MASK, Action, Sample
from bulkcert.providers.call import Request


def account_request(account: str) -> Request:
    """Ask whether the account exists; changes nothing."""
    return Request("GET", _path(account))


def get_request(account: str, fields: Fields) -> Request:
    """Ask for one certificate."""
    return Request("GET", _path(account, "certificates", fields["serial"]))


def suspend_request(account: str, fields: Fields) -> Request:
    """Ask to suspend one certificate."""
    body = {"reason": fields["reason"]} if "reason" in fields else {}
    return Request(
        "POST",
        _path(account, "certificates", fields["serial"], "suspend"),
        body=json.dumps(body).encode(),
        headers=(("Content-Type", "application/json"),),
    )


def sample(action: Action, options: Mapping[str, str], fields: Fields) -> Sample:
    """Return the request that an action sends for a target, with everything secret masked."""
    make = suspend_request if action.name == "suspend" else get_request
    request = make(options["account"], fields)
    masked = dict.fromkeys(("Beacon-Key", "Beacon-Time", "Beacon-Signature"), MASK)
    return Sample(request, dict(request.headers) | masked)


def _path(account: str, *more: object) -> str:
    return "/v1/accounts/" + "/".join(quote(str(part), safe="") for part in (account, *more))
