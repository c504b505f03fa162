"""The certificates of a device, as `list` tells them.

The vendor spells some names in two ways, in its tables and in its samples; both are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from bulkcert.model import Answer, AnswerKind


class Status(IntEnum):
    """`certStatus`."""

    VALID = 0
    REVOKED = 1
    EXPIRED = 2


class Certificate(NamedTuple):
    """What is needed of one certificate to decide."""

    serial: int
    status: Status
    revoker_reason: str


def read_certificates(answer: Answer) -> list[Certificate] | Answer:
    """Read the answer to a `list` call, or turn it into the answer of a failed look-up."""
    match answer.kind:
        case AnswerKind.DONE:
            pass
        case AnswerKind.REFUSED | AnswerKind.DISPUTED:
            said = f"list was refused: {answer.code} {answer.message}"
            return Answer(AnswerKind.UNCLEAR, answer.code, said, answer.request_id)
        case _:
            return answer
    try:
        return [_certificate(item) for item in answer.result]
    except (TypeError, ValueError, KeyError) as error:
        problem = f"list answered with something else than certificates ({type(error).__name__})"
        return Answer(AnswerKind.IN_DOUBT, answer.code, problem, answer.request_id)


def find(certificates: Iterable[Certificate], serial: int) -> Certificate | None:
    """The certificate with this serial number."""
    return next((c for c in certificates if c.serial == serial), None)


def _certificate(item: dict[str, Any]) -> Certificate:
    serial = item["certSN"] if "certSN" in item else item["certSn"]
    status = item["certStatus"]
    if isinstance(serial, bool) or not isinstance(serial, str | int) or type(status) is not int:
        raise TypeError("certSN must be a number or its digits, certStatus a number")
    return Certificate(
        serial=int(serial),
        status=Status(status),
        revoker_reason=str(item.get("revokerReason") or ""),
    )
