"""ApsaraMQ for MQTT for the harness: its `Vendor` value, and rows of target files."""

from __future__ import annotations

from typing import Any

from job_folder import Row
from vendor import ActionCase, FaultCase, Vendor

CREDENTIALS = {
    "ALIBABA_CLOUD_ACCESS_KEY_ID": "simulator-id",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "simulator-secret",
}
CA = "007269004887000001"
INSTANCE = "post-cn-7mz2d000001"
SENDS = {
    "inactivate": "InactivateDeviceCertificate",
    "activate": "ActiveDeviceCertificate",
    "delete": "DeleteDeviceCertificate",
    "get": "GetDeviceCertificate",
}
"""The vendor's name of each action."""


def devices(count: int) -> list[Row]:
    """Rows of a target file; the serial numbers begin with zeros and have letters of both cases."""
    return [{"DeviceSn": f"00aF{number:04}", "CaSn": CA} for number in range(count)]


_ON, _OFF = {"Status": "1"}, {"Status": "0"}
_EITHER = (({"mq_already": "ok"}, "succeeded"), ({"mq_already": "error"}, "already_done"))
"""Setting the state that a certificate has already: known only where the provider says so."""


def _with(status: Row) -> Any:
    return lambda rows: [row | status for row in rows]


def _of_another_ca(row: Row) -> Row:
    return row | {"CaSn": "another"}


def _fault(name: str, **more: Any) -> FaultCase:
    """A case with one fault, which three in ten requests meet."""
    kind = name.partition(" ")[0]
    # a redirect may be a throttle, and is counted as one
    tolerated = "throttled" if kind == "redirect" else ""
    return FaultCase(
        name=name,
        behaviour={kind: 0.3, "seed": 3} | more,
        rows=30,
        kinds=frozenset({kind}),
        tolerated=tolerated,
    )


INACTIVATE = ActionCase(
    name="inactivate",
    rows=devices,
    sends=(SENDS["inactivate"],),
    look_up=SENDS["get"],
    before=_with(_ON),
    done=_with(_OFF),
    already=_EITHER,
    wanted="inactive",
    lookalike=_of_another_ca,
    absent="FindDeviceBySnError",
    not_executed="; looked up: the certificate is",
)
ACTIVATE = ActionCase(
    name="activate",
    rows=devices,
    sends=(SENDS["activate"],),
    look_up=SENDS["get"],
    before=_with(_OFF),
    done=_with(_ON),
    already=_EITHER,
    wanted="active",
    lookalike=_of_another_ca,
    absent="FindDeviceBySnError",
    not_executed="; looked up: the certificate is",
)
DELETE = ActionCase(
    name="delete",
    rows=devices,
    sends=(SENDS["delete"],),
    look_up=SENDS["get"],
    before=_with(_ON),
    done=lambda rows: [{"DeviceSn": "another", "CaSn": CA}],
    already=(({"mq_already": "ok"}, "already_done"), ({"mq_already": "error"}, "already_done")),
    wanted="not registered",
    not_executed="; looked up: the certificate is",
)
GET = ActionCase(
    name="get",
    rows=devices,
    sends=(SENDS["get"],),
    before=_with(_ON),
    lookalike=_of_another_ca,
    absent="FindDeviceBySnError",
)

APSARAMQ = Vendor(
    name="apsaramq",
    credentials=CREDENTIALS,
    connection={"instance_id": INSTANCE},
    limits={"requests_per_second": 5000, "requests_per_second_per_source_ip": 5000},
    behaviour={"limit": 0, "mq_source_limit": 0, "retry_after": 0},
    actions=(INACTIVATE, ACTIVATE, DELETE, GET),
    success="OK",
    opening=frozenset({SENDS["get"]}),
    faults=(
        _fault("error_before"),
        _fault("error_after"),
        _fault("error_after by the notice", mq_statuses="notice"),
        _fault("cut_before"),
        _fault("cut_after"),
        _fault("cut_after by reset", cut_style="reset"),
        _fault("cut_inside"),
        _fault("page_before"),
        _fault("page_after"),
        _fault("html_ok"),
        _fault("redirect"),
        _fault("json_cut_short"),
        _fault("wrong_types"),
        _fault("gzip_anyway"),
        _fault("large_header"),
        _fault("surplus"),
        _fault("contradiction"),
        _fault("overload_retry_after"),
        _fault("page_late"),
    ),
    always_executed=("error_after", "cut_after", "page_after", "wrong_types"),
    never_executed=("error_before", "cut_before", "page_before", "html_ok"),
    lookup_faults={
        "seed": 1,
        **dict.fromkeys(("cut_after", "json_cut_short", "page_before", "wrong_types"), 0.1),
    },
    late={
        "seed": 3,
        "slow_first_byte": 0.2,
        "slow_first_byte_by": 0.9,
        "execute_late": 0.2,
        "execute_late_by": 0.7,
    },
    outage={"outage_after": 1},
    refusals=({"mq_statuses": "pages"}, {"mq_statuses": "notice"}),
    throttles=(
        {"throttle": 0.3},
        {"throttle": 0.3, "mq_throttle_status": "429", "mq_throttle_code": "Throttling"},
        {"throttle": 0.3, "mq_throttle_status": "302", "mq_throttle_code": "Throttling.Api"},
        {"throttle_retry_after": 0.3, "mq_throttle_status": "503"},
        {"system_overflow": 0.3},
        {"system_overflow": 0.3, "mq_statuses": "notice"},
        {"limit": 12, "mq_throttle_headers": "x-ratelimit"},
    ),
    turned_away=lambda entry: str(entry["code"]).startswith(("Throttling", "SystemOverFlow")),
    wait={"limit": 5, "retry_after": 1, "mq_throttle_headers": "x-acs-retry-after"},
    bad_credentials=(
        ({"ALIBABA_CLOUD_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId.NotFound"),
        ({"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "wrong"}, "SignatureDoesNotMatch"),
        (
            {"ALIBABA_CLOUD_SECURITY_TOKEN": "STS.x"},
            "InvalidSecurityToken.MismatchWithAccessKey",
        ),
    ),
    expiry={"token_expired": 0.05, "seed": 5},
    crash={"latency": 0.05, "error_after": 0.1, "seed": 1},
    expiry_stops="InvalidSecurityToken.Expired",
)
