"""What a look-up and a verification conclude from a response. Nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Operation,
    Outcome,
)
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
        return self._result


async def look_up(action: str, result: CallResult) -> LookupResult:
    step = StatusChange(Scripted(result), action)  # type: ignore[arg-type]
    return await step.look_up(Operation(1, 1, dict(NAMES)), lambda _: None)


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
        ("inactivate", 0, LookupKind.HOLDS),
        ("activate", 1, LookupKind.HOLDS),
        ("inactivate", "2", LookupKind.UNCLEAR),
        ("inactivate", True, LookupKind.UNCLEAR),
        ("delete", "2", LookupKind.UNCLEAR),
    ],
)
async def test_a_status_settles_a_look_up(action: str, status: Any, kind: LookupKind) -> None:
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
@pytest.mark.parametrize("data", [None, {}, [], "x", {"Status": "0"}, VO | {"Status": None}])
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


async def test_a_serial_number_may_come_back_as_a_number() -> None:
    """Without its leading zeros, which make it another one."""
    step = StatusChange(Scripted(shown(None)), "inactivate")  # type: ignore[arg-type]
    for ours, echo, kind in (
        ("356217374433000001", 356217374433000001, AttemptKind.DONE),
        ("007", 7, AttemptKind.IN_DOUBT),
        ("1", True, AttemptKind.IN_DOUBT),
        ("1", 1.0, AttemptKind.IN_DOUBT),
    ):
        call = CallResult(CallKind.OK, "OK", "", "R", {"RequestId": "R", "DeviceSn": echo})
        step = StatusChange(Scripted(call), "inactivate")  # type: ignore[arg-type]
        operation = Operation(1, 1, {"DeviceSn": ours, "CaSn": "007"})
        assert (await step.attempt(operation, lambda _: None)).kind is kind


# ---- pages


class Pages(Scripted):
    """Stands in for the service: a list whose pages are given."""

    def __init__(self, *pages: list[dict[str, str]] | None, **more: Any) -> None:
        self._pages, self._more = pages, more
        self.asked_for: list[int] = []

    async def call(self, request: Request, on_departure: OnDeparture) -> CallResult:
        number = int(dict(request.query)["PageNo"])
        self.asked_for.append(number)
        items = self._pages[min(number, len(self._pages)) - 1]
        data = {"PageNo": number, "PageSize": 100, "DeviceCertificateVOS": items}
        return shown(data | self._more)


def certificates(first: int, count: int) -> list[dict[str, str]]:
    return [VO | {"DeviceSn": f"{number:04}"} for number in range(first, first + count)]


async def read_all(
    service: Pages, step: PageQuery | None = None, first: int = 1
) -> tuple[AttemptResult, int]:
    """Read page by page as a run does; return the last result and the number of certificates."""
    step = step or PageQuery(service)  # type: ignore[arg-type]
    fields: dict[str, Any] | None = {"CaSn": "007"} | ({"PageNo": first} if first > 1 else {})
    count = 0
    while fields is not None:
        result = await step.attempt(Operation(1, 1, fields), lambda _: None)
        count += len(result.result["certificates"]) if result.result else 0
        fields = result.next_page
    return result, count


SHORT = (certificates(0, 60), certificates(60, 100), certificates(160, 30))
"""A page that is shorter than it could be is not the last."""


@pytest.mark.parametrize(
    ("more", "asked_for"),
    [
        ({"Total": 190}, [1, 2, 3]),
        ({"Total": 3}, [1, 2, 3]),
        ({"Total": "190"}, [1, 2, 3]),
        ({}, [1, 2, 3, 4]),
        ({"Total": 1000}, [1, 2, 3, 4]),
    ],
)
async def test_a_short_page_does_not_end_a_list(more: Any, asked_for: list[int]) -> None:
    service = Pages(*SHORT, [], **more)
    result, count = await read_all(service)
    assert (result.kind, count, service.asked_for) == (AttemptKind.DONE, 190, asked_for)
    assert result.message.endswith(", the last")


@pytest.mark.parametrize("nothing", [[], None])
async def test_after_a_full_page_an_empty_one_ends_the_list(nothing: Any) -> None:
    """Some services write null for an empty list."""
    service = Pages(certificates(0, 100), nothing, Total=100)
    result, count = await read_all(service)
    assert (result.kind, count, service.asked_for) == (AttemptKind.DONE, 100, [1, 2])
    assert result.message == "page 2: 0 certificates, the last"


async def test_a_list_that_is_continued_reads_on_to_an_empty_page() -> None:
    service = Pages(*SHORT, [], Total=190)
    result, count = await read_all(service, first=2)
    assert (result.kind, count, service.asked_for) == (AttemptKind.DONE, 130, [2, 3, 4])


@pytest.mark.parametrize("size", [30, 100])
async def test_a_page_that_repeats_itself_ends_in_a_failure(size: int) -> None:
    service = Pages(certificates(0, 100), certificates(100, size))
    result, count = await read_all(service)
    assert (result.kind, count, service.asked_for) == (AttemptKind.REFUSED, 100 + size, [1, 2, 3])
    assert result.message == f"page 3: {size} certificates, the same as on the page before"


async def test_a_page_that_is_asked_for_again_does_not_repeat_itself() -> None:
    service = Pages(*SHORT, [], Total=190)
    step = PageQuery(service)  # type: ignore[arg-type]
    for _ in range(2):
        result, count = await read_all(service, step)
        assert (result.kind, count) == (AttemptKind.DONE, 190)


async def test_the_memory_of_former_pages_is_bounded() -> None:
    service = Pages(*SHORT, [], Total=190)
    step = PageQuery(service, most_remembered=3)  # type: ignore[arg-type]
    for line in range(10):
        await step.attempt(Operation(1, line, {"CaSn": "007"}), lambda _: None)
    assert len(step._former) == 3


async def test_an_endless_list_is_cut_off() -> None:
    """The last page is the one that completes ten million certificates."""
    service = Pages(certificates(0, 100))
    step = PageQuery(service)  # type: ignore[arg-type]
    operation = Operation(1, 1, {"CaSn": "007", "PageNo": 100_000})
    result = await step.attempt(operation, lambda _: None)
    assert result.kind is AttemptKind.REFUSED
    assert result.message == "page 100000: 100 certificates, and no end"
    before = Operation(1, 1, {"CaSn": "007", "PageNo": 99_999})
    assert (await step.attempt(before, lambda _: None)).kind is AttemptKind.DONE


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
