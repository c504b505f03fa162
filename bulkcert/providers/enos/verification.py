"""Does the state that `list` shows agree with what a run says of an operation?"""

from __future__ import annotations

from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.base import RecordedResult

_DONE = (Outcome.SUCCEEDED, Outcome.ALREADY_DONE)


def difference(claim: RecordedResult, listed: Any) -> str:
    """Tell how they differ, or "" when they agree.

    Args:
        claim: what the run says.
        listed: result of the action `list` for the device.
    """
    states = {item["certSN"]: item["status"] for item in listed["certificates"]}
    old = claim.fields.get("certSn")
    if old is None:
        return ""  # nothing of this device matched the selection
    is_old = states.get(str(old), "not there")
    if claim.action == "revoke":
        return _revoked(claim.outcome, is_old)
    return _renewed(claim, states, is_old)


def _revoked(outcome: Outcome, is_now: str) -> str:
    if outcome in _DONE and is_now != "revoked":
        return f"the certificate is {is_now}, not revoked"
    if outcome not in _DONE and is_now == "revoked":
        return "the certificate is revoked"
    if outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificate is {is_now}"
    return ""


def _renewed(claim: RecordedResult, states: dict[str, str], is_old: str) -> str:
    if claim.outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificates are {states}"
    if claim.outcome not in _DONE:
        # a renewal that failed must have kept it, unless that is why it failed
        was_revoked = (claim.result or {}).get("refusal") == "original_revoked"
        return "the old certificate is revoked" if is_old == "revoked" and not was_revoked else ""
    new = claim.result["certSN"]
    if (is_new := states.get(new, "not there")) != "valid":
        return f"the new certificate {new} is {is_new}"
    if claim.action == "rotate" and is_old != "revoked":
        return f"the old certificate is still {is_old}"
    return ""
