"""What a look-up, and a reading back, make of what they see. Nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkcert.model import Answer, AnswerKind, Operation, Outcome
from bulkcert.providers.apsaramq.actions import APSARAMQ
from bulkcert.providers.apsaramq.change import Change
from bulkcert.providers.apsaramq.verification import difference
from bulkcert.providers.base import RecordedResult, Setup
from bulkcert.providers.call import Request
from bulkcert.ratelimit import Pacer

NAMES = {"DeviceSn": "00F2", "CaSn": "007"}
VO = NAMES | {"Status": "1"}
NOT_FOUND = Answer(AnswerKind.REFUSED, "FindDeviceBySnError", "not found")
CHANGES = ["inactivate", "activate", "delete"]


class Told:
    """Stands for the client: every call has the same answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def call(self, request: Request, on_departure: Callable[[], None]) -> Answer:
        assert dict(request.headers)["x-acs-action"] == "GetDeviceCertificate"
        return self._answer


async def look(action: str, answer: Answer) -> Answer:
    setup = Setup(
        action=APSARAMQ.actions[action],
        endpoint="",
        options={"instance_id": "i"},
        parameters={},
        credentials={},
        pace=Pacer(1),
        timeout_s=1.0,
        directory=Path(),
    )
    handler = Change(Told(answer), setup)  # type: ignore[arg-type]
    return await handler.look(Operation(1, 1, dict(NAMES)), lambda: None)


def shown(data: Any) -> Answer:
    return Answer(AnswerKind.DONE, "OK", "", "R", {"RequestId": "R", "Data": data})


@pytest.mark.parametrize(
    ("action", "status", "kind"),
    [
        ("inactivate", "0", AnswerKind.HOLDS),
        ("inactivate", "1", AnswerKind.ABSENT),
        ("activate", "0", AnswerKind.ABSENT),
        ("activate", "1", AnswerKind.HOLDS),
        ("delete", "0", AnswerKind.ABSENT),
        ("delete", "1", AnswerKind.ABSENT),
        ("inactivate", "2", AnswerKind.UNCLEAR),
        ("delete", "2", AnswerKind.UNCLEAR),
    ],
)
async def test_a_status(action: str, status: str, kind: AnswerKind) -> None:
    answer = await look(action, shown(VO | {"Status": status}))
    assert (answer.kind, answer.result) == (kind, None)
    assert answer.message.startswith("the certificate ")


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("inactivate", AnswerKind.REFUSED),
        ("activate", AnswerKind.REFUSED),
        ("delete", AnswerKind.HOLDS),
    ],
)
async def test_a_certificate_that_is_not_there(action: str, kind: AnswerKind) -> None:
    assert (await look(action, NOT_FOUND)).kind is kind


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("other", [{"DeviceSn": "00f2"}, {"CaSn": "7"}])
async def test_another_certificate_settles_nothing(action: str, other: dict[str, str]) -> None:
    assert (await look(action, shown(VO | other))).kind is AnswerKind.UNCLEAR


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("data", [None, {}, [], "x", {"Status": "0"}, VO | {"Status": 0}])
async def test_what_is_no_certificate_is_looked_up_again(action: str, data: Any) -> None:
    answer = await look(action, shown(data))
    assert (answer.kind, answer.result) == (AnswerKind.IN_DOUBT, None)


@pytest.mark.parametrize("action", CHANGES)
async def test_a_look_that_is_refused_settles_nothing(action: str) -> None:
    answer = await look(action, Answer(AnswerKind.DISPUTED, "ParameterFieldCheckFailed", "bad"))
    assert answer.kind is AnswerKind.UNCLEAR
    assert answer.message == "the look-up was refused: ParameterFieldCheckFailed bad"


@pytest.mark.parametrize("kind", [AnswerKind.IN_DOUBT, AnswerKind.NOT_SENT, AnswerKind.THROTTLED])
async def test_a_look_that_fails_stays_what_it_is(kind: AnswerKind) -> None:
    assert (await look("inactivate", Answer(kind, message="lost"))).kind is kind


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
def test_differences(action: str, outcome: Outcome, read: Any, expected: str) -> None:
    assert difference(RecordedResult(action, NAMES, outcome, None), read) == expected


@pytest.mark.parametrize("action", APSARAMQ.actions)
def test_every_action_has_a_sample_without_secrets(action: str) -> None:
    options = {"instance_id": "post-cn-7mz2d000001"}
    sample = APSARAMQ.sample(APSARAMQ.actions[action], options, NAMES)
    assert "CaSn=007" in sample.request.target
    assert sample.headers["x-acs-version"] == "2020-04-20"
    assert sample.headers["Authorization"] == "ACS3-HMAC-SHA256 ********"
