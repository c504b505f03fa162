"""From the bytes of a job file to a checked `Job`.

In: TOML, UTF-8, at most 1 MiB. Out: a `Job`, or one `JobError` that lists every fault. Each section
is a table of key to parser, so that a new key is one line.

It must never read credentials, from the job file or from elsewhere, nor repeat in a message the
value of anything that looks like one. Whether the target file is usable is for `bulkcert.targets`.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bulkcert.errors import JobError
from bulkcert.keyspec import KINDS, parse_subject
from bulkcert.model import Fields
from bulkcert.providers import PROVIDERS
from bulkcert.providers.base import Action, Keys, Provider
from bulkcert.values import kind_of, shown, text

Parser = Callable[[object], Any]
"""Checks one value; raises `ValueError` with a reason that completes "limits.in_flight ..."."""

Table = Mapping[str, Parser]

_LARGEST_FILE = 2**20  # bytes
_LONGEST_NAME = 200  # bytes; folder names may have 255
_MOST_FAULTS = 50
_CORRECT_JOB = "Correct the job file, then check it with `bulkcert plan`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the provider is reached.

    Attributes:
        endpoint: base URL, `https://`, or `http://` on a loopback host; no trailing slash. Made of
            the `region` when the job gives that instead.
        ca_file: PEM file of a CA to trust besides the system's.
        source_addresses: IP addresses of this machine to send from; empty leaves it to the system.
        options: the provider's own keys, such as `org_id`.
    """

    endpoint: str
    ca_file: Path | None = None
    source_addresses: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard the provider may be used.

    Attributes:
        requests_per_second: hard ceiling over everything that is sent, in any rolling second.
        in_flight: most requests open at once.
        requests_per_second_per_source_ip: the same for each address that is sent from, or None.
        request_timeout_seconds: how long an answer may take, from when the request left.
    """

    requests_per_second: float
    in_flight: int = 1000
    requests_per_second_per_source_ip: float | None = None
    request_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often an operation is tried: `max_attempts` requests; throttled ones do not count."""

    max_attempts: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a run gives up as a whole.

    Attributes:
        failing_share: share of failing answers, 0 to 1, from which a provider counts as failing;
            above 1 switches the circuit breaker off.
        stop_after_seconds: how long the provider may go on failing before the run stops.
    """

    failing_share: float = 0.95
    stop_after_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked job: what to do, to which targets, how fast. `targets` is None for standard input.

    Attributes:
        action: as the provider declares it, less the fields that `select` or `keys` stand in for.
        select: conditions for certificates, where targets name only devices.
        keys: how key pairs are made, if they are.
        columns: field name to the header that the target file uses for it.
        warnings: what the operator should know before it runs, one sentence each.
    """

    name: str
    provider: Provider
    action: Action
    targets: Path | None
    connection: Connection
    limits: Limits
    parameters: Fields = field(default_factory=dict)
    select: Mapping[str, Any] = field(default_factory=dict)
    keys: Keys | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    retry: Retry = Retry()
    circuit_breaker: BreakerSettings = BreakerSettings()
    warnings: tuple[str, ...] = ()

    @property
    def requests_per_operation(self) -> int:
        """Fewest requests that an operation takes, with the look-ups that it begins with."""
        subject_is_looked_up = self.keys is not None and not self.keys.subject
        return self.action.requests + bool(self.select) + subject_is_looked_up

    @property
    def ceiling(self) -> float:
        """Most requests in any rolling second: by the account, or by its addresses together."""
        limits = self.limits
        each = limits.requests_per_second_per_source_ip
        return min(limits.requests_per_second, math.inf if each is None else each * self._sources)

    @property
    def bound_by(self) -> str:
        """The limit that the ceiling comes from, and how it stands to the other one."""
        limits = self.limits
        account, each = limits.requests_per_second, limits.requests_per_second_per_source_ip
        if each is None:
            return "the limit of the account"
        several = self._sources > 1
        sources = f"{self._sources} source address{'es' if several else ''} at {each:g}"
        sources += " each" if several else ""
        if self.ceiling < account:
            blocks = self.provider.requests_per_second_per_source_ip is not None
            why = f"; {self.provider.name} blocks an address that sends more" if blocks else ""
            return f"{sources}{why} (the account may send {account:g})"
        return f"the limit of the account ({sources} could send more)"

    @property
    def _sources(self) -> int:
        return max(1, len(self.connection.source_addresses))


def load(path: Path) -> Job:
    """Read and check a job file.

    Raises:
        JobError: the file can't be used; it lists all faults, one per line.
    """
    document = _parse(path)
    document.setdefault("name", path.stem)
    faults = _Faults(path)
    _refuse_credentials(document, faults)
    top = _read("", document, _TOP, faults, required=_REQUIRED)
    provider = _choose("provider", top, PROVIDERS, faults)
    action = _choose("action", top, provider.actions, faults) if provider else None
    action = _shaped(action, document) if action else None
    tables = _sections(provider, action)
    _refuse_unknown(document, tables, faults)
    values = {name: _read_section(name, document, tables, faults) for name in tables}
    _refuse_shared_headers(values["columns"], faults)
    _refuse_bad_template(values["keys"], action, faults)
    if "select" in document and action and action.select and not document["select"]:
        faults.add("select", "names no condition, so it would select every certificate")
    if provider:
        _require_connection(provider, document.get("connection"), faults)
    if faults or provider is None or action is None:
        raise faults.error()

    documented = {name: getattr(provider, name) for name in _DOCUMENTED}
    limits = Limits(**documented | values["limits"])
    return Job(
        name=top["name"],
        provider=provider,
        action=action,
        targets=None if top["targets"] == "-" else path.parent / top["targets"],
        connection=_connection(path, provider, values["connection"]),
        limits=limits,
        parameters=values["parameters"],
        select=values["select"],
        keys=Keys(**values["keys"]) if values["keys"] else None,
        columns=values["columns"],
        retry=Retry(**values["retry"]),
        circuit_breaker=BreakerSettings(**values["circuit_breaker"]),
        warnings=_warnings(provider, action, limits),
    )


# ---- the parsers of single values


def _number(least: float, most: float) -> Parser:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"must be a number, not {kind_of(value)}")
        if not least <= value <= most:  # not a number is not in any range either
            raise ValueError(f"must be from {least} to {most}, not {shown(value)}")
        return float(value)

    return parse


def _whole(least: int, most: int) -> Parser:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {kind_of(value)}")
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}, not {shown(value)}")
        return value

    return parse


def _folder_name(value: object) -> str:
    name = text(value)
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise ValueError(f"must be usable as the name of a folder, not {shown(name)}")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"is longer than {_LONGEST_NAME} bytes: {shown(name)}")
    return name


def _endpoint(value: object) -> str:
    """Parse the base URL. Its text is in no message: people put credentials into URLs."""
    url = text(value)
    if "@" in url:
        raise _CredentialError("contains @, as if it held a user name or password")
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
        or parts.netloc.lower() != authority  # something in there is neither host nor port
    ):
        raise ValueError(_NO_URL)
    return f"{parts.scheme}://{authority}{parts.path}".rstrip("/")


def _kind_of_key(value: object) -> str:
    kind = text(value).lower()
    if kind not in KINDS:
        raise ValueError(f"must be {' or '.join(KINDS)}, not {shown(value)}")
    return kind


def _subject_template(value: object) -> str:
    template = text(value)
    try:
        parse_subject(template)
    except ValueError as reason:
        raise ValueError(f"{reason}") from None
    return template


def _source_addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of IP addresses, not {kind_of(value)}")
    addresses: list[str] = []
    for item in value:
        address = _address(text(item))
        if address is None or address.is_unspecified or address.is_multicast:
            raise ValueError(f"must be IP addresses of this machine, and {shown(item)} is none")
        if str(address) in addresses:
            raise ValueError(f"has {address} twice")
        addresses.append(str(address))
    if not addresses:
        raise ValueError("is empty; leave it out to send from the address that the system chooses")
    return tuple(addresses)


_NO_URL = "must be a URL such as https://apim.example.com"
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_PATH = re.compile(r"[\w/.~%:;,=+!$&'()*-]*", re.ASCII)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


class _CredentialError(ValueError):
    """A value holds a credential, or looks like it."""


# ---- the keys of each section. The ranges are far beyond sense: they catch slips and infinities.

_TOP: Table = {"name": _folder_name, "provider": text, "action": text, "targets": text}
_REQUIRED = {
    "provider": f"is missing; known are {', '.join(PROVIDERS)}",
    "action": "is missing",
    "targets": 'is missing; it names the target file, or "-" for standard input',
}
_LIMITS: Table = {
    "requests_per_second": _number(0.01, 1_000_000),
    "in_flight": _whole(1, 100_000),
    "requests_per_second_per_source_ip": _number(0.01, 1_000_000),
    "request_timeout_seconds": _number(0.001, 86_400),
}
_DOCUMENTED = ("requests_per_second", "requests_per_second_per_source_ip")
"""Limits that a provider documents; they hold unless the job has others."""

_RETRY: Table = {"max_attempts": _whole(1, 1000)}
_CIRCUIT_BREAKER: Table = {
    "failing_share": _number(0.001, 1000),
    "stop_after_seconds": _number(0.001, 1_000_000),
}
_CONNECTION: Table = {
    "endpoint": _endpoint,
    "ca_file": text,
    "source_addresses": _source_addresses,
}
_KEYS: Table = {"generate": _kind_of_key, "subject": _subject_template}


def _sections(provider: Provider | None, action: Action | None) -> dict[str, Table | None]:
    """All sections; None for those that can't be judged as long as the job is not clear."""
    own = (*provider.connection_required, *provider.connection_optional) if provider else ()
    fields = action.fields if action else {}
    return {
        "connection": {key.name: key.parse for key in own} | dict(_CONNECTION)
        if provider
        else None,
        "parameters": {name: field.parse for name, field in fields.items()} if action else None,
        "columns": dict.fromkeys(fields, text) if action else None,
        "select": {field.name: field.parse for field in action.select} if action else None,
        "keys": (_KEYS if action.makes_keys else {}) if action else None,
        "limits": _LIMITS,
        "retry": _RETRY,
        "circuit_breaker": _CIRCUIT_BREAKER,
    }


# ---- reading and checking


class _Faults:
    """Collects what is wrong, so that an operator sees everything at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[str] = []
        self._next_steps: dict[str, None] = {}

    def add(self, place: str, reason: str, next_step: str = _CORRECT_JOB) -> None:
        self._problems.append(f"{self._path}: {place} {reason}")
        self._next_steps.setdefault(next_step)

    def __bool__(self) -> bool:
        return bool(self._problems)

    def error(self) -> JobError:
        shown_ones = self._problems[:_MOST_FAULTS]
        if more := len(self._problems) - len(shown_ones):
            shown_ones.append(f"{self._path}: and {more} more faults")
        return JobError("\n".join(shown_ones), "\n".join(self._next_steps))


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise JobError(
            f"{path}: the job file can't be read: {reason}",
            "Check the path, and that the file may be read.",
        ) from error
    if len(content) > _LARGEST_FILE:
        raise JobError(
            f"{path}: the job file is larger than {_LARGEST_FILE // 2**20} MiB",
            "Check that it is the job file and not the target file.",
        )
    # "from None" below: the causes hold the content, and with it whatever secret is in there
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JobError(
            f"{path}: line {line} is not UTF-8 text", "Save the job file in UTF-8."
        ) from None
    except RecursionError:
        raise JobError(f"{path}: the values are nested too deeply", _CORRECT_JOB) from None
    except ValueError as error:  # mostly TOMLDecodeError; numbers that are too long for Python
        raise JobError(
            f"{path}: this is not valid TOML: {error}",
            "Correct that line; text stands in double quotes.",
        ) from None


def _refuse_credentials(document: dict[str, Any], faults: _Faults) -> None:
    """Report and remove everything, at any depth, whose key looks like that of a credential."""
    open_tables: list[tuple[str, Any]] = [("", document)]
    while open_tables:
        section, table = open_tables.pop()
        if isinstance(table, list):
            open_tables += [(section, item) for item in table]
        elif isinstance(table, dict):
            for key in list(table):
                if _is_credential(key):
                    del table[key]
                    faults.add(
                        _place(section, key),
                        "looks like a credential, which must not be in a job file",
                        _use_environment(),
                    )
                else:
                    open_tables.append((section or key, table[key]))


_CREDENTIAL_WORDS = (
    *("secret", "password", "passwd", "passphrase", "credential", "token", "authorization"),
    *("appkey", "apikey", "accesskey", "privatekey"),
)


def _is_credential(key: str) -> bool:
    folded = _fold(key)
    names = {_fold(name) for p in PROVIDERS.values() for name in _credentials_of(p)}
    return folded in {"pass", "pwd"} | names or any(word in folded for word in _CREDENTIAL_WORDS)


def _fold(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.casefold())


def _credentials_of(provider: Provider) -> tuple[str, ...]:
    return provider.credentials + provider.optional_credentials


def _use_environment() -> str:
    names = "; ".join(f"{p.name}: {', '.join(_credentials_of(p))}" for p in PROVIDERS.values())
    return (
        "Take it out of the job file; credentials come from environment variables only "
        f"({names}). Have a secret that was stored in a file replaced."
    )


def _read_section(
    section: str, document: dict[str, Any], tables: Mapping[str, Table | None], faults: _Faults
) -> dict[str, Any]:
    values = document.get(section, {})
    if not isinstance(values, dict):
        faults.add(section, f"must be a section, [{section}], not {kind_of(values)}")
        return {}
    return _read(section, values, tables[section] or {}, faults)


def _read(
    section: str,
    values: dict[str, Any],
    table: Table,
    faults: _Faults,
    required: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The checked values of the keys in `table`; `required` has what to say when one is missing."""
    checked = {}
    for key, parse in table.items():
        if key in values:
            try:
                checked[key] = parse(values[key])
            except _CredentialError as reason:
                faults.add(_place(section, key), str(reason), _use_environment())
            except ValueError as reason:
                faults.add(_place(section, key), str(reason))
        elif key in required:
            faults.add(_place(section, key), required[key])
    return checked


_Named = TypeVar("_Named")


def _choose(
    key: str, top: dict[str, Any], known: Mapping[str, _Named], faults: _Faults
) -> _Named | None:
    if key not in top:
        return None  # missing or no text, which is reported already
    name: str = top[key]
    if name not in known:
        faults.add(key, f"{shown(name)} is not known; {_known(name, known)}")
    return known.get(name)


def _refuse_unknown(
    document: dict[str, Any], tables: Mapping[str, Table | None], faults: _Faults
) -> None:
    for key, value in document.items():
        if key in tables:
            table = tables[key]
            if table is not None and isinstance(value, dict):
                for inner in value:
                    if inner not in table:
                        faults.add(_place(key, inner), _unknown(inner, table, tables))
        elif key not in _TOP:
            faults.add(_place("", key), _unknown(key, (*_TOP, *tables), tables))


def _unknown(key: str, known: Iterable[str], tables: Mapping[str, Table | None]) -> str:
    homes = [f"under [{section}]" for section, table in tables.items() if table and key in table]
    homes += ["at the top, before the first section"] if key in _TOP else []
    if homes:
        return f"does not belong here, but {' or '.join(homes)}"
    return f"is not known; {_known(key, known)}"


def _known(name: str, known: Iterable[str]) -> str:
    """What is known instead: the nearest name, or else all."""
    by_fold = {_fold(other): other for other in known}
    close = difflib.get_close_matches(_fold(name), by_fold, n=1)
    every = f"known are {', '.join(by_fold.values())}"
    return f"the nearest is {by_fold[close[0]]}; {every}" if close else every


def _place(section: str, key: str) -> str:
    shown_key = key if re.fullmatch(r"[\w-]{1,60}", key) else shown(key)
    return f"{section}.{shown_key}" if section else shown_key


def _require_connection(provider: Provider, given: object, faults: _Faults) -> None:
    keys = given.keys() if isinstance(given, dict) else set()
    takes_region = "region" in {key.name for key in provider.connection_optional}
    if "endpoint" not in keys and not (takes_region and "region" in keys):
        alternative = ", and so is connection.region: one of them is needed" if takes_region else ""
        faults.add("connection.endpoint", "is missing" + alternative)
    if takes_region and keys >= {"endpoint", "region"}:
        faults.add("connection.endpoint", "and connection.region exclude each other: give one")
    for key in provider.connection_required:
        if key.name not in keys:
            faults.add(_place("connection", key.name), "is missing")


def _refuse_shared_headers(columns: Mapping[str, str], faults: _Faults) -> None:
    fields_by_header: dict[str, list[str]] = {}
    for name, header in columns.items():
        fields_by_header.setdefault(header, []).append(name)
    for header, names in fields_by_header.items():
        if len(names) > 1:
            faults.add("columns", f"gives {' and '.join(names)} the same header {shown(header)}")


def _shaped(action: Action, document: Mapping[str, Any]) -> Action:
    """The action without the fields that a selection or made keys stand in for."""
    required, optional = list(action.required), list(action.optional)
    if "select" in document and action.select:
        required = [field for field in required if field.name != action.selects]
    if action.makes_keys:
        requests = [field for field in optional if field.pem]
        if "keys" in document or action.needs_keys:
            optional = [field for field in optional if not field.pem]
        if "keys" not in document and action.needs_keys:
            required += requests
    return dataclasses.replace(action, required=tuple(required), optional=tuple(optional))


def _refuse_bad_template(keys: Mapping[str, str], action: Action | None, faults: _Faults) -> None:
    if not keys:
        return
    if "generate" not in keys:
        faults.add("keys.generate", f"is missing; it is {' or '.join(KINDS)}")
    try:
        names = {name for _, name, _, _ in Formatter().parse(keys.get("subject", "")) if name}
    except ValueError as reason:
        faults.add("keys.subject", f"is no template: {reason}")
        return
    for name in names - set(action.fields if action else names):
        faults.add("keys.subject", f"has {{{name}}}, which is no field of the targets")


def _connection(path: Path, provider: Provider, values: dict[str, Any]) -> Connection:
    ca_file = values.get("ca_file")
    return Connection(
        endpoint=values.get("endpoint")
        or provider.region_endpoint.format(region=values.get("region")),
        ca_file=path.parent / ca_file if ca_file else None,
        source_addresses=values.get("source_addresses", ()),
        options={key: value for key, value in values.items() if key not in _CONNECTION},
    )


def _warnings(provider: Provider, action: Action, limits: Limits) -> tuple[str, ...]:
    warnings = [action.warning] if action.warning else []
    for name in _DOCUMENTED:
        documented, asked = getattr(provider, name), getattr(limits, name)
        if documented is not None and asked > documented:
            warnings.append(
                f"limits.{name} is {asked:.10g}, above the {documented:.10g} that {provider.name} "
                f"documents: it {_CONSEQUENCE[name]}, unless your limit was raised."
            )
    return tuple(warnings)


_CONSEQUENCE = {
    "requests_per_second": "may turn requests away, or block the sender",
    "requests_per_second_per_source_ip": "BLOCKS an address that sends more, nobody knows how long",
}
