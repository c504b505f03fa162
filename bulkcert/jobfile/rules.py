"""Rules of a job file that concern several keys. Everything that breaks one goes to `Faults`."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

from bulkcert.jobfile.faults import Faults
from bulkcert.jobfile.names import place
from bulkcert.jobfile.sections import REQUIRED
from bulkcert.providers.base import Action, Provider
from bulkcert.values import shown


def require_connection(provider: Provider, given: object, faults: Faults) -> None:
    """Require the provider's own keys, and either an endpoint or, where there is one, a region."""
    keys = given.keys() if isinstance(given, dict) else set()
    takes_region = "region" in {key.name for key in provider.connection_optional}
    if "endpoint" not in keys and not (takes_region and "region" in keys):
        alternative = ", and so is connection.region; one of them is needed" if takes_region else ""
        faults.add("connection.endpoint", "is missing" + alternative)
    if takes_region and keys >= {"endpoint", "region"}:
        faults.add("connection.endpoint", "and connection.region exclude each other; keep one")
    endpoint = given.get("endpoint") if isinstance(given, dict) else None
    if not provider.path and isinstance(endpoint, str) and _path(endpoint).strip("/ "):
        faults.add("connection.endpoint", f"must not have a path: {provider.name} has none")
    for key in provider.connection_required:
        if key.name not in keys:
            faults.add(place("connection", key.name), "is missing")


def _path(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).path
    except ValueError:
        return ""  # the parser reports it


def refuse_shared_headers(columns: Mapping[str, str], faults: Faults) -> None:
    """Refuse two fields under the same header."""
    fields_by_header: dict[str, list[str]] = {}
    for name, header in columns.items():
        fields_by_header.setdefault(header, []).append(name)
    for header, names in fields_by_header.items():
        if len(names) > 1:
            faults.add("columns", f"gives {' and '.join(names)} the same header {shown(header)}")


def refuse_empty_selection(
    document: Mapping[str, Any], action: Action | None, faults: Faults
) -> None:
    """Refuse a `[select]` without conditions."""
    if "select" in document and action and action.select and not document["select"]:
        faults.add("select", "names no condition, so it would select every certificate")


def unsafe_selection(given: Mapping[str, Any], action: Action, now_s: float) -> tuple[str, ...]:
    """Say why a `[select]` could hit what replaces the certificates that are meant.

    Args:
        given: the parsed conditions.
        action: the action.
        now_s: Unix time in seconds.

    Returns:
        The reasons, as sentences without a full stop; none if it is safe.
    """
    reasons = []
    for field in action.select:
        if field.past and given.get(field.name, 0) > now_s * 1000:
            when = field.show(given[field.name])
            reasons.append(
                f"select.{field.name} is in the future ({when}): it would select every certificate"
                " issued until then"
            )
    if given and action.select_needs and not any(name in given for name in action.select_needs):
        names = " or ".join(action.select_needs)
        reasons.append(
            f"select needs {names} for the action {action.name}: repeated without it, the job would"
            " hit the certificates that replace the ones it is meant for"
        )
    return tuple(reasons)


def refuse_excluded(document: dict[str, Any], action: Action | None, faults: Faults) -> None:
    """Report and remove what `[keys]` takes the place of."""
    for section in ("parameters", "columns"):
        given = document.get(section)
        if not action or not isinstance(given, dict):
            continue
        for name in action.excluded:
            if name in given:
                del given[name]
                faults.add(
                    place(section, name),
                    "can't be used together with [keys], which makes a new key for each device;"
                    " keep one of the two",
                )


def refuse_files_without_keys(document: Mapping[str, Any], faults: Faults) -> None:
    """Refuse PKCS#12 files without keys to put into them."""
    given = document.get("certificates")
    if isinstance(given, dict) and "pkcs12_password_env" in given and "keys" not in document:
        faults.add(
            "certificates.pkcs12_password_env",
            "needs [keys]: only for a key that the run makes can there be a PKCS#12 file",
        )


def refuse_bad_keys(
    document: Mapping[str, Any], subject: str, action: Action | None, faults: Faults
) -> None:
    """Refuse `[keys]` without a kind of key, and `{field}`s that the targets do not have."""
    given = document.get("keys")
    if not action or not action.makes_keys or not isinstance(given, dict):
        return
    if "generate" not in given:
        faults.add("keys.generate", REQUIRED["keys.generate"])
    try:
        names = {name for _, name, _, _ in Formatter().parse(subject) if name is not None}
    except ValueError as error:
        faults.add("keys.subject", f"is not a valid template: {error}")
        return
    for name in sorted(names - set(action.fields)):
        faults.add("keys.subject", f"contains {{{name}}}, which is not a field of the targets")
