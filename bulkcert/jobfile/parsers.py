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
from datetime import date, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bulkcert.jobfile.faults import CredentialError
from bulkcert.keyspec import KINDS, parse_template
from bulkcert.quantities import number as shown_number
from bulkcert.rules import rollout
from bulkcert.rules import window as windows
from bulkcert.values import kind_of, shown, text

_MAX_NAME_BYTES = 200  # most file systems allow 255, and suffixes are added
_NO_URL = "must be a URL such as https://apim.example.com"
_NO_PROXY = "must be a URL such as http://proxy.example.com:3128"
_NO_DELIMITERS = "\" '\r\n\0"
_NO_ENCODINGS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
"""They escape characters within names, or are only for names on the Internet."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_SPANS = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
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


def operator(value: object) -> str:
    """Parse the operator's public key in PEM; see `operator_file` for its path."""
    if isinstance(value, str) and "-----BEGIN" in value:
        return operator_file(value.encode())
    text(value)  # raises what is wrong with any text
    raise ValueError("must be the path of a public key, or the key itself in PEM")


def operator_file(content: bytes) -> str:
    """Return the operator's public key that a file contains, in PEM."""
    from bulkcert.envelope import operator_key  # slow to import

    return operator_key(content)


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


_Item = TypeVar("_Item")


def list_of(parse: Callable[[Any], _Item], what: str) -> Callable[[object], tuple[_Item, ...]]:
    """Make a parser for a list that is not empty and repeats nothing.

    Args:
        parse: the parser for each item.
        what: what the list contains, such as "columns".
    """

    def parse_all(value: object) -> tuple[_Item, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list of {what}, not {kind_of(value)}")
        if not value:
            raise ValueError(f"is empty; it must be a list of {what}")
        parsed = tuple(parse(item) for item in value)
        for number, item in enumerate(parsed):
            if item in parsed[:number]:
                raise ValueError(f"has {shown(value[number])} twice")
        return parsed

    return parse_all


def list_of_words(value: object) -> tuple[str, ...]:
    """Parse a program and its arguments."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(
            f"must be a list of texts: the program, then its arguments, not {shown(value)}"
        )
    if not value or not value[0].strip():
        raise ValueError("must name a program")
    if any("\0" in word for word in value):
        raise ValueError("contains a NUL character")
    return tuple(value)


def duration(least_s: float, most_s: float) -> Callable[[object], float]:
    """Make a parser for durations such as "90s", "10m", "24h" or "2d"; the value is in seconds."""

    def parse(value: object) -> float:
        match = _SPANS.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(
                f'must be a duration such as "90s", "10m" or "24h", not {shown(value)}'
            )
        seconds = float(match[1]) * _SECONDS[match[2]]
        if not least_s <= seconds <= most_s:
            least, most = shown_number(least_s), shown_number(most_s)
            raise ValueError(f"must be from {least} to {most} seconds, not {shown(value)}")
        return seconds

    return parse


def moment(value: object) -> float:
    """Parse a date and time with its offset from UTC; the value is Unix time in seconds."""
    if not isinstance(value, datetime):
        raise ValueError(
            f"must be a date and time such as 2026-11-28T09:00:00Z, not {kind_of(value)}"
        )
    if value.tzinfo is None:
        local = value.isoformat()
        raise ValueError(f"must say its offset from UTC, such as {local}Z or {local}+01:00")
    return value.timestamp()


def day(value: object) -> date:
    """Parse a day."""
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError(f"must list days such as 2026-12-24, without quotes, not {shown(value)}")
    return value


def zone(value: object) -> ZoneInfo:
    """Parse the name of a time zone."""
    name = text(value)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: it is a folder of zones
        raise ValueError(
            f'must be the name of a time zone such as "Europe/Berlin" or "UTC", not {shown(name)}'
        ) from None


def opening(value: object) -> windows.Opening:
    """Parse days and hours such as "Mon-Fri 22:00-05:00"."""
    return windows.opening(text(value))


def order_key(value: object) -> rollout.OrderKey:
    """Parse a column to order by; a "-" in front of it means descending."""
    key = rollout.order_key(text(value))
    if not key.column:
        raise ValueError(f"must name columns, not {shown(value)}")
    return key


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
