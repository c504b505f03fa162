"""PEM text: the one block that is meant, and nothing of what stands beside it. Pure.

In: text that people put into a cell, a file or a job. Out: the block of its certificate signing
request, written anew; or all blocks, for those who look for a key. Must never quote a part of the
text in a message, nor return with a request what stands beside it: people keep private keys there.
"""

from __future__ import annotations

import base64
import re
import textwrap

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_PRIVATE_KEY = re.compile(
    r"(BEGIN|END) [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|Private-(Lines|MAC|Hash):"
)
_KEY_BEGINS = re.compile("BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File-|Private-Lines:")
_KEY_ENDS = re.compile("END [A-Z0-9 ]*PRIVATE KEY|Private-(MAC|Hash):")
_REQUESTS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
_OTHERS = {
    "CERTIFICATE": "a certificate",
    "TRUSTED CERTIFICATE": "a certificate",
    "PUBLIC KEY": "a public key",
    "RSA PUBLIC KEY": "a public key",
}

PRIVATE_KEY_FOUND = (
    "contains a private key, which must not leave the machine it was made on; "
    "give the certificate signing request alone"
)
"""The reason for refusing text with a private key."""


def blocks(text: str) -> list[tuple[str, str]]:
    """Find all blocks of PEM text: the label and the body of each, in order."""
    return _BLOCK.findall(text)


def as_der(body: str) -> bytes:
    """Decode the body of a block.

    Raises:
        ValueError: it is not base64.
    """
    return base64.b64decode("".join(body.split()), validate=True)


def has_private_key(text: str) -> bool:
    """Whether text contains a private key of any kind, or the begin or the end of one."""
    # most texts have none, and the search for a substring is fast
    if "PRIVATE KEY" not in text and "PuTTY-" not in text and "Private-" not in text:
        return False
    return _PRIVATE_KEY.search(text) is not None


def private_key_goes_on(text: str) -> bool:
    """Whether a private key begins in text and does not end there."""
    begins = [match.start() for match in _KEY_BEGINS.finditer(text)]
    ends = [match.start() for match in _KEY_ENDS.finditer(text)]
    return bool(begins) and max(begins) > max(ends, default=-1)


def signing_request(text: str) -> tuple[str, bytes]:
    """Find the one certificate signing request in PEM text.

    Returns:
        The request in PEM, with lines of 64 characters and nothing else; and as DER.

    Raises:
        ValueError: with a reason that completes the sentence "csr ...".
    """
    if has_private_key(text):
        raise ValueError(PRIVATE_KEY_FOUND)
    found = blocks(text)
    requests = [(label, body) for label, body in found if label in _REQUESTS]
    if not requests:
        others = [_OTHERS[label] for label, _ in found if label in _OTHERS]
        raise ValueError(
            f"is {others[0]}, not a certificate signing request"
            if others
            else "is not a readable certificate signing request in PEM"
        )
    if len(requests) > 1:
        raise ValueError(f"contains {len(requests)} certificate signing requests; give only one")
    [(label, body)] = requests
    try:
        der = as_der(body)
    except ValueError:
        raise ValueError("is not a readable certificate signing request in PEM") from None
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]), der
