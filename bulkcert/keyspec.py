"""The kinds of keys that can be made, and the subject of a certificate signing request. Pure.

In: a distinguished name as text, as RFC 4514 or Java writes it. Out: its attributes. Must never
change a name: what can't be read for certain is refused. The cryptographic library is imported only
where a name is parsed, because most commands do without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bulkcert.values import shown

if TYPE_CHECKING:
    from cryptography import x509

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
    "DC": "0.9.2342.19200300.100.1.25",
    "STREET": "2.5.4.9",
    "UID": "0.9.2342.19200300.100.1.1",
    "SERIALNUMBER": "2.5.4.5",
    "SURNAME": "2.5.4.4",
    "GIVENNAME": "2.5.4.42",
    "INITIALS": "2.5.4.43",
    "GENERATION": "2.5.4.44",
    "T": "2.5.4.12",
    "DNQUALIFIER": "2.5.4.46",
    "POSTALCODE": "2.5.4.17",
}
"""Object identifiers of the attributes that a subject may have; the first seven in the usual order.

Source: RFC 4519; RFC 2985 for EMAILADDRESS. The names are those of RFC 4514 and of Java.
"""

_NAMES = {oid: name for name, oid in OIDS.items()}
_ALIASES = {
    "S": "ST",
    "E": "EMAILADDRESS",
    "EMAIL": "EMAILADDRESS",
    "TITLE": "T",
    "DNQ": "DNQUALIFIER",
    "GN": "GIVENNAME",
    "USERID": "UID",
}
_USUAL_ORDER = [OIDS[name] for name in ("DC", "C", "ST", "L", "O", "OU", "CN", "EMAILADDRESS")]

_DOTTED = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_ATTRIBUTE = re.compile(
    r"""
    [ ]* (?P<name> [^=,+"\\]*? ) [ ]* = [ ]*
    (?: "(?P<quoted> (?: [^"\\] | \\. )* )" | (?P<plain> (?: [^"\\,+] | \\. )*? ) )
    [ ]* (?P<end> [,+] | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_SPECIAL = re.compile(r"(\\.)|([ #=+,;<>])", re.DOTALL)
_LONGEST = 4096  # characters

Attribute = tuple[str, str]
"""The dotted object identifier of an attribute, and its value."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A distinguished name.

    Attributes:
        rdns: its relative distinguished names in the order of the encoding, usually from the
            country down. Nearly all of them have one attribute.
    """

    rdns: tuple[tuple[Attribute, ...], ...]

    @classmethod
    def of(cls, name: x509.Name) -> Self:
        """Return the subject of a certificate or a signing request."""
        return cls(tuple(tuple((a.oid.dotted_string, str(a.value)) for a in r) for r in name.rdns))

    def filled(self, fields: Mapping[str, object]) -> Subject:
        """Replace each `{field}` in a value by the target's; a field can't add attributes.

        Raises:
            ValueError: with a reason that completes the sentence "the subject ...".
        """
        try:
            return Subject(
                tuple(
                    tuple((oid, value.format_map(fields)) for oid, value in rdn)
                    for rdn in self.rdns
                )
            )
        except KeyError as missing:
            raise ValueError(f"needs {missing.args[0]}, which the target does not have") from None


def short_name(oid: str) -> str:
    """Return the usual name of an attribute, such as CN; the object identifier if it has none."""
    return _NAMES.get(oid, oid)


def parse_subject(text: str) -> Subject:
    """Parse a distinguished name as RFC 4514 or Java writes it, such as `CN=pump-7, O=EnOS, C=CN`.

    Such a text begins with the last attribute of the encoding. A comma in a value is written `\\,`,
    or the value is in quotes.

    Raises:
        ValueError: with a reason that completes the sentence "the subject ...".
    """
    from cryptography import x509

    written = _as_rfc4514(text)
    try:
        return Subject.of(x509.Name.from_rfc4514_string(written))
    except ValueError as error:
        reason = str(error) or "it is not a distinguished name as in RFC 4514"
        raise ValueError(f"{shown(text)} can't be read: {reason}") from None


def parse_template(text: str) -> Subject:
    """Parse a distinguished name that a person wrote: in the order of RFC 4514, or the other way.

    A text that begins with the higher attribute, such as `C=CN, O=EnOS, CN={assetId}`, is in the
    order of the encoding.

    Raises:
        ValueError: with a reason that completes the sentence "the subject ...".
    """
    subject = parse_subject(text)
    ranks = [
        _USUAL_ORDER.index(oid) for [(oid, _), *_] in reversed(subject.rdns) if oid in _USUAL_ORDER
    ]
    as_encoded = bool(ranks) and ranks[0] < ranks[-1]
    return Subject(subject.rdns[::-1]) if as_encoded else subject


def _as_rfc4514(text: str) -> str:
    """Rewrite a distinguished name: identifiers for names, no blanks and quotes around values."""
    if len(text) > _LONGEST:
        raise ValueError(f"has more than {_LONGEST} characters")
    written, position = [], 0
    while True:
        match = _ATTRIBUTE.match(text, position)
        if match is None:
            part = shown(text[position:].strip())
            raise ValueError(f"contains {part}, which is not NAME=VALUE; quotes must be closed")
        part, value = match[0].rstrip(",+ ").lstrip(), match["plain"]
        if not (oid := _oid(match["name"])):
            known = ", ".join(list(OIDS)[:7])
            raise ValueError(f"contains {shown(part)}, which sets no known attribute, like {known}")
        if not (value or match["quoted"]):
            raise ValueError(f"sets {match['name']} to an empty value")
        if value is None:
            value = _SPECIAL.sub(lambda m: m[1] or f"\\{m[2]}", match["quoted"])
        elif value.startswith("#"):
            raise ValueError(f"contains {shown(part)}, an encoded value, which is not supported")
        written.append(f"{oid}={value}{match['end']}")
        position = match.end()
        if not match["end"]:
            return "".join(written)


def _oid(name: str) -> str:
    """Return the object identifier of an attribute's name; empty if it is unknown."""
    upper = name.upper()
    dotted = upper.removeprefix("OID.")
    return dotted if _DOTTED.fullmatch(dotted) else OIDS.get(_ALIASES.get(upper, upper), "")
