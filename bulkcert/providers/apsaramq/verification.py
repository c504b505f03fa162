"""Does the state that `get` shows agree with what a run says of an operation?"""

from __future__ import annotations

from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.apsaramq.certificates import ACTIVE, INACTIVE
from bulkcert.providers.base import RecordedResult

UNREGISTERED = "not registered"
WANTED = {"inactivate": INACTIVE, "activate": ACTIVE, "delete": UNREGISTERED}


def difference(claim: RecordedResult, read: Any) -> str:
    """Tell how they differ, or "" when they agree.

    Args:
        claim: what the run says.
        read: result of the action `get`, or None where there is no such certificate.
    """
    is_now = read["certificates"][0]["Status"] if read else UNREGISTERED
    wanted = WANTED[claim.action]
    if claim.outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificate is {is_now}"
    if claim.outcome is Outcome.FAILED:
        return f"the certificate is {is_now}" if is_now == wanted else ""
    return "" if is_now == wanted else f"the certificate is {is_now}, and should be {wanted}"
