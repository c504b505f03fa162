"""The signature of requests to Alibaba Cloud: V3, ACS3-HMAC-SHA256. Pure.

Source: Alibaba Cloud documentation, "V3 request body and signature mechanism".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import quote

ALGORITHM = "ACS3-HMAC-SHA256"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()
"""`x-acs-content-sha256` of a request without a body."""


def canonical_query(query: Iterable[tuple[str, str]]) -> str:
    """Return a query in the form that is signed: sorted, and percent-encoded as in RFC 3986.

    Args:
        query: names and decoded values.
    """
    return "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query)
    )


def authorization(
    method: str,
    query: str,
    headers: Mapping[str, str],
    access_key_id: str,
    access_key_secret: str,
) -> str:
    """Return the header `Authorization` of a request to the path `/`.

    Args:
        method: HTTP method.
        query: see `canonical_query`.
        headers: the headers to sign, by lower-case name: `host`, `content-type` if there is one,
            and all that begin with `x-acs-`. `x-acs-content-sha256` is required.
        access_key_id, access_key_secret: the credentials.
    """
    names = sorted(headers)
    signed = ";".join(names)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    canonical = f"{method}\n/\n{query}\n{lines}\n{signed}\n{headers['x-acs-content-sha256']}"
    text = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(access_key_secret.encode(), text.encode(), "sha256").hex()
    return f"{ALGORITHM} Credential={access_key_id},SignedHeaders={signed},Signature={signature}"
