"""Compares what `get` shows with what a run recorded about an operation. Pure."""

from __future__ import annotations

from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.apsaramq.certificates import ACTIVE, INACTIVE
from bulkcert.providers.base import RecordedResult, Revoked

UNREGISTERED = "not registered"
WANTED = {"inactivate": INACTIVE, "activate": ACTIVE, "delete": UNREGISTERED}
"""The status that each action is to bring about."""


def difference(recorded: RecordedResult, read: Any) -> str:
    """Say how the two differ.

    Args:
        recorded: what the run recorded about the operation.
        read: result of the action `get`, or None if there is no such certificate.

    Returns:
        The difference as a phrase; empty if they agree.
    """
    is_now = read["certificates"][0]["Status"] if read else UNREGISTERED
    wanted = WANTED[recorded.action]
    if recorded.outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificate is {is_now}"
    if recorded.outcome is Outcome.FAILED:
        return f"the certificate is {is_now}" if is_now == wanted else ""
    return "" if is_now == wanted else f"the certificate is {is_now}, and should be {wanted}"


def revoked(recorded: RecordedResult, read: Any) -> Revoked | None:
    """The certificate that an operation locked out or removed; its CA may have revoked it, too."""
    if recorded.outcome not in (Outcome.SUCCEEDED, Outcome.ALREADY_DONE):
        return None
    content = read["certificates"][0]["DeviceContent"] if read else ""
    pem = content.replace(" DEVICECERTIFICATE-", " CERTIFICATE-")  # the vendor's own label
    return Revoked(str(recorded.fields["DeviceSn"]), pem=pem)


def seen(read: Any) -> list[dict[str, Any]]:
    """The certificate in short: its numbers and its status; nothing if it is not registered."""
    certificates = read["certificates"] if read else []
    return [{name: item[name] for name in ("CaSn", "DeviceSn", "Status")} for item in certificates]
