"""Compares what `get` shows with what a run recorded about an operation. Pure."""

from __future__ import annotations

from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.base import RecordedResult


def difference(recorded: RecordedResult, read: Any) -> str:
    """Say how the two differ.

    Args:
        recorded: what the run recorded about the operation.
        read: result of the action `get`, or None if there is no such certificate.

    Returns:
        The difference as a phrase; empty if they agree.
    """
    status = read["certificates"][0]["status"] if read else "not there"
    done = recorded.outcome in (Outcome.SUCCEEDED, Outcome.ALREADY_DONE)
    if recorded.outcome is Outcome.UNKNOWN:
        return f"was unknown; the certificate is {status}"
    return f"the certificate is {status}" if done != (status == "suspended") else ""
