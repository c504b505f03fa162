"""The signature of EnOS requests: SHA-256 over access token, query, body and time. Pure.

Source: EnOS documentation, "Invoke API with access token" (unchanged from 2.1.0 to 2.4.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def token_digest(app_key: str, timestamp_ms: int, app_secret: str) -> str:
    """Return the field `encryption` of a token request."""
    return hashlib.sha256(f"{app_key}{timestamp_ms}{app_secret}".encode()).hexdigest()


def signature(
    access_token: str,
    query: Iterable[tuple[str, str]],
    body: bytes,
    timestamp_ms: int,
    app_secret: str,
) -> str:
    """Return the header `apim-signature` of an API call.

    Args:
        access_token: the token in use.
        query: names and decoded values of all query parameters.
        body: the body exactly as sent; empty if there is none.
        timestamp_ms: milliseconds since 1970, as in the header `apim-timestamp`.
        app_secret: secret of the application.
    """
    parameters = "".join([name + value for name, value in sorted(query)])
    before, after = f"{access_token}{parameters}", f"{timestamp_ms}{app_secret}"
    return hashlib.sha256(before.encode() + body + after.encode()).hexdigest()
