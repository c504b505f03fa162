"""The sections of a job file and their keys, each with its parser and its documentation.

A new key is one entry here; docs/job-file.md is generated from these tables. Pure data. The ranges
of numbers are far wider than anything sensible: they catch typing errors and infinities.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from bulkcert import store_url
from bulkcert.job import BreakerSettings, Limits, Notify, Retry
from bulkcert.jobfile import parsers
from bulkcert.keyspec import KINDS
from bulkcert.providers.base import Action, Key, Provider
from bulkcert.rules import Check, abort, rollout
from bulkcert.values import text

Table = Mapping[str, Key]
"""The keys of a section, by name."""


def table(*keys: Key) -> Table:
    """Return a table of these keys."""
    return {key.name: key for key in keys}


def _number(name: str, least: float, most: float, **documentation: Any) -> Key:
    kind = f"number, {least:,g} to {most:,.0f}"
    return Key(name, parsers.number(least, most), type=kind, **documentation)


def _whole_number(name: str, least: int, most: int, **documentation: Any) -> Key:
    kind = f"whole number, {least:,} to {most:,}"
    return Key(name, parsers.whole_number(least, most), type=kind, **documentation)


def _duration(name: str, least_s: float, most_s: float, **documentation: Any) -> Key:
    kind = 'duration: `"90s"`, `"10m"`, `"24h"`, `"2d"`'
    return Key(name, parsers.duration(least_s, most_s), type=kind, **documentation)


def _default_s(settings: type, name: str) -> str:
    seconds = float(_default(settings, name))
    return f"{seconds / 60:g}m" if seconds >= 60 else f"{seconds:g}s"


def _default(settings: type, name: str) -> str:
    [default] = [f.default for f in dataclasses.fields(settings) if f.name == name]
    return f"{default:g}"


TOP = table(
    Key(
        "name",
        parsers.folder_name,
        meaning="name of the run and of its directory in `runs/` beside the job file",
        default="the job file's name without `.toml`",
        example="revoke-key-compromise",
    ),
    Key("provider", text, meaning="the provider, from the table below", example="enos"),
    Key("action", text, meaning="the action, from the table below", example="revoke"),
    Key(
        "targets",
        text,
        type="path",
        meaning="target file, relative to the job file: `.csv` or `.jsonl`, either also `.gz`, or"
        ' `.xlsx`; `"-"` reads standard input',
        example="fleet.csv",
    ),
    Key(
        "deadline",
        parsers.moment,
        type="date and time",
        meaning="when it must be over; a run that will be late says so, and goes on as before",
        default="no deadline",
        example=datetime(2026, 11, 28, 9, tzinfo=UTC),
    ),
    Key(
        "store",
        store_url.checked,
        type="URL",
        meaning="the PostgreSQL database in which the run is kept, so that several hosts can work"
        " on it; without a password. Then the job never runs without it",
        default="the run directory",
        example=store_url.EXAMPLE,
    ),
)

CONNECTION = table(
    Key(
        "endpoint",
        parsers.endpoint,
        type="URL",
        meaning="base URL of the API; `https://`, or `http://` on a loopback address",
        default="derived from `region` where the provider has that key",
        example="https://apim.example.com",
    ),
    Key(
        "ca_file",
        text,
        type="path",
        meaning="PEM file of a CA to trust in addition to the system's; relative to the job file",
        default="the system's CAs only",
        example="private-ca.pem",
    ),
    Key(
        "source_addresses",
        parsers.source_addresses,
        type="list of IP addresses",
        meaning="addresses of this machine to send from, each with its own connections and pace",
        default="the system chooses one",
        example=["10.0.0.5", "10.0.0.6"],
    ),
    Key(
        "proxy",
        parsers.proxy,
        type="URL",
        meaning="HTTP proxy to send through, `http://HOST:PORT`; may contain `USER:PASSWORD@`",
        default="none; proxy variables of the environment are not used",
        example="http://proxy.example.com:3128",
    ),
)

KEYS = table(
    Key(
        "generate",
        parsers.key_kind,
        type=" or ".join(f"`{kind}`" for kind in KINDS),
        meaning="kind of key pair to generate for each device",
        example="ecdsa-p256",
    ),
    Key(
        "subject",
        parsers.subject_template,
        type="distinguished name",
        meaning="subject of the signing request; `{assetId}` and the like are replaced",
        default="the subject of the old certificate",
        example="C=CN, ST=Shanghai, L=Shanghai, O=EnOS, OU=EnOS, CN={assetId}",
    ),
    Key(
        "operator",
        parsers.operator,
        type="path or PEM",
        meaning="public key (X25519, or RSA of at least 3072 bits) of whoever may read the private"
        " keys in a shared store; needed with one",
        default="none",
        example="ops-public.pem",
        from_file=parsers.operator_file,
    ),
)

FORMAT = table(
    Key(
        "delimiter",
        parsers.delimiter,
        type="one character",
        meaning='what separates the cells; `"\\t"` is a tab',
        default="a comma, or what a first line such as `sep=;` says",
        example=";",
    ),
    Key(
        "encoding",
        parsers.encoding,
        type="name of an encoding",
        meaning="character encoding: `utf-16`, `gb18030`, `cp1252`, or any other that Python has",
        default="UTF-8, with or without a byte order mark",
        example="gb18030",
    ),
)

CERTIFICATES = table(
    Key(
        "pkcs12_password_env",
        parsers.environment_variable,
        type="name of an environment variable",
        meaning="also keep each new certificate as PKCS#12, with its key and its CA, under the"
        " password in this variable; needs `[keys]`",
        default="no PKCS#12 files",
        example="P12_PASSWORD",
    ),
)

LIMITS = table(
    _number(
        "requests_per_second",
        *(0.01, 1_000_000),
        meaning="most requests of any kind in any rolling second, from all addresses together",
        default="the provider's limit, see below",
        example=500,
    ),
    _whole_number(
        "in_flight",
        *(1, 100_000),
        meaning="most requests open at once",
        default=_default(Limits, "in_flight"),
        example=1000,
    ),
    _number(
        "requests_per_second_per_source_ip",
        *(0.01, 1_000_000),
        meaning="most requests in any rolling second from each source address",
        default="the provider's limit, or none",
        example=300,
    ),
    _number(
        "request_timeout_seconds",
        *(0.001, 86_400),
        meaning="how long to wait for a response after the request has left",
        default=_default(Limits, "request_timeout_seconds"),
        example=30,
    ),
)

RETRY = table(
    _whole_number(
        "max_attempts",
        *(1, 1000),
        meaning="most attempts of each step of an operation; throttled ones do not count",
        default=_default(Retry, "max_attempts"),
        example=8,
    ),
    _number(
        "settling_seconds",
        *(0.001, 86_400),
        meaning="how long a request that was given up may still be executed; "
        "what must not be done twice is sent again only after that time",
        default=_default(Retry, "settling_seconds"),
        example=30,
    ),
)

CIRCUIT_BREAKER = table(
    _number(
        "failing_share",
        *(0.001, 1000),
        meaning="share of failing requests that half-opens the breaker; above 1 disables it",
        default=_default(BreakerSettings, "failing_share"),
        example=0.95,
    ),
    _number(
        "stop_after_seconds",
        *(0.001, 1_000_000),
        meaning="how long the provider may fail before the breaker opens and the run stops",
        default=_default(BreakerSettings, "stop_after_seconds"),
        example=60,
    ),
)

_LONGEST_S = 366 * 86_400.0

APPROVAL = table(
    _whole_number(
        "required",
        *(0, 100),
        meaning="how many distinct people must approve the plan",
        default="0: a person at the terminal confirms",
        example=2,
    ),
    Key(
        "signers",
        text,
        type="path",
        meaning="OpenSSH allowed_signers file with those who may approve; needed if any are"
        " required",
        example="approvers",
    ),
    Key(
        "revoked",
        text,
        type="path",
        meaning="OpenSSH key revocation list",
        default="no key is revoked",
        example="revoked.krl",
    ),
    _duration(
        "valid",
        *(1.0, _LONGEST_S),
        meaning="how long an approval counts: until the first operation is claimed",
        default="24h",
        example="24h",
    ),
)

PROTECT = table(
    Key(
        "never",
        text,
        type="path",
        meaning="target file with what is never touched; its columns `owner` and `note` are shown",
        default="nothing but what `BULKCERT_NEVER` names",
        example="never-touch.csv",
    ),
    _whole_number(
        "max_operations",
        *(0, 1_000_000_000),
        meaning="most distinct operations that the run may ever begin, selected ones included; 0"
        " means none at all",
        default="no limit",
        example=60_000,
    ),
)

ROLLOUT = table(
    Key(
        "order",
        parsers.list_of(parsers.order_key, "columns"),
        type="list of columns",
        meaning="columns of the target file that decide the order; `-` in front is descending",
        default="the order of the target file",
        example=["-risk", "expires"],
    ),
    _whole_number(
        "canary",
        *(1, 1_000_000),
        meaning="number of targets in the first wave",
        default="no canary",
        example=20,
    ),
    Key(
        "spread_by",
        text,
        type="column",
        meaning="the canary is spread evenly over the values of this column; needs `canary`",
        default="the canary is what comes first",
        example="productKey",
    ),
    Key(
        "waves",
        parsers.list_of(rollout.size, "shares and numbers"),
        type="list of shares and numbers",
        meaning="how far each wave goes: shares of the targets or numbers, cumulative; the rest"
        " follows",
        default="no waves but the canary and the rest",
        example=["1%", "10%"],
    ),
    _duration(
        "between",
        *(0.0, _LONGEST_S),
        meaning="least time between two waves, from the last settled operation",
        default="none",
        example="10m",
    ),
    Key(
        "confirm",
        parsers.list_of(text, "waves"),
        type="list of waves",
        meaning="waves, as written, or `canary` or `all`, after which the run waits for"
        " `bulkcert control go`",
        default="none",
        example=["canary", "10%"],
    ),
)

_BAD = 'share such as `"2% of 500"`, or a number'

ABORT = table(
    Key(
        "canary",
        parsers.whole_number(0, 1_000_000),
        type="whole number",
        meaning="most failed and unknown operations in the canary",
        default="any number",
        example=2,
    ),
    Key(
        "failed",
        abort.limit,
        type=_BAD,
        meaning="most failed operations: a share of the last ones settled, or a number over the"
        " whole run",
        default="any number",
        example="2% of 500",
    ),
    Key(
        "unknown",
        abort.limit,
        type=_BAD,
        meaning="the same for operations whose outcome is unknown",
        default="any number",
        example="0.5% of 1000",
    ),
)
"""The keys with names; besides them, each code of the provider may be a key."""

CHECK = table(
    Key(
        "command",
        parsers.list_of_words,
        type="list of texts",
        meaning="program and arguments, run in the job's folder; exit code 0 goes on, 10 aborts,"
        " everything else holds",
        example=["./fleet-ok.sh"],
    ),
    _duration(
        "every",
        *(0.1, _LONGEST_S),
        meaning="time from one check to the next",
        default=_default_s(Check, "every_s"),
        example="30s",
    ),
    _duration(
        "timeout",
        *(0.1, _LONGEST_S),
        meaning="after this time it is killed, and holds",
        default=_default_s(Check, "timeout_s"),
        example="10s",
    ),
    _duration(
        "patience",
        *(0.1, _LONGEST_S),
        meaning="how long it may hold, alone, before the run ends with exit code 4",
        default=_default_s(Check, "patience_s"),
        example="30m",
    ),
)

WINDOW = table(
    Key(
        "open",
        parsers.list_of(parsers.opening, "days and hours"),
        type="list of days and hours",
        meaning="when operations are claimed; a day names the day on which the hours begin",
        example=["Mon-Fri 22:00-05:00", "Sat-Sun 00:00-24:00"],
    ),
    Key(
        "closed",
        parsers.list_of(parsers.day, "days"),
        type="list of days",
        meaning="days on which nothing is claimed, and whose hours do not begin",
        default="none",
        example=[date(2026, 12, 24)],
    ),
    Key(
        "zone",
        parsers.zone,
        type="name of a time zone",
        meaning="whose clock decides",
        example="Europe/Berlin",
    ),
)

NOTIFY = table(
    Key(
        "command",
        parsers.list_of_words,
        type="list of texts",
        meaning="program and arguments, run in the job's folder; gets each event of the run as one"
        " JSON object on its standard input, and exits with 0 when it has passed it on",
        example=["./to-chat.sh"],
    ),
    _duration(
        "timeout",
        *(0.1, 3600.0),
        meaning="after this time it is killed, and tried again",
        default=_default_s(Notify, "timeout_s"),
        example="10s",
    ),
)

REQUIRED = {
    "provider": "is missing",
    "action": "is missing",
    "targets": 'is missing; it names the target file, or "-" for standard input',
    "check.command": "is missing",
    "notify.command": "is missing",
    "window.open": "is missing",
    "window.zone": 'is missing; it is the name of a time zone, such as "Europe/Berlin"',
    "keys.generate": f"is missing; it must be {' or '.join(KINDS)}",
}
"""Keys that a job must have, with the fault if one is missing; `[keys]` itself is optional."""

DOCUMENTED_LIMITS = ("requests_per_second", "requests_per_second_per_source_ip")
"""Limits that a provider documents; they apply unless the job sets its own."""


def sections(provider: Provider | None, action: Action | None) -> dict[str, Table | None]:
    """Return the keys of every section of a job.

    Args:
        provider: None while the job does not name a known one.
        action: the same.

    Returns:
        Section name to its keys, or to None where they depend on an unknown provider or action. A
        section that the action does not use has no keys.
    """
    fields = action.fields if action else {}
    return {
        "connection": connection(provider) if provider else None,
        "parameters": fields if action else None,
        "columns": {name: Key(name, text) for name in fields} if action else None,
        "format": FORMAT,
        "select": table(*action.select) if action else None,
        "keys": (KEYS if action.makes_keys else {}) if action else None,
        "certificates": (CERTIFICATES if action.makes_keys else {}) if action else None,
        "limits": LIMITS,
        "retry": RETRY,
        "circuit_breaker": CIRCUIT_BREAKER,
        "approval": APPROVAL,
        "protect": PROTECT,
        "rollout": ROLLOUT,
        "abort": ABORT,  # and the provider's codes, see `abort_keys`
        "check": CHECK,
        "window": WINDOW,
        "notify": NOTIFY,
    }


_CODE = re.compile(r"\d{3,9}|(?=\S*[A-Z])[A-Za-z][\w.-]{2,99}", re.ASCII)
"""A number, or a name with a capital letter: a misspelt key must not pass for a code."""


def abort_keys(given: Iterable[str]) -> Table:
    """Return the keys of `[abort]`: those with names, and the provider's codes among the given."""
    codes = [name for name in given if _CODE.fullmatch(name)]
    return {**ABORT, **{code: Key(code, parsers.whole_number(0, 1_000_000)) for code in codes}}


def connection(provider: Provider) -> Table:
    """Return the keys of `[connection]`: the provider's own, then those that all providers have."""
    return {**table(*provider.connection_required, *provider.connection_optional), **CONNECTION}
