"""The signature of Beacon requests: HMAC-SHA256 over method, target, time and body. Pure.

A real provider names the vendor's page here.
"""

from __future__ import annotations

import hashlib
import hmac

from bulkcert.providers.call import Request


def signature(request: Request, unix_time_s: int, secret: str) -> str:
    """Return the header `Beacon-Signature` of a request."""
    head = f"{request.method}\n{request.target}\n{unix_time_s}\n".encode()
    return hmac.new(secret.encode(), head + request.body, hashlib.sha256).hexdigest()
