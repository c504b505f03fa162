"""From the bytes of a job file to a checked `Job`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bulkcert.model import Fields
from bulkcert.providers.base import Action, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the provider is reached.

    Attributes:
        endpoint: base URL, `https://`, or `http://` on a loopback host; no trailing slash.
        ca_file: PEM file of a CA to trust besides the system's.
        options: the provider's own keys, such as `org_id`.
    """

    endpoint: str
    ca_file: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard the provider may be used.

    Attributes:
        requests_per_second: hard ceiling over everything that is sent, in any rolling second.
        in_flight: most requests open at once.
        request_timeout_seconds: how long an answer may take, from when the request left.
    """

    requests_per_second: float
    in_flight: int = 1000
    request_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often an operation is tried: `max_attempts` requests; throttled ones do not count."""

    max_attempts: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """When a run gives up as a whole.

    Attributes:
        failing_share: share of failing answers, 0 to 1, from which a provider counts as failing;
            above 1 switches the guard off.
        stop_after_seconds: how long the provider may go on failing before the run stops.
    """

    failing_share: float = 0.95
    stop_after_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked job: what to do, to which targets, how fast. `targets` is None for standard input.

    Attributes:
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
    columns: Mapping[str, str] = field(default_factory=dict)
    retry: Retry = Retry()
    guard: Guard = Guard()
    warnings: tuple[str, ...] = ()
