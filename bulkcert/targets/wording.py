"""Fields and headers, as messages mention them. Pure.

In: names. Out: short phrases. Must never return an unquoted or unbounded header of a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bulkcert.providers.base import Action, Field
from bulkcert.values import shown


def identifiers_of(action: Action) -> list[tuple[str, ...]]:
    """The alternative ways to name a device, each as the names of its fields."""
    return [tuple(field.name for field in way) for way in action.identifiers]


def no_default(field: Field) -> str:
    """Say that the job has no default for a field that could have one."""
    return f", and the job has no connection.{field.option}" if field.option else ""


def either(ways: list[tuple[str, ...]]) -> str:
    """Write alternatives: "assetId, or productKey and deviceKey"."""
    return ", or ".join(joined(way) for way in ways)


def joined(names: Sequence[str]) -> str:
    """Write an enumeration: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Quote the first `most` headers, and say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def toml_line(field: str, header: str) -> str:
    """Write the line for [columns] that maps a field to a header."""
    # a JSON string is also a TOML string, unless characters beyond 16 bits are escaped
    return f"{field} = {json.dumps(header, ensure_ascii=False)}"
