"""How the simulator behaves: one field for every behaviour and fault, with its default and help.

In: nothing; this is plain data. Out: `Behaviour`, and from its fields the options of
`bulkcert simulate`, so that an option is written once, here. It must stay importable without a
network library. Seconds are floats; shares and probabilities are floats from 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def _option(group: str, default: Any, text: str, *, most: float | None = None) -> Any:
    """A field with what its option needs; a number may be neither negative nor above `most`."""
    metadata = {"group": group, "help": text, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


def _fault(text: str) -> Any:
    """The share of requests that meets a fault."""
    return _option("Faults, each the share of requests that meets it", 0.0, text, most=1.0)


def _of(group: str) -> Any:
    def option(default: Any, text: str, *, most: float | None = None) -> Any:
        return _option(group, default, text, most=most)

    return option


_general = _of("General")
_speed = _of("Speed of answers")
_limits = _of("Limits")
_detail = _of("Details of faults")
_outage = _of("Outage and refusal of everything")
_accepted = _of("What is accepted")
_enos = _of("EnOS")
_mq = _of("ApsaraMQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Everything that can be set about the simulator. The defaults are a vendor on a good day.

    Raises:
        ValueError: a value is out of its range, or the fault probabilities add up to more than 1.
    """

    seed: int = _general(0, "Seed of all that is drawn; the same request meets the same fault.")
    keep_alive: float = _general(75.0, "Seconds after which an idle connection is closed.")
    keep_alive_requests: int = _general(0, "Requests after which a connection is closed; 0: never.")

    dates: bool = _general(True, "Answers tell the time, in the header Date.")

    latency: float = _speed(0.0, "Seconds between arrival and answer.")
    latency_spread: float = _speed(0.0, "On top, evenly between 0 and this many seconds.")
    latency_tail: float = _speed(0.0, "Seconds on top for the slowest answers.")
    latency_tail_share: float = _speed(0.0, "Share of answers that are that slow.", most=1.0)

    limit: int = _limits(500, "Requests per rolling second: EnOS all, ApsaraMQ per API; 0: none.")
    limit_counts_refused: bool = _limits(False, "Refused requests use up the limit too.")
    limit_headers: Literal["none", "x-ratelimit", "retry-after"] = _limits(
        "none", "Headers of the EnOS gateway's 429 for requests over the limit."
    )
    retry_after: int = _limits(1, "Seconds in a Retry-After header, wherever one is sent.")

    throttle: float = _fault("429 (ApsaraMQ: Throttling) without Retry-After; not executed.")
    throttle_retry_after: float = _fault("The same with Retry-After; not executed.")
    error_before: float = _fault("99500 (token: 1005, ApsaraMQ: InternalError); not executed.")
    error_after: float = _fault("The same, but executed.")
    cut_before: float = _fault("The connection is cut instead of an answer; not executed.")
    cut_after: float = _fault("The same, but executed.")
    cut_inside: float = _fault("The connection is cut in the middle of the answer; executed.")
    page_before: float = _fault("A gateway's 502 HTML page; not executed.")
    page_after: float = _fault("The same, but executed.")
    token_expired: float = _fault("1203 (ApsaraMQ: expired security token); not executed.")
    system_overflow: float = _fault("ApsaraMQ SystemOverFlow (EnOS: 503); not executed.")
    slow_first_byte: float = _fault("Nothing is sent for long, then the whole answer; executed.")
    byte_by_byte: float = _fault("The answer comes one byte at a time; executed.")
    json_cut_short: float = _fault("Half of the JSON in a complete HTTP answer; executed.")
    wrong_types: float = _fault("JSON of another type or with values of other types; executed.")
    html_ok: float = _fault("200 with an HTML page; not executed.")
    redirect: float = _fault("302 to another path here, which looks like success; not executed.")
    huge_body: float = _fault("An answer of a hundred megabytes; executed.")
    execute_late: float = _fault("Executed only when the answer is due, or later; see below.")

    faults_on: str = _detail("", "Actions that meet faults, separated by commas; empty: all do.")
    cut_style: Literal["close", "reset"] = _detail("close", "How a connection is cut: FIN or RST.")
    slow_first_byte_by: float = _detail(5.0, "Seconds before the first byte of a slow answer.")
    byte_interval: float = _detail(0.01, "Seconds between the bytes of a dripping answer.")
    huge_body_bytes: int = _detail(100_000_000, "Size of a huge body.")
    execute_late_by: float = _detail(0.0, "Seconds by which late ones come after the latency.")

    outage_after: int = _outage(0, "An outage begins after this many requests; 0: never.")
    outage_for: float = _outage(10.0, "Seconds that it lasts.")
    outage_style: Literal["cut", "page"] = _outage("cut", "No answer at all, or the 502 page.")
    refuse_all: str = _outage("", "Code for all but token calls, as 99403 or MqttOwnerCheckError.")

    app_key: str = _accepted("simulator-key", "EnOS access key.")
    app_secret: str = _accepted("simulator-secret", "EnOS secret key.")
    org_id: str = _accepted("", "The one EnOS organization that exists; empty: any does.")
    access_key_id: str = _accepted("simulator-id", "Alibaba Cloud access key id.")
    access_key_secret: str = _accepted("simulator-secret", "Alibaba Cloud access key secret.")
    security_token: str = _accepted("", "STS token that ApsaraMQ calls must carry; empty: none.")
    security_token_life: float = _accepted(0.0, "Seconds until that has expired; 0: never.")
    mq_instance: str = _accepted("", "The one ApsaraMQ instance that exists; empty: any does.")

    token_life: float = _enos(7200.0, "Seconds that an access token lives.")
    refresh_ends_old: bool = _enos(False, "A refresh makes the old token invalid at once.")
    auth_error: Literal["status", "code", "kong"] = _enos(
        "status", "Shape of 1202 and 1203 on business calls; kong: a bare 401 of the gateway."
    )
    auth_error_http: int = _enos(200, "HTTP status of those, in the first two shapes.", most=599)
    unsigned_calls: bool = _enos(False, "A call with a token but without a signature passes.")
    clock_window: float = _enos(0.0, "Seconds that apim-timestamp may be off; 0: any.")
    replay_check: bool = _enos(False, "A signature that was seen before is refused.")
    business_error_http: int = _enos(200, "HTTP status of refusals by the service.", most=599)
    conflicting_device: Literal["refused", "asset"] = _enos(
        "refused", "assetId and productKey + deviceKey of two devices: an error, or assetId wins."
    )
    parameters_in_query: bool = _enos(True, "What the body does not have is taken from the query.")
    revoke_again: Literal["refused", "unbound", "ok"] = _enos(
        "refused", "Answer to revoking a revoked certificate: CA error, not in list, or success."
    )
    revoke_expired: Literal["refused", "ok"] = _enos(
        "refused", "Answer to revoking an expired certificate."
    )
    bad_reason: Literal["refused", "unspecified"] = _enos(
        "refused", "A reason that does not exist: an error, or taken as 0."
    )
    bad_valid_day: Literal["refused", "default"] = _enos(
        "refused", "A validDay that is no positive integer: an error, or the product's default."
    )
    renew_revokes_old: bool = _enos(True, "A renewal revokes the old certificate as SUPERSEDED.")
    renew_authority: Literal["RSA", "same", "refused"] = _enos(
        "RSA", "Renewals without issueAuthority: by RSA, by the old issuer, or an error for ECC."
    )
    apply_revokes_old: bool = _enos(False, "A new certificate supersedes the device's others.")
    bi_directional_auth: bool = _enos(True, "The products have two-way authentication.")
    product_default_valid_day: int = _enos(730, "Days of validity if none are asked for.")
    product_max_valid_day: int = _enos(1095, "Most days of validity; more are refused.")
    ca_life: int = _enos(3650, "Days that the CA is valid; validity is clamped to that.")
    crl_every: float = _enos(
        0.0, "Seconds between revocation lists, 86400 is daily; 0: always new."
    )
    crl_format: Literal["pem", "der"] = _enos("pem", "Encoding of the revocation list.")
    list_cert: Literal["issued", "serial", "pem"] = _enos(
        "issued", "Certificates in a list: PEM of those issued here, numbers, or PEM of all."
    )
    certificate_age: float = _enos(100.0, "Days since the certificates of the fleet were issued.")
    certificate_life: int = _enos(730, "Days of validity of the certificates of the fleet.")

    mq_source_limit: int = _mq(300, "Requests per second from one address; 0: any number.")
    mq_source_scope: Literal["all", "api"] = _mq("all", "What counts for that: all, or per API.")
    mq_block: Literal["reset", "timeout", "403"] = _mq(
        "reset", "What an address gets that sent more: it is blocked."
    )
    mq_block_for: float = _mq(60.0, "Seconds that a block lasts.")
    mq_window: Literal["sliding", "fixed", "bucket"] = _mq("sliding", "Window of --limit.")
    mq_throttle_status: Literal["400", "429", "503", "302"] = _mq("400", "Status over the limit.")
    mq_throttle_code: Literal[
        "Throttling", "Throttling.User", "Throttling.Api", "SystemOverFlow"
    ] = _mq("Throttling.User", "Code over the limit.")
    mq_throttle_headers: Literal["none", "x-acs-retry-after", "x-ratelimit"] = _mq(
        "none", "Headers over the limit."
    )
    mq_statuses: Literal["pages", "notice"] = _mq(
        "pages", "HTTP statuses of errors: of the API's pages, or of the vendor's later notice."
    )
    mq_gateway_statuses: Literal["mixed", "400"] = _mq(
        "mixed", "HTTP statuses of the gateway's errors: 400, 403 and 404, or always 400."
    )
    mq_already: Literal["ok", "error"] = _mq("ok", "Setting a state that holds already.")
    mq_sn_case: bool = _mq(True, "Serial numbers in other letter case are others.")
    mq_total: Literal["documented", "rows", "pages"] = _mq(
        "documented", "What Total of a list counts: it is documented in two ways."
    )
    mq_max_page: int = _mq(0, "Highest PageNo of a list; 0: any.")
    mq_clock_window: float = _mq(900.0, "Seconds that the date of a call may be off.")

    def __post_init__(self) -> None:
        """Check every value against what its field says."""
        for option in options():
            option.check(getattr(self, option.name))
        if (total := sum(getattr(self, name) for name in FAULTS)) > 1 + 1e-9:
            raise ValueError(f"the fault probabilities add up to {total:g}, more than 1")


@dataclass(frozen=True, slots=True)
class Option:
    """One field of `Behaviour` as an option; `choices` is empty unless only those are allowed."""

    name: str
    type: type
    choices: tuple[str, ...]
    default: Any
    group: str
    help: str
    most: float | None

    def check(self, value: Any) -> None:
        """Raise `ValueError` when the field must not have this value."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}, not {value!r}")
        if self.type in (int, float) and self.name != "seed" and value < 0:
            raise ValueError(f"{self.name} must not be negative, but is {value:g}")
        if self.most is not None and value > self.most:
            raise ValueError(f"{self.name} must be at most {self.most:g}, but is {value:g}")


def options() -> Iterator[Option]:
    """Every field of `Behaviour`, in order."""
    hints = get_type_hints(Behaviour)
    for field in dataclasses.fields(Behaviour):
        hint = hints[field.name]
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        yield Option(
            name=field.name,
            type=str if choices else hint,
            choices=choices,
            default=field.default,
            **field.metadata,
        )


FAULTS = tuple(option.name for option in options() if option.group.startswith("Faults"))
"""Names of the faults, in the order in which they share the numbers from 0 to 1."""
