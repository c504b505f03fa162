"""What a look-up and a verification conclude from a response. Nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from bulkcert.model import AttemptKind, LookupKind, LookupResult, Operation, Outcome
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.apsaramq.change import StatusChange
from bulkcert.providers.apsaramq.query import PageQuery
from bulkcert.providers.apsaramq.verification import difference
from bulkcert.providers.base import RecordedResult
from bulkcert.providers.call import CallKind, CallResult, OnDeparture, Request

NAMES = {"DeviceSn": "00F2", "CaSn": "007"}
VO = NAMES | {"Status": "1"}
NOT_FOUND = CallResult(CallKind.REFUSED, "FindDeviceBySnError", "not found")
CHANGES = ["inactivate", "activate", "delete"]


class Scripted:
    """Stands in for the service: every call has the same result."""

    instance_id = "i"

    def __init__(self, result: CallResult) -> None:
        self._result = result

    def fields(self, operation: Operation) -> dict[str, Any]:
        return operation.fields

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        assert request.method == "GET"
        return self._result


async def look_up(action: str, result: CallResult) -> LookupResult:
    step = StatusChange(Scripted(result), action)  # type: ignore[arg-type]
    return await step.look_up(Operation(1, 1, dict(NAMES)), lambda: None)


def shown(data: Any) -> CallResult:
    return CallResult(CallKind.OK, "OK", "", "R", {"RequestId": "R", "Data": data})


@pytest.mark.parametrize(
    ("action", "status", "kind"),
    [
        ("inactivate", "0", LookupKind.HOLDS),
        ("inactivate", "1", LookupKind.ABSENT),
        ("activate", "0", LookupKind.ABSENT),
        ("activate", "1", LookupKind.HOLDS),
        ("delete", "0", LookupKind.ABSENT),
        ("delete", "1", LookupKind.ABSENT),
        ("inactivate", "2", LookupKind.UNCLEAR),
        ("delete", "2", LookupKind.UNCLEAR),
    ],
)
async def test_a_status_settles_a_look_up(action: str, status: str, kind: LookupKind) -> None:
    response = await look_up(action, shown(VO | {"Status": status}))
    assert (response.kind, response.result) == (kind, None)
    assert response.message.startswith("the certificate ")


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("inactivate", LookupKind.REFUSED),
        ("activate", LookupKind.REFUSED),
        ("delete", LookupKind.HOLDS),
    ],
)
async def test_an_absent_certificate_settles_a_look_up(action: str, kind: LookupKind) -> None:
    assert (await look_up(action, NOT_FOUND)).kind is kind


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("other", [{"DeviceSn": "00f2"}, {"CaSn": "7"}])
async def test_another_certificate_settles_nothing(action: str, other: dict[str, str]) -> None:
    assert (await look_up(action, shown(VO | other))).kind is LookupKind.UNCLEAR


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("data", [None, {}, [], "x", {"Status": "0"}, VO | {"Status": 0}])
async def test_a_malformed_certificate_makes_the_look_up_fail(action: str, data: Any) -> None:
    response = await look_up(action, shown(data))
    assert (response.kind, response.result) == (LookupKind.FAILED, None)


@pytest.mark.parametrize("action", CHANGES)
async def test_a_refused_look_up_settles_nothing(action: str) -> None:
    response = await look_up(
        action, CallResult(CallKind.DISPUTED, "ParameterFieldCheckFailed", "bad")
    )
    assert response.kind is LookupKind.UNCLEAR
    assert response.message == "the look-up was refused: ParameterFieldCheckFailed bad"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (CallKind.IN_DOUBT, LookupKind.FAILED),
        (CallKind.NOT_SENT, LookupKind.NOT_SENT),
        (CallKind.THROTTLED, LookupKind.THROTTLED),
    ],
)
async def test_a_call_that_fails_is_a_failed_look_up(kind: CallKind, expected: LookupKind) -> None:
    result = await look_up("inactivate", CallResult(kind, message="lost"))
    assert (result.kind, result.message) == (expected, "lost")


async def test_an_endless_list_is_cut_off() -> None:
    """The last page is the one that completes ten million certificates."""
    page = {"PageNo": 100_000, "PageSize": 100, "DeviceCertificateVOS": [VO] * 100}
    step = PageQuery(Scripted(shown(page)))  # type: ignore[arg-type]
    operation = Operation(1, 1, {"CaSn": "007", "PageNo": 100_000})
    result = await step.attempt(operation, lambda: None)
    assert result.kind is AttemptKind.REFUSED
    assert result.message == "page 100000: 100 certificates, and no end"
    before = Operation(1, 1, {"CaSn": "007", "PageNo": 99_999})
    step = PageQuery(Scripted(shown(page | {"PageNo": 99_999})))  # type: ignore[arg-type]
    assert (await step.attempt(before, lambda: None)).kind is AttemptKind.DONE


ACTIVE = {"certificates": [{"Status": "active"}]}
INACTIVE = {"certificates": [{"Status": "inactive"}]}
DONE, BEFORE, FAILED, UNKNOWN = (
    *(Outcome.SUCCEEDED, Outcome.ALREADY_DONE, Outcome.FAILED, Outcome.UNKNOWN),
)


@pytest.mark.parametrize(
    ("action", "outcome", "read", "expected"),
    [
        ("inactivate", DONE, INACTIVE, ""),
        ("inactivate", BEFORE, INACTIVE, ""),
        ("inactivate", DONE, ACTIVE, "the certificate is active, and should be inactive"),
        ("inactivate", DONE, None, "the certificate is not registered, and should be inactive"),
        ("inactivate", FAILED, ACTIVE, ""),
        ("inactivate", FAILED, None, ""),
        ("inactivate", FAILED, INACTIVE, "the certificate is inactive"),
        ("inactivate", UNKNOWN, INACTIVE, "was unknown; the certificate is inactive"),
        ("activate", DONE, ACTIVE, ""),
        ("activate", DONE, INACTIVE, "the certificate is inactive, and should be active"),
        ("delete", DONE, None, ""),
        ("delete", BEFORE, None, ""),
        ("delete", DONE, ACTIVE, "the certificate is active, and should be not registered"),
        ("delete", FAILED, None, "the certificate is not registered"),
        ("delete", UNKNOWN, None, "was unknown; the certificate is not registered"),
    ],
)
def test_differences_from_the_results_are_named(
    action: str, outcome: Outcome, read: Any, expected: str
) -> None:
    assert difference(RecordedResult(action, NAMES, outcome, None), read) == expected


@pytest.mark.parametrize("action", APSARAMQ.actions)
def test_every_action_has_a_sample_without_secrets(action: str) -> None:
    options = {"instance_id": "post-cn-7mz2d000001"}
    sample = APSARAMQ.sample(APSARAMQ.actions[action], options, NAMES)
    assert "CaSn=007" in sample.request.target
    assert sample.headers["x-acs-version"] == "2020-04-20"
    assert sample.headers["Authorization"] == "ACS3-HMAC-SHA256 ********"
