"""What `verify` makes of a certificate that a job has locked out, deleted or activated."""

from __future__ import annotations

import pytest

from bulkcert.model import Outcome
from bulkcert.providers.apsaramq.verification import difference, revoked, seen
from bulkcert.providers.base import RecordedResult, Revoked

CONTENT = "-----BEGIN DEVICECERTIFICATE-----\nAA==\n-----END DEVICECERTIFICATE-----"
READ = {
    "certificates": [
        {"CaSn": "07", "DeviceSn": "00F2", "Status": "inactive", "DeviceContent": CONTENT}
    ]
}


def recorded(action: str, outcome: Outcome) -> RecordedResult:
    return RecordedResult(action, {"CaSn": "07", "DeviceSn": "00F2"}, outcome, None)


@pytest.mark.parametrize("outcome", Outcome)
def test_a_certificate_that_was_locked_out_is_to_be_in_the_list_of_its_ca(outcome: Outcome) -> None:
    done = outcome in (Outcome.SUCCEEDED, Outcome.ALREADY_DONE)
    standard = CONTENT.replace("DEVICECERTIFICATE", "CERTIFICATE")
    expected = Revoked("00F2", pem=standard) if done else None
    assert revoked(recorded("inactivate", outcome), READ) == expected
    expected = Revoked("00F2") if done else None  # nothing is left of what was deleted
    assert revoked(recorded("delete", outcome), None) == expected


def test_what_was_seen_is_short() -> None:
    assert seen(READ) == [{"CaSn": "07", "DeviceSn": "00F2", "Status": "inactive"}]
    assert seen(None) == []


@pytest.mark.parametrize(
    ("action", "outcome", "read", "reported"),
    [
        ("inactivate", Outcome.SUCCEEDED, READ, ""),
        ("activate", Outcome.SUCCEEDED, READ, "the certificate is inactive, and should be active"),
        ("delete", Outcome.ALREADY_DONE, None, ""),
        ("inactivate", Outcome.FAILED, READ, "the certificate is inactive"),
        ("activate", Outcome.FAILED, READ, ""),
        ("delete", Outcome.UNKNOWN, None, "was unknown; the certificate is not registered"),
    ],
)
def test_differences_are_named(action: str, outcome: Outcome, read: object, reported: str) -> None:
    assert difference(recorded(action, outcome), read) == reported
