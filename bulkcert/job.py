"""A checked job: what to do, to which targets, how fast. Plain data.

`bulkcert.jobfile` makes a `Job` from a job file; a library user may build one directly. The values
here are already valid. Nothing in this module reads a file or the environment, and no attribute may
contain a credential, except that of a proxy in its URL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkcert.model import Fields
from bulkcert.providers.base import Action, CertificateFiles, Keys, Provider
from bulkcert.quantities import number
from bulkcert.rules import NO_RULES, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the provider.

    Attributes:
        endpoint: base URL without a trailing slash; `https://`, or `http://` on a loopback host. If
            the job names a region instead, the URL is derived from it.
        ca_file: PEM file of a CA to trust in addition to the system's.
        source_addresses: IP addresses of this machine to send from; if empty, the system chooses.
        proxy: URL of an HTTP proxy to send through; empty for none. It may contain a user name and
            a password, so it must not be shown or recorded; see `public_proxy`.
        options: the provider's own keys, such as `org_id`.
    """

    endpoint: str
    ca_file: Path | None = None
    source_addresses: tuple[str, ...] = ()
    proxy: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_proxy(self) -> str:
        """The URL of the proxy without user name and password."""
        scheme, _, rest = self.proxy.rpartition("//")
        return f"{scheme}//{rest.rpartition('@')[2]}" if rest else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much load the provider gets.

    Attributes:
        requests_per_second: the most requests of any kind that may leave in any rolling second.
        in_flight: the most requests that may be open at once.
        requests_per_second_per_source_ip: the same as `requests_per_second` for each source
            address, or None for no such limit.
        request_timeout_seconds: how long to wait for a response after the request has left.
    """

    requests_per_second: float
    in_flight: int = 1000
    requests_per_second_per_source_ip: float | None = None
    request_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often an operation is attempted, and how long one in doubt is left alone.

    Attributes:
        max_attempts: the most attempts of each step of an operation; throttled
            requests do not count.
        settling_seconds: for how long a request that was given up may still be executed. What must
            not be done twice is looked up only after that time.
    """

    max_attempts: int = 8
    settling_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a run stops because the provider is failing.

    Attributes:
        failing_share: the share of recent requests, from 0 to 1, that must fail before the circuit
            breaker is half-open and lets only probes through; a value above 1 disables it.
        stop_after_seconds: how long the provider may fail before the breaker opens and the run
            stops.
    """

    failing_share: float = 0.95
    stop_after_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFormat:
    """How the target file is written, if it is CSV.

    Attributes:
        delimiter: the character between two cells; empty for a comma.
        encoding: a text encoding of Python; empty for UTF-8.
    """

    delimiter: str = ""
    encoding: str = ""

    def __bool__(self) -> bool:
        """Whether the job says anything about it."""
        return bool(self.delimiter or self.encoding)


UTF_8_WITH_COMMAS = CsvFormat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """An outside command that gets the events of a run.

    Attributes:
        command: the program and its arguments.
        timeout_s: seconds after which it is killed.
    """

    command: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked job.

    Attributes:
        name: names the run and, by default, its directory.
        provider: the provider's declaration.
        action: as the provider declares it, without the fields that `select` or `keys` supplies.
        targets: path of the target file, or None for standard input.
        file: the job file, or None for a job that a program has built.
        folder: the folder that it is in, whatever link it was named by; the current one if it is
            a pipe, and for a job that a program has built.
        connection: how to reach the provider.
        limits: how much load the provider gets.
        parameters: fields that apply to every target; a target's own fields take precedence.
        select: conditions that choose certificates when targets name only devices.
        keys: how key pairs are generated, or None if they are not.
        certificates: in which further forms new certificates are kept.
        columns: field name to the header that the target file uses for it.
        format: how the target file is written, if it is CSV.
        retry: how often an operation is attempted, and when one in doubt is looked up.
        circuit_breaker: when the run stops because the provider is failing.
        warnings: what the operator should know before running the job, one sentence each.
        unsafe: why it should not be run as it is, one sentence each; `--yes` overrules them.
        rules: the rules of a campaign.
        notify: the command that gets the events; None if there is none.
        deadline_s: when it must be over, as Unix time in seconds; None for no deadline.
        store: the URL of the shared store in which its run is kept; empty if it names none.
        lines: on which line of the job file each section and key stands.
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
    certificates: CertificateFiles = field(default_factory=CertificateFiles)
    columns: Mapping[str, str] = field(default_factory=dict)
    format: CsvFormat = UTF_8_WITH_COMMAS
    retry: Retry = Retry()
    circuit_breaker: BreakerSettings = BreakerSettings()
    warnings: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    rules: Rules = NO_RULES
    notify: Notify | None = None
    deadline_s: float | None = None
    store: str = ""
    file: Path | None = None
    folder: Path = Path()
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        targets = "standard input" if self.targets is None else self.targets
        return (
            f"<Job {self.name!r}: {self.provider.name} {self.action.name}, targets {targets},"
            f" at most {self.ceiling:g} requests/s>"
        )

    def at(self, place: str) -> str:
        """How messages name a key of the job, such as "job.toml:12: check.command"."""
        return at(self.file, place, self.lines) if self.file else place

    @property
    def passwords(self) -> tuple[str, ...]:
        """The environment variables that the job reads passwords from, besides credentials."""
        return tuple(filter(None, (self.certificates.pkcs12_password_env,)))

    @property
    def common(self) -> Fields:
        """The fields of every target, unless its row has its own: what `[connection]` supplies, and
        above it the parameters."""
        options = self.connection.options
        fields = self.provider.actions[self.action.name].fields.values()
        supplied = {f.name: f.parse(options[f.option]) for f in fields if f.option in options}
        return supplied | dict(self.parameters)

    def selection(self, planned_at_s: float) -> Mapping[str, Any]:
        """The conditions of `select`, for a run that was planned at this Unix time.

        A selection that could hit what comes later is bounded by that time, however long the run
        takes; see `unsafe`.
        """
        needs = self.action.select_needs
        bounds = [field.name for field in self.action.select if field.past and field.name in needs]
        others = set(needs).difference(bounds)
        if not self.select or others.intersection(self.select):
            return self.select
        now_ms = int(planned_at_s * 1000)
        return {**self.select, **{n: min(self.select.get(n, now_ms), now_ms) for n in bounds}}

    @property
    def requests_per_operation(self) -> int:
        """The fewest requests that an operation takes, including the look-ups it starts with."""
        return self.action.requests + bool(self.select)

    @property
    def ceiling(self) -> float:
        """The most requests in any rolling second: the lower of the two limits.

        One limit applies to the account, the other to each source address. In a shared store only
        that of the account counts: other hosts have addresses of their own.
        """
        limits = self.limits
        each = limits.requests_per_second_per_source_ip
        if self.store:
            return limits.requests_per_second
        return min(limits.requests_per_second, math.inf if each is None else each * self._sources)

    @property
    def bound_by(self) -> str:
        """Which limit sets the ceiling, in words, and what the other limit would allow."""
        limits = self.limits
        account, each = limits.requests_per_second, limits.requests_per_second_per_source_ip
        if each is None:
            if self.provider.limit_is_assumed and account == self.provider.requests_per_second:
                return f"bulkcert's default: {self.provider.name} documents no limit"
            return "the account's limit"
        if self.store:
            return f"the account's limit (each address may send {number(each)})"
        several = self._sources > 1
        sources = f"{self._sources} source address{'es' if several else ''} at {number(each)}"
        sources += " each" if several else ""
        if self.ceiling < account:
            blocks = self.provider.requests_per_second_per_source_ip is not None
            why = f"; {self.provider.name} blocks an address that sends more" if blocks else ""
            return f"{sources}{why} (the account may send {number(account)})"
        return f"the account's limit ({sources} could send more)"

    @property
    def _sources(self) -> int:
        return max(1, len(self.connection.source_addresses))


def at(file: Path, place: str, lines: Mapping[str, int]) -> str:
    """How messages name a key of a job file, with its line, or that of its section, if known."""
    line = lines.get(place) or lines.get(place.partition(".")[0])
    return f"{file}:{line}: {place}" if line else f"{file}: {place}"
