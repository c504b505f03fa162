"""How the simulator behaves: each behaviour and fault as one field, with its default and help.

In: nothing; this is plain data. Out: `Behaviour`, and the options of `bulkcert simulate`, which are
made from its fields, so that each option is written once. It must stay importable without a network
library. Times in seconds are floats, and so are shares and probabilities, from 0 to 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

_FAULTS = "Faults (each value is the share of requests that meet the fault)"


def _option(group: str, default: Any, text: str, *, most: float | None = None) -> Any:
    """A field with what its option needs. Numbers must be at least 0 and at most `most`."""
    metadata = {"group": group, "help": text, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


def _fault(text: str) -> Any:
    """The share of requests that meet a fault."""
    return _option(_FAULTS, 0.0, text, most=1.0)


def _of(group: str) -> Any:
    def option(default: Any, text: str, *, most: float | None = None) -> Any:
        return _option(group, default, text, most=most)

    return option


_general = _of("General")
_speed = _of("Response times")
_limits = _of("Rate limits")
_detail = _of("Details of faults")
_outage = _of("Outage, and refusal of all calls")
_accepted = _of("Accepted credentials, organization and instance")
_enos = _of("EnOS")
_mq = _of("ApsaraMQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """All settings of the simulator. The defaults are a vendor without any problems.

    Raises:
        ValueError: a value is out of range, or the fault probabilities add up to more than 1.
    """

    seed: int = _general(0, "Seed of all random draws; the same request meets the same fault.")
    keep_alive: float = _general(75.0, "Seconds after which an idle connection is closed.")
    keep_alive_requests: int = _general(0, "Requests after which a connection is closed; 0: never.")

    dates: bool = _general(True, "Send a Date header with each response.")
    dates_ahead: float = _general(0.0, "Seconds by which dates in headers are ahead.")
    cache_for: float = _general(
        0.0, "Seconds for which a cache repeats its response to a GET, with Age; 0: no cache."
    )
    cache_obeys: bool = _general(True, "That cache obeys Cache-Control: no-cache.")
    bom: bool = _general(False, "JSON begins with a byte order mark.")
    null_lists: bool = _general(False, "An empty list is null.")
    odd_items: bool = _general(
        False, "A list has one more certificate: a foreign one of unknown status."
    )

    latency: float = _speed(0.0, "Seconds from the arrival of a request to its response.")
    latency_spread: float = _speed(0.0, "Adds between 0 and this many seconds, uniformly.")
    latency_tail: float = _speed(0.0, "Seconds added to the slowest responses.")
    latency_tail_share: float = _speed(0.0, "Share of responses that are that slow.", most=1.0)

    limit: int = _limits(
        500, "Requests per rolling second: EnOS in total, ApsaraMQ per API; 0: unlimited."
    )
    limit_counts_refused: bool = _limits(False, "Refused requests also use up the limit.")
    limit_headers: Literal["none", "x-ratelimit", "retry-after"] = _limits(
        "none", "Headers of the EnOS gateway's 429 for requests over the limit."
    )
    retry_after: int = _limits(1, "Seconds in a Retry-After header, wherever one is sent.")
    retry_after_form: Literal["seconds", "date"] = _limits(
        "seconds", "Form of a Retry-After header: a number, or a date."
    )

    throttle: float = _fault("429 (ApsaraMQ: Throttling) without Retry-After; not executed.")
    throttle_retry_after: float = _fault("The same with Retry-After; not executed.")
    error_before: float = _fault("99500 (token: 1005, ApsaraMQ: InternalError); not executed.")
    error_after: float = _fault("The same, but executed.")
    cut_before: float = _fault("The connection is cut without a response; not executed.")
    cut_after: float = _fault("The same, but executed.")
    cut_inside: float = _fault("The connection is cut inside the response; executed.")
    page_before: float = _fault("A gateway's 502 HTML page; not executed.")
    page_after: float = _fault("The same, but executed.")
    token_expired: float = _fault("1203 (ApsaraMQ: expired security token); not executed.")
    system_overflow: float = _fault("ApsaraMQ SystemOverFlow (EnOS: 503); not executed.")
    slow_first_byte: float = _fault("A long silence before the response; executed.")
    byte_by_byte: float = _fault("The response comes one byte at a time; executed.")
    json_cut_short: float = _fault("Half of the JSON in a complete HTTP response; executed.")
    wrong_types: float = _fault("JSON of another type, or with values of other types; executed.")
    html_ok: float = _fault("200 with an HTML page; not executed.")
    redirect: float = _fault("302 to a path here that responds with success; not executed.")
    huge_body: float = _fault("A response of a hundred megabytes; executed.")
    execute_late: float = _fault(
        "Executed only when the response is due, or --execute-late-by after that."
    )
    page_late: float = _fault("A gateway's 504 HTML page; executed --execute-late-by after that.")
    overload_retry_after: float = _fault("503 with Retry-After; not executed.")
    gzip_anyway: float = _fault("Compressed although nobody asked for it; executed.")
    large_header: float = _fault("A header of 16 KiB; executed.")
    surplus: float = _fault("The response is sent twice on its connection; executed.")
    contradiction: float = _fault("Two numbers that contradict each other; executed.")

    faults_on: str = _detail("", "Actions that meet faults, separated by commas; empty: all.")
    cut_style: Literal["close", "reset"] = _detail("close", "How connections are cut: FIN or RST.")
    slow_first_byte_by: float = _detail(5.0, "Seconds before the first byte of a slow response.")
    byte_interval: float = _detail(0.01, "Seconds between bytes that are sent one at a time.")
    huge_body_bytes: int = _detail(100_000_000, "Size of a huge body.")
    execute_late_by: float = _detail(0.0, "Seconds that late executions add to the latency.")

    outage_after: int = _outage(0, "Number of requests after which an outage begins; 0: never.")
    outage_for: float = _outage(10.0, "Duration of the outage in seconds.")
    outage_style: Literal["cut", "page"] = _outage("cut", "No response at all, or a 502 page.")
    refuse_all: str = _outage(
        "", "Code for all calls except token calls, such as 99403 or MqttOwnerCheckError."
    )

    app_key: str = _accepted("simulator-key", "EnOS access key.")
    app_secret: str = _accepted("simulator-secret", "EnOS secret key.")
    org_id: str = _accepted("", "The only EnOS organization that exists; empty: any.")
    access_key_id: str = _accepted("simulator-id", "Alibaba Cloud access key ID.")
    access_key_secret: str = _accepted("simulator-secret", "Alibaba Cloud access key secret.")
    security_token: str = _accepted("", "STS token that ApsaraMQ calls must carry; empty: none.")
    security_token_life: float = _accepted(0.0, "Seconds until the STS token expires; 0: never.")
    mq_instance: str = _accepted("", "The only ApsaraMQ instance that exists; empty: any.")

    token_life: float = _enos(7200.0, "Seconds that an access token is valid.")
    refresh_ends_old: bool = _enos(False, "A refresh invalidates the old token at once.")
    auth_error: Literal["status", "code", "kong"] = _enos(
        "code", "Format of 1202 and 1203 on business calls; kong: the gateway's plain 401."
    )
    auth_error_http: int = _enos(
        401, "HTTP status of those errors, in the first two formats.", most=599
    )
    unsigned_calls: bool = _enos(False, "Accept calls with a token but without a signature.")
    clock_window: float = _enos(0.0, "Seconds by which apim-timestamp may be off; 0: any.")
    replay_check: bool = _enos(False, "Refuse a signature that was used before.")
    business_error_http: int = _enos(200, "HTTP status of the service's refusals.", most=599)
    conflicting_device: Literal["refused", "asset"] = _enos(
        "refused", "If assetId and productKey + deviceKey differ: an error, or assetId wins."
    )
    parameters_in_query: bool = _enos(True, "Take parameters missing in the body from the query.")
    revoke_again: Literal["refused", "unbound", "ok"] = _enos(
        "refused", "Revoking a revoked certificate: CA error, not-in-list error, or success."
    )
    revoke_expired: Literal["refused", "ok"] = _enos(
        "refused", "Revoking an expired certificate: an error, or success."
    )
    bad_reason: Literal["refused", "unspecified"] = _enos(
        "refused", "A reason that does not exist: an error, or taken as 0."
    )
    bad_valid_day: Literal["refused", "default"] = _enos(
        "refused", "A validDay that is not a positive integer: an error, or the product's default."
    )
    renew_revokes_old: bool = _enos(True, "A renewal revokes the old certificate as SUPERSEDED.")
    renew_authority: Literal["RSA", "same", "refused"] = _enos(
        "RSA", "Renewals without issueAuthority: by RSA, by the old issuer, or an error for ECC."
    )
    apply_revokes_old: bool = _enos(False, "A new certificate supersedes the device's others.")
    read_only: str = _enos(
        "", "Devices by assetId, separated by commas, that may be listed but not changed: 99403."
    )
    bi_directional_auth: bool = _enos(True, "The products have two-way authentication.")
    product_default_valid_day: int = _enos(730, "Days of validity if a call asks for none.")
    product_max_valid_day: int = _enos(1095, "Maximum days of validity; more are refused.")
    ca_life: int = _enos(3650, "Days that the CA is valid; no certificate outlives it.")
    crl_every: float = _enos(
        0.0, "Seconds between revocation lists, 86400 for daily; 0: new on each request."
    )
    crl_format: Literal["pem", "der"] = _enos("pem", "Encoding of the revocation list.")
    list_cert: Literal["issued", "serial", "pem", "base64"] = _enos(
        "issued", "cert in a list: PEM if issued here, the serial number, always PEM, or base64."
    )
    bare_devices: bool = _enos(
        False,
        "A device of the fleet file whose rows name no certificate has none; else it has one.",
    )
    list_dates: Literal["number", "text"] = _enos("number", "Form of the dates in a list.")
    list_authority: bool = _enos(True, "A list shows the issueAuthority.")
    ca_cert: bool = _enos(True, "A new certificate comes with its CA's, not only with its address.")
    ca_clock_behind: float = _enos(
        0.0, "Seconds by which the CA's clock is behind: it dates new certificates."
    )
    certificate_age: float = _enos(100.0, "Days since the fleet's certificates were issued.")
    certificate_life: int = _enos(730, "Days of validity of the fleet's certificates.")

    mq_source_limit: int = _mq(300, "Requests per second from one address; 0: unlimited.")
    mq_source_scope: Literal["all", "api"] = _mq("all", "That limit is for all APIs, or for each.")
    mq_block: Literal["reset", "timeout", "403"] = _mq(
        "reset", "How requests from a blocked address fail."
    )
    mq_block_for: float = _mq(60.0, "Seconds that an address over the limit is blocked.")
    mq_window: Literal["sliding", "fixed", "bucket"] = _mq("sliding", "Kind of window of --limit.")
    mq_throttle_status: Literal["400", "429", "503", "302"] = _mq(
        "400", "HTTP status over the limit."
    )
    mq_throttle_code: Literal[
        "Throttling", "Throttling.User", "Throttling.Api", "SystemOverFlow"
    ] = _mq("Throttling.User", "Code over the limit.")
    mq_throttle_headers: Literal["none", "x-acs-retry-after", "x-ratelimit", "retry-after"] = _mq(
        "none", "Headers over the limit."
    )
    mq_limit_scope: Literal["api", "all"] = _mq("api", "--limit is for each API, or for all.")
    mq_gateway_xml: bool = _mq(False, "The gateway's refusals are XML, whatever the call asks for.")
    mq_statuses: Literal["pages", "notice"] = _mq(
        "pages",
        "HTTP statuses of errors: as in the API reference, or in the vendor's later notice.",
    )
    mq_gateway_statuses: Literal["mixed", "400"] = _mq(
        "mixed", "HTTP statuses of the gateway's errors: 400, 403 and 404, or always 400."
    )
    mq_already: Literal["ok", "error"] = _mq(
        "ok", "Setting the state that a certificate already has: success, or an error."
    )
    mq_sn_case: bool = _mq(True, "Serial numbers are case-sensitive.")
    mq_total: Literal["documented", "rows", "pages"] = _mq(
        "documented", "What Total counts in a list; the vendor documents it in two ways."
    )
    mq_max_page: int = _mq(0, "Highest PageNo of a list; 0: any.")
    mq_clock_window: float = _mq(900.0, "Seconds by which the date of a call may be off.")
    mq_clock_window_v1: float = _mq(1860.0, "The same for calls with the older signature, V1.")

    def __post_init__(self) -> None:
        """Check every value against its field's limits."""
        for option in options():
            option.check(getattr(self, option.name))
        if (total := sum(getattr(self, name) for name in FAULTS)) > 1 + 1e-9:
            raise ValueError(f"the fault probabilities add up to {total:g}, more than 1")


@dataclass(frozen=True, slots=True)
class Option:
    """One field of `Behaviour` as an option.

    Attributes:
        choices: the values allowed; empty if the type allows any.
        group: heading of the option's group in the help.
        most: largest number allowed, or None.
    """

    name: str
    type: type
    choices: tuple[str, ...]
    default: Any
    group: str
    help: str
    most: float | None

    def check(self, value: Any) -> None:
        """Raise `ValueError` if the field can't have this value."""
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


FAULTS = tuple(option.name for option in options() if option.group == _FAULTS)
"""Names of the faults, in the order in which they divide the interval from 0 to 1."""
