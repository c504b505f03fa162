"""Which kinds of keys can be made, and the subjects of the requests that they sign. Pure."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = ("rsa-2048", "ecdsa-p256")
"""What EnOS accepts: RSA of 2048 bits, or prime256v1."""

OIDS = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "EMAILADDRESS": "1.2.840.113549.1.9.1",
}
_ALIASES = {"S": "ST", "E": "EMAILADDRESS", "EMAIL": "EMAILADDRESS"}

Subject = Mapping[str, str]
"""Attributes of a distinguished name by their short names."""


def parse_subject(text: str) -> dict[str, str]:
    """Parse a distinguished name such as `C=CN, O=EnOS, CN=pump-7`; `\\,` stands for a comma.

    Raises:
        ValueError: with a reason that completes the sentence "the subject ...".
    """
    subject: dict[str, str] = {}
    for part in text.replace("\\,", "\0").split(","):
        name, equals, value = part.replace("\0", ",").partition("=")
        name = _ALIASES.get(name.strip().upper(), name.strip().upper())
        if not equals or name not in OIDS:
            raise ValueError(f"has {part.strip()!r}, which is none of {', '.join(OIDS)}")
        if name in subject:
            raise ValueError(f"names {name} twice")
        subject[name] = value.strip()
        if not subject[name]:
            raise ValueError(f"leaves {name} empty")
    return subject
