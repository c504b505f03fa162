"""Parse single values of a job file.

In: one value as `tomllib` returns it. Out: the checked value, or a `ValueError` with a reason that
completes a sentence such as "limits.in_flight ...". Pure. A reason must never quote an endpoint:
people put credentials into URLs.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from bulkcert.jobfile.faults import CredentialError
from bulkcert.keyspec import KINDS, parse_template
from bulkcert.values import kind_of, shown, text

_MAX_NAME_BYTES = 200  # most file systems allow 255, and suffixes are added
_NO_URL = "must be a URL such as https://apim.example.com"
_NO_PROXY = "must be a URL such as http://proxy.example.com:3128"
_NO_DELIMITERS = "\" '\r\n\0"
_NO_ENCODINGS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
"""They escape characters within names, or are only for names on the Internet."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_PATH = re.compile(r"[\w/.~%:;,=+!$&'()*-]*", re.ASCII)


def number(least: float, most: float) -> Callable[[object], float]:
    """Make a parser for numbers in a range, both ends included."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"must be a number, not {kind_of(value)}")
        if not least <= value <= most:  # rejects NaN too
            raise ValueError(f"must be from {least} to {most}, not {shown(value)}")
        return float(value)

    return parse


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """Make a parser for whole numbers in a range, both ends included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {kind_of(value)}")
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}, not {shown(value)}")
        return value

    return parse


def environment_variable(value: object) -> str:
    """Parse the name of an environment variable. It may be the secret itself, by mistake."""
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise CredentialError(
            "must be the name of an environment variable, such as P12_PASSWORD, not the password"
            " itself"
        )
    return value


def folder_name(value: object) -> str:
    """Parse a name that can also be the name of a folder."""
    name = text(value)
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise ValueError(f"must be usable as a folder name, not {shown(name)}")
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"is longer than {_MAX_NAME_BYTES} bytes: {shown(name)}")
    return name


def endpoint(value: object) -> str:
    """Parse a base URL: `https://`, or `http://` on a loopback host; drops trailing slashes.

    Raises:
        CredentialError: it seems to contain a user name or password.
    """
    url = text(value)
    if "@" in url:
        raise CredentialError("contains @, which suggests a user name or password")
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or fragment (? or #)")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_NO_URL) from None
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(
            "must begin with https://; http:// is for loopback addresses only, such as 127.0.0.1"
        )
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    if (
        parts.scheme not in {"http", "https"}
        or not (_HOST.fullmatch(host) or _address(host))
        or not _PATH.fullmatch(parts.path)
        or parts.netloc.lower() != authority  # contains something besides host and port
    ):
        raise ValueError(_NO_URL)
    return f"{parts.scheme}://{authority}{parts.path}".rstrip("/")


def proxy(value: object) -> str:
    """Parse the URL of an HTTP proxy, perhaps with a user name and a password."""
    url = text(value)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or ""), parts.port
    except ValueError:
        raise ValueError(_NO_PROXY) from None
    if parts.scheme == "https":
        raise ValueError(
            "must begin with http://; what is sent to the provider is encrypted anyway"
        )
    if (
        parts.scheme != "http"
        or not (_HOST.fullmatch(host) or _address(host))
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(_NO_PROXY)
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    user, at, _ = parts.netloc.rpartition("@")
    return f"http://{user}{at}{authority}"


def source_addresses(value: object) -> tuple[str, ...]:
    """Parse a list of IP addresses, and return each in its canonical form."""
    if not isinstance(value, list):
        raise ValueError(f"must be a list of IP addresses, not {kind_of(value)}")
    addresses: list[str] = []
    for item in value:
        address = _address(text(item))
        if address is None or address.is_unspecified or address.is_multicast:
            raise ValueError(f"must list IP addresses of this machine; {shown(item)} is not one")
        if str(address) in addresses:
            raise ValueError(f"lists {address} twice")
        addresses.append(str(address))
    if not addresses:
        raise ValueError("is empty; leave it out to let the system choose the source address")
    return tuple(addresses)


def key_kind(value: object) -> str:
    """Parse the kind of key pair to generate."""
    kind = text(value).lower()
    if kind not in KINDS:
        raise ValueError(f"must be {' or '.join(KINDS)}, not {shown(value)}")
    return kind


def delimiter(value: object) -> str:
    """Parse the character between two cells of CSV."""
    if not isinstance(value, str):
        raise ValueError(f'must be one character, such as ";" or "\\t", not {kind_of(value)}')
    if len(value) != 1:
        raise ValueError(f'must be one character, such as ";" or "\\t", not {shown(value)}')
    if value.isalnum() or value in _NO_DELIMITERS:
        raise ValueError(f"can't be {shown(value)}, which may be part of a cell")
    return value


def encoding(value: object) -> str:
    """Parse a text encoding, by any of its names in Python."""
    name = text(value)
    try:
        codec = codecs.lookup(name)
        "".encode(codec.name)  # not if it makes something else than text
    except (LookupError, ValueError):
        raise ValueError(
            f"{shown(name)} is not a text encoding; known are utf-8, utf-16, gb18030, cp1252 and"
            " the others that Python has"
        ) from None
    if codec.incrementaldecoder is None or codec.name in _NO_ENCODINGS:
        raise ValueError(f"{shown(name)} is not an encoding of text files")
    return codec.name


def subject_template(value: object) -> str:
    """Parse the subject of certificate signing requests; `{field}`s in it are left as they are."""
    template = text(value)
    parse_template(template)
    return template


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
