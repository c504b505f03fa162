"""Parse the sections of a job file by their tables of keys.

In: the document without credentials. Out: the parsed values of the good keys; everything else goes
to `Faults`. Rules that concern several keys are in `bulkcert.jobfile.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from bulkcert.jobfile.faults import Faults
from bulkcert.jobfile.names import fold, place, suggestion
from bulkcert.jobfile.sections import TOP, Table
from bulkcert.providers.base import Key
from bulkcert.values import kind_of, shown

Tables = Mapping[str, Table | None]
"""Section name to its keys; None while they are not known, see `sections`."""

LARGEST_FILE = 2**20
"""Bytes of a file that a value may name."""

_Named = TypeVar("_Named")


def read_section(
    section: str, document: dict[str, Any], tables: Tables, faults: Faults, folder: Path
) -> dict[str, Any]:
    """Parse one section; one that is missing has no values. Paths are relative to the folder."""
    values = document.get(section, {})
    if not isinstance(values, dict):
        faults.add(section, f"must be a section, [{section}], not {kind_of(values)}")
        return {}
    return read_keys(section, values, tables[section] or {}, faults, folder=folder)


def read_keys(
    section: str,
    values: dict[str, Any],
    table: Table,
    faults: Faults,
    required: Mapping[str, str] = MappingProxyType({}),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Parse the values of the keys in a table.

    Args:
        section: name of the section; empty for the keys before the first one.
        values: what the section contains.
        table: its keys.
        faults: gets what is wrong.
        required: the keys that must be there, each with the fault if it is missing.
        folder: what paths are relative to.

    Returns:
        The parsed values, without the bad ones.
    """
    parsed = {}
    for name, key in table.items():
        if name in values:
            try:
                parsed[name] = _parsed(key, values[name], folder)
            except ValueError as error:
                faults.add_error(place(section, name), error)
        elif name in required:
            faults.add(place(section, name), required[name])
    return parsed


def _parsed(key: Key, value: object, folder: Path | None) -> Any:
    """The value of a key, or what is in the file that the value names."""
    try:
        return key.parse(value)
    except ValueError as error:
        if key.from_file is None or folder is None or not isinstance(value, str) or not value:
            raise
        path, reason = folder / value, str(error)
    if "-----BEGIN" in value:
        raise ValueError(reason)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        problem = getattr(error, "strerror", None) or "it is not a path"
        raise ValueError(f"{reason}; {shown(value)} can't be read: {problem}") from None
    if len(content) > LARGEST_FILE:
        raise ValueError(f"names {shown(value)}, which is larger than 1 MiB")
    try:
        return key.from_file(content)
    except ValueError as error:
        raise ValueError(f"names {shown(value)}, which {error}") from None


def choose(
    key: str, top: dict[str, Any], known: Mapping[str, _Named], faults: Faults
) -> _Named | None:
    """Return what the value of a key names, or None if nothing has that name."""
    if key not in top:
        return None  # missing or not text, which is reported already
    name: str = top[key]
    if name not in known:
        faults.add(key, f"{shown(name)} is not known; {suggestion(name, known)}")
    return known.get(name)


def refuse_unknown(document: dict[str, Any], tables: Tables, faults: Faults) -> None:
    """Report the sections and keys that no table has."""
    for key, value in document.items():
        if key in tables:
            table = tables[key]
            if table is not None and isinstance(value, dict):
                for inner in value:
                    if inner not in table:
                        faults.add(place(key, inner), _unknown(inner, table, tables))
        elif key not in TOP:
            faults.add(place("", key), _unknown(key, {**TOP, **tables}, tables))


def _unknown(key: str, known: Mapping[str, object], tables: Tables) -> str:
    homes = [f"[{section}]" for section, table in tables.items() if table and key in table]
    if homes and fold(key) not in map(fold, known):
        return f"does not belong here; move it under {' or '.join(homes)}"
    if key in TOP:
        return "does not belong here; move it to the top, before the first section"
    if not known:
        return "does not apply to this action"
    return f"is not known; {suggestion(key, known)}"
