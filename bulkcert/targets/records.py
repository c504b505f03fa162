"""What `bulkcert results` writes, as targets of the next job. Pure.

In: a header, or an object, of a file that a run wrote: results in CSV or JSON, or `manifest.csv`.
Out: rows under the names of fields. Such a file is read by these names whatever [columns] says,
because [columns] describes the file that the run began with. Must never choose between the
certificate that a renewal issued and the one that it replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bulkcert.errors import TargetsError
from bulkcert.providers.base import Action, Provider

SERIAL, REPLACED = "certSn", "replaces"
"""After a renewal, the serial number of the new certificate and that of the old one."""

_SPELLINGS = {"certSN": SERIAL}
"""How earlier versions, and lists of EnOS, spell a field."""

_CERTIFICATE = frozenset({SERIAL, "DeviceSn"})
"""The fields that say which certificate of a device, or of a CA, is meant."""

OUTCOME_COLUMNS = ("outcome", "code", "message", "request_id", "attempts", "finished_at")
CERTIFICATE_COLUMNS = (SERIAL, REPLACED, "certificate_file", "key_file", "expires_at")
"""Columns of a new certificate: its number, and the number of the one that it replaces."""

SERIALS = (SERIAL, REPLACED)
MANIFEST_DETAILS = (
    *("subject", "fingerprint_sha256", "public_key_sha256", "valid_from", "expires_at"),
    *("certificate_file", "leaf_file", "chain_file", "fullchain_file", "key_file", "p12_file"),
)
"""Columns of `manifest.csv`, after those that say what the certificate is for."""

_OWN = {"line", *OUTCOME_COLUMNS, *CERTIFICATE_COLUMNS, *MANIFEST_DETAILS, "result"}
_PREFIX = "target."
"""Before the name of a column of the target file that has the name of a column of ours."""

_DONE = ("succeeded", "already_done")


def is_of_a_run(names: Collection[str]) -> bool:
    """Whether a header, or the keys of an object, is one that a run writes."""
    return {"line", "outcome"} <= set(names) and (
        "finished_at" in names or "certificate_file" in names
    )


def own_columns(provider: Provider) -> frozenset[str]:
    """Return the columns that a run writes itself, for any action of a provider."""
    items = (spelled(n) for action in provider.actions.values() for n in action.result_columns)
    return frozenset(_OWN).union(items)


def headers_of(names: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Return the headers under which a run writes columns of its target file, by column.

    Args:
        names: the columns.
        own: the columns that runs write themselves, whatever the action: the next job can't know
            which action it was.
    """
    return {name: f"{_PREFIX}{name}" if name in own else name for name in names}


def column_of(header: str, own: Collection[str]) -> str:
    """Return the column of the first target file that a header of a run stands for.

    Returns:
        An empty text if it is a column of the run itself.
    """
    if header in own:
        return ""
    name = header.removeprefix(_PREFIX)
    return name if name in own else header


def spelled(name: str) -> str:
    """Return the name of the field that a column of a run contains."""
    return _SPELLINGS.get(name, name)


def chosen(columns: Mapping[str, str]) -> dict[str, str]:
    """Return what [columns] may say of a file that a run wrote: which certificate is meant."""
    return {
        field: header
        for field, header in columns.items()
        if field == SERIAL and header in (SERIAL, REPLACED)
    }


def refuse_ambiguity(
    name: str, action: Action, columns: Mapping[str, str], names: Collection[str]
) -> None:
    """Refuse a file with both certificates of a renewal, unless [columns] says which is meant.

    Args:
        name: of the file, for messages.
        action: refused only if it is on a certificate.
        columns: the [columns] of the job.
        names: the header, or the keys of an object.

    Raises:
        TargetsError: it is not known which certificate is meant.
    """
    if SERIAL not in certificate_fields(action):
        return
    if {SERIAL, REPLACED} <= set(names) and columns.get(SERIAL) not in names:
        raise TargetsError(
            f"{name}: {SERIAL} is the certificate that a renewal issued, and {REPLACED} the one"
            f" before it; which one should `{action.name}` act on?",
            f'Say it in the job file: [columns] {SERIAL} = "{SERIAL}" for the new one,'
            f' or [columns] {SERIAL} = "{REPLACED}" for the old one.',
        )


def certificate_fields(action: Action) -> frozenset[str]:
    """Return the fields with which a target of this action names its certificate."""
    needed = (*action.required, *(field for way in action.identifiers for field in way))
    return _CERTIFICATE.intersection(field.name for field in needed)


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a record of `results.jsonl` stands for: one for each certificate.

    A record without certificates is one row, the target's own fields.
    """
    target = dict(record["target"])
    result = record.get("result")
    if not isinstance(result, dict):
        return [target]
    certificates = result.get("certificates")
    if isinstance(certificates, list):
        items = [item for item in certificates if isinstance(item, dict)]
        return [target | _spelled_item(item) for item in items] or [target]
    new = _spelled_item(result)
    return [target | {n: new[n] for n in (SERIAL, REPLACED)}] if REPLACED in new else [target]


def has_target(record: Mapping[str, Any]) -> bool:
    """Whether an object is a record of `results.jsonl`."""
    return is_of_a_run(record) and isinstance(record.get("target"), dict)


def is_uncertain(row: Mapping[str, Any], columns: Mapping[str, str], outcome: object) -> bool:
    """Whether a row from a record may have a new certificate in place of the one it shows.

    A renewal that did not succeed leaves only the target, with the old certificate.
    """
    return columns.get(SERIAL) == SERIAL and REPLACED not in row and outcome not in _DONE


def fault_without_certificate(outcome: object) -> str:
    """Return why a row that names no certificate is refused.

    Returns:
        An empty text if the row is left out, because its device is known to have none.
    """
    if outcome in _DONE:
        return ""
    return (
        f"has the outcome {outcome if isinstance(outcome, str) else 'null'}, so it is not known"
        " which certificate is meant; finish that run first, or leave the row out"
    )


def _spelled_item(item: Mapping[str, Any]) -> dict[str, Any]:
    return {spelled(name): value for name, value in item.items()}
