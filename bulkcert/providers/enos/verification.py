"""Compares what `list` shows with what a run recorded about an operation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.base import RecordedResult
from bulkcert.providers.enos.advice import STILL_VALID

_DONE = (Outcome.SUCCEEDED, Outcome.ALREADY_DONE)


def difference(recorded: RecordedResult, listed: Any) -> str:
    """Say how the two differ.

    Args:
        recorded: what the run recorded about the operation.
        listed: result of the action `list` for the device.

    Returns:
        The difference as a phrase; empty if they agree.
    """
    states = _states(listed["certificates"])
    old = recorded.fields.get("certSn")
    if old is None:
        return ""  # no certificate of this device matched the selection
    is_old = states.get(str(old), "not there")
    if recorded.action == "revoke":
        return _revoked(recorded.outcome, is_old)
    return _renewed(recorded, states, is_old)


def remarks_on(recorded: RecordedResult, listed: Any) -> list[str]:
    """Say what is worth knowing about the device now.

    Args:
        recorded, listed: see `difference`.

    Returns:
        Names of `bulkcert.providers.enos.advice.REMARKS`.
    """
    if recorded.action != "revoke" or recorded.outcome not in _DONE:
        return []
    revoked = str(recorded.fields.get("certSn"))
    others = [item for item in listed["certificates"] if item["certSN"] != revoked]
    return [STILL_VALID] if any(item["status"] == "valid" for item in others) else []


def _states(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The status of each certificate; all of them if it is listed more than once."""
    states: dict[str, str] = {}
    for item in items:
        serial, status = item["certSN"], item["status"]
        before = states.get(serial)
        states[serial] = status if before in (None, status) else f"{before} and {status}"
    return states


def _revoked(outcome: Outcome, is_now: str) -> str:
    if outcome in _DONE and is_now != "revoked":
        return f"the certificate is {is_now}, not revoked"
    if outcome not in _DONE and is_now == "revoked":
        return "the certificate is revoked"
    if outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificate is {is_now}"
    return ""


def _renewed(recorded: RecordedResult, states: dict[str, str], is_old: str) -> str:
    if recorded.outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificates are {states}"
    if recorded.outcome not in _DONE:
        # A failed renewal leaves the old certificate valid, unless it failed because that was
        # revoked already.
        was_revoked = (recorded.result or {}).get("refusal") == "original_revoked"
        return "the old certificate is revoked" if is_old == "revoked" and not was_revoked else ""
    new = recorded.result["certSN"]
    if (is_new := states.get(new, "not there")) != "valid":
        return f"the new certificate {new} is {is_new}"
    if recorded.action == "rotate" and is_old != "revoked":
        return f"the old certificate is still {is_old}"
    return ""
