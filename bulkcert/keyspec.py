"""The kinds of keys that can be made, and the subject of a certificate signing request. Pure.

In: a distinguished name as text. Out: its attributes. Must never import a cryptographic library:
`plan` checks job files with this module.
"""

from __future__ import annotations

from collections.abc import Mapping

KINDS = ("rsa-2048", "ecdsa-p256")
"""The kinds that EnOS accepts: RSA with 2048 bits, and ECDSA on P-256 (prime256v1)."""

OIDS = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "EMAILADDRESS": "1.2.840.113549.1.9.1",
}
"""Object identifiers of the attributes that a subject may have, in the usual order.

Source: RFC 4519; RFC 2985 for EMAILADDRESS.
"""

_ALIASES = {"S": "ST", "E": "EMAILADDRESS", "EMAIL": "EMAILADDRESS"}

Subject = Mapping[str, str]
"""The attributes of a distinguished name: short name, such as CN, to value."""


def parse_subject(text: str) -> dict[str, str]:
    """Parse a distinguished name such as `C=CN, O=EnOS, CN=pump-7`.

    A comma in a value is written `\\,`.

    Raises:
        ValueError: with a reason that completes the sentence "the subject ...".
    """
    subject: dict[str, str] = {}
    for part in text.replace("\\,", "\0").split(","):
        part = part.replace("\0", ",").strip()
        name, equals, value = part.partition("=")
        name = _ALIASES.get(name.strip().upper(), name.strip().upper())
        if not equals or name not in OIDS:
            raise ValueError(f"contains {part!r}, which does not set any of {', '.join(OIDS)}")
        if name in subject:
            raise ValueError(f"sets {name} more than once")
        subject[name] = value.strip()
        if not subject[name]:
            raise ValueError(f"sets {name} to an empty value")
    return subject
