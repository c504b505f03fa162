"""Compares what `list` shows with what a run recorded about an operation. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bulkcert.model import Outcome
from bulkcert.providers.base import RecordedResult, Revoked
from bulkcert.providers.enos.advice import STILL_VALID

_LIST = re.compile(r"(https?://[^?#]*/enos/CA/)crl((?:/[A-Z]+)?)")

_DONE = (Outcome.SUCCEEDED, Outcome.ALREADY_DONE)


def difference(recorded: RecordedResult, listed: Any) -> str:
    """Say how the two differ.

    Args:
        recorded: what the run recorded about the operation.
        listed: result of the action `list` for the device.

    Returns:
        The difference as a phrase; empty if they agree.
    """
    certificates = listed["certificates"]
    states = _states(certificates)
    old = recorded.fields.get("certSn")
    if old is None:
        return ""  # no certificate of this device matched the selection
    is_old = states.get(str(old), "not there")
    if recorded.action == "revoke":
        return _revoked(recorded.outcome, is_old)
    return _renewed(recorded, states, is_old) or _surplus(recorded, certificates)


def remarks_on(recorded: RecordedResult, listed: Any) -> list[str]:
    """Say what is worth knowing about the device now.

    Args:
        recorded, listed: see `difference`.

    Returns:
        Names of `bulkcert.providers.enos.advice.REMARKS`.
    """
    old = recorded.fields.get("certSn")
    if recorded.action != "revoke" or recorded.outcome not in _DONE or old is None:
        return []
    others = [item for item in listed["certificates"] if item["certSN"] != str(old)]
    return [STILL_VALID] if any(item["status"] == "valid" for item in others) else []


def seen(listed: Any) -> list[dict[str, Any]]:
    """The certificates of a device in short: number and status of each."""
    return [{name: item[name] for name in ("certSN", "status")} for item in listed["certificates"]]


def revoked(recorded: RecordedResult, listed: Any) -> Revoked | None:
    """The certificate that an operation revoked, with what the list shows of it."""
    old = recorded.fields.get("certSn")
    if old is None or recorded.outcome not in _DONE:
        return None
    items: list[Mapping[str, Any]] = listed["certificates"]
    shown = next((item for item in items if item["certSN"] == str(old)), {})
    return Revoked(
        int(old),
        shown.get("issuer", ""),
        shown.get("cert", ""),
        expires_at_s=_unix_s(shown.get("expireDate")),
    )


def ca_of_list(url: str) -> str:
    """Where EnOS has the certificate of a CA: beside its revocation list."""
    found = _LIST.fullmatch(url)
    return f"{found[1]}cacert{found[2]}" if found else ""


def _unix_s(date: object) -> float | None:
    """A date in a result as Unix time; None if it is not one."""
    try:
        at = datetime.fromisoformat(str(date))
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo else None


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


def _surplus(recorded: RecordedResult, listed: Sequence[Mapping[str, Any]]) -> str:
    """Name valid certificates that a renewal has issued besides the one that counts: those that the
    run has seen, and those that have the key which was made for this renewal alone."""
    if recorded.outcome is not Outcome.SUCCEEDED:
        return ""
    valid = {item["certSN"]: item for item in listed if item["status"] == "valid"}
    surplus = valid.keys() & set(recorded.result.get("surplus", ()))
    new = recorded.result["certSN"]
    if "key_file" in recorded.result and (key := _key(valid[new])):
        surplus |= {serial for serial, item in valid.items() if _key(item) == key} - {new}
    if not surplus:
        return ""
    return f"surplus, and still valid: {', '.join(sorted(surplus))}"


def _key(item: Mapping[str, Any]) -> bytes | None:
    from bulkcert.providers.enos.issuance import public_key_of  # X.509 takes long to load

    return public_key_of(item["cert"]) if item.get("cert") else None
