"""The `apim-signature` of EnOS calls, after the vendor's page "Invoke API with access token".

In: a call as received. Out: the signature that it should have. The body counts byte by byte.
"""

from __future__ import annotations

import hashlib

from bulkcert.simulator.exchange import Call


def sign(call: Call, token: str, timestamp: str, app_secret: str) -> str:
    """The signature of a call, lower-case hex SHA-256.

    The parameters are joined in byte order of their names, decoded. A name without a value counts
    as "null", as in the vendor's sample code.
    """
    query = call.query
    parameters = "".join(
        f"{name}{'null' if query[name] is None else query[name]}" for name in sorted(query)
    )
    head = f"{token}{parameters}".encode()
    return hashlib.sha256(
        head + call.request.body + f"{timestamp}{app_secret}".encode()
    ).hexdigest()
